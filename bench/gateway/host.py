"""The host that is measured on: processes and their cores, the CPU and memory that a tree of processes takes.

CPU is what the kernel's scheduler counted for each thread (`/proc/PID/task/*/schedstat`, nanoseconds): it does not
depend on what else the machine does, as wall clock does, and is exact where `/proc/PID/stat` counts ticks of 10 ms.
"""

import contextlib
import datetime as dt
import json
import os
import platform
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

import launcher.host

SOURCES = Path(__file__).parent
DEADLINE = 60.0
PAGE = os.sysconf("SC_PAGE_SIZE")


def cores() -> tuple[set[int], set[int]]:
    """The core for what is measured, and those for everything else; the same where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return {available[0]}, set(available[1:]) or {available[0]}


def build(folder: Path) -> None:
    """Compile the mock engine and the load generator into `folder`."""
    for name in ("engine", "load"):
        source = SOURCES / f"{name}.c"
        subprocess.run(["cc", "-O2", "-Wall", "-Werror", str(source), "-o", str(folder / name)], check=True)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    return launcher.host.free_port("127.0.0.1")


@contextlib.contextmanager
def running(argv: list[str], log: Path, *, on: set[int], **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process on the cores `on`, its output in a file; ended, with TERM and then KILL, when the context is left."""
    with log.open("ab") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **how)
    os.sched_setaffinity(process.pid, on)
    try:
        yield process
    except RuntimeError as error:
        error.add_note(f"{log}:\n{log.read_text('utf-8', 'replace')[-2000:]}")
        raise
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        process.send_signal(signal.SIGCONT)  # it may have been stopped
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            for each in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            process.kill()
            process.wait()


def pin(pids: list[int], on: set[int]) -> None:
    """Move every thread of these processes to the cores `on`."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), on)


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def cpu(pids: list[int]) -> float:
    """Microseconds of CPU that the threads of these processes have taken so far."""
    return (
        sum(
            int(file.read_text("ascii").split()[0])
            for pid in pids
            for file in Path(f"/proc/{pid}/task").glob("*/schedstat")
        )
        / 1000
    )


def memory(pids: list[int]) -> float:
    """Their resident memory, in MB of 2**20 bytes; what they share counts for each."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) for pid in pids) * PAGE / 2**20


def descriptors(pids: list[int]) -> int:
    """Their open file descriptors."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def get(url: str) -> bytes:
    """The body behind a URL."""
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
        return bytes(answer.read())


def until(what: str, condition: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until `condition` holds; errors of connections mean that it does not yet."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{what}: the process ended with {process.returncode}")
        with contextlib.suppress(OSError, urllib.error.URLError):
            if condition():
                return
        time.sleep(0.01)
    raise RuntimeError(f"{what}: not within {DEADLINE:g} s")


def describe() -> dict[str, Any]:
    """Date (UTC), machine, its load before anything is measured, and versions, for the file of results."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
              if line.startswith("model name")]  # fmt: skip
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M"),
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "revision": revision(SOURCES),
        **{name: version(name) for name in ("aiohttp", "uvloop", "httptools", "msgspec")},
    }


def write(file: Path, content: dict[str, Any]) -> None:
    """Keep results as JSON."""
    file.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def interpreter(python: str) -> str:
    """What it says that it is, such as `Python 3.11.7`."""
    return subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def revision(checkout: Path) -> str:
    """Which commit a checkout is at."""
    argv = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


def installed(program: str) -> str:
    """The path of a program. Raises FileNotFoundError."""
    for folder in (None, "/usr/sbin:/usr/local/sbin"):
        if found := shutil.which(program, path=folder):
            return found
    raise FileNotFoundError(f"{program} is not installed")
