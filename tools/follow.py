r"""Follow docs/install.md word by word in a clean root with a systemd of its own: every block of commands, in order.

    debootstrap --variant=minbase --components=main,universe \\
      --include=ca-certificates,python3,systemd,systemd-sysv,dbus noble ROOT
    tools/follow.py ROOT

Needs root, systemd-nspawn and Linux; ROOT is changed and can be used once. Blocks up to the services have this
machine's network, for the downloads; then the root is booted with a network of its own, so that neither ports nor the
firewall are this machine's. What cannot be had there is marked in the guide by `<!-- needs: … -->` and left out, with a
word; in the place of the GPUs stands the simulated engine. `--bind PATH` shows a file or folder of this machine, as
a package mirror; PIP_* and SSL_* variables pass. Exit code 0: every block that was run ended with 0.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs/install.md"
HAD = {"systemd"}  # what the booted root has of what blocks need
BOOTED_FROM = "## 5. The services"
SIMULATED = "GATEHOUSE_ENGINE__KIND=simulated\n"
_BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]+) -->\n)?```sh\n(?P<commands>.*?)```", re.DOTALL)


class Block(NamedTuple):
    """Commands that stand together, under which heading, and what is said of them."""

    heading: str
    mark: str
    commands: str

    @property
    def missing(self) -> str | None:
        """What it needs and cannot have."""
        needed = self.mark.removeprefix("needs: ") if self.mark.startswith("needs: ") else ""
        return needed if needed and needed not in HAD else None


def blocks(text: str) -> Iterator[Block]:
    """Every block of the guide, in its order."""
    for found in _BLOCK.finditer(text):
        headings = re.findall(r"^## .+$", text[: found.start()], re.MULTILINE)
        yield Block(headings[-1], found["mark"] or "", found["commands"])


class Machine:
    """The clean root: first a folder, then booted."""

    def __init__(self, root: Path, binds: list[str]) -> None:
        self._root = root
        self._nspawn = ["systemd-nspawn", "-q", "-D", str(root), "--register=no", "--keep-unit"]
        self._nspawn += [f"--bind-ro={path}" for path in binds]
        self._environment = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
        self._environment |= {
            "DEBIAN_FRONTEND": "noninteractive",
            "HOME": "/root",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
        }
        self._booted: subprocess.Popen[bytes] | None = None

    def run(self, commands: str) -> int:
        """Run a block as a shell would that stops at the first error; returns its exit code."""
        script = ["bash", "-euo", "pipefail", "-c", commands]
        if self._booted is None:
            passed = [f"--setenv={name}={value}" for name, value in self._environment.items()]
            return subprocess.call([*self._nspawn, "--pipe", *passed, *script])
        enter = ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "-r", "-w"]
        return subprocess.call([*enter, *script], env=self._environment)

    def boot(self) -> None:
        """Start its systemd, with a network of its own, and wait until it is up."""
        with (self._root.parent / f"{self._root.name}.boot.log").open("wb") as log:
            self._booted = subprocess.Popen([*self._nspawn, "--private-network", "--boot"],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip
        for _ in range(60):
            time.sleep(1)
            if self._children() and self.run("systemctl is-system-running | grep -qE 'running|degraded'") == 0:
                return
        raise SystemExit("the root does not boot; its systemd's words are in its .boot.log")

    def stop(self) -> None:
        """Power it off."""
        if self._booted is not None:
            self.run("systemctl poweroff")
            self._booted.wait(120)

    @property
    def _leader(self) -> int:
        return self._children()[0]

    def _children(self) -> list[int]:
        assert self._booted is not None
        pid = self._booted.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main() -> None:
    """Follow the guide."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--bind", action="append", default=[])
    chosen = parser.parse_args()
    machine = Machine(chosen.root.resolve(), chosen.bind)
    source = chosen.root / "opt/gatehouse/source"
    source.mkdir(parents=True)
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(source)], input=archive, check=True)
    began, booted, failed = time.monotonic(), False, 0
    try:
        for block in blocks(GUIDE.read_text("utf-8")):
            if block.heading == BOOTED_FROM and not booted:
                with (chosen.root / "etc/gatehouse/environment").open("a") as file:
                    file.write(SIMULATED)
                machine.boot()
                booted = True
            at = f"{time.monotonic() - began:6.1f} s  {block.heading}"
            if block.missing:
                print(f"{at}: left out, needs {block.missing}", flush=True)
                continue
            print(f"{at}:\n    " + block.commands.strip().replace("\n", "\n    "), flush=True)
            code = machine.run(block.commands)
            if code and not block.mark.startswith("may fail"):
                print(f"        FAILED with {code}", flush=True)
                failed += 1
                break
    finally:
        machine.stop()
    print(f"{time.monotonic() - began:6.1f} s  {'FAILED' if failed else 'followed to its end'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
