"""Several `gatehouse gateway` processes on one Redis and one database, to be killed and started again at will.

    with running_fleet(engine_url, *3 * [{"redis": {"url": …}, "plans": {…}}]) as fleet:
        fleet.gateways[0].url
        fleet.gateways[1].kill(); fleet.gateways[1].start()
        fleet.token("alice", plan="service")

Each has a state folder of its own, which outlives its process: its record is there when it comes back.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gatehouse.context import Context
from tests.support import tokens
from tests.support.engines import MODEL, parse_metrics
from tests.support.processes import clean_environment
from tests.support.stack import until

START_SECONDS = 60.0
STOP_SECONDS = 60.0


class FleetGateway:
    """One of them."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.state_dir, self.config_file = folder / "state", folder / "gatehouse.yaml"
        self.output = folder / "output"
        self.process: subprocess.Popen[bytes] | None = None
        self.url = self.admin_url = ""
        self.state_dir.mkdir(parents=True, mode=0o700)
        self.config_file.write_text(json.dumps(config), "utf-8")  # JSON is YAML

    def start(self, *, wait: bool = True) -> None:
        """Start it, and unless told otherwise wait until a request can be served."""
        (self.state_dir / "gateway.json").unlink(missing_ok=True)
        argv = [sys.executable, "-m", "gatehouse", "gateway", "--config", str(self.config_file)]
        argv += ["--state-dir", str(self.state_dir), "--port", "0", "--admin-port", "0"]
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=clean_environment()
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it listens and can serve; its address is known from then on."""
        where = until(self._listening, "the gateway listens", START_SECONDS, alive=self.process)
        self.url, self.admin_url = where["url"], where["admin_url"]
        until(self._ready, "the gateway is ready", START_SECONDS, alive=self.process)

    def _listening(self) -> dict[str, str] | None:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.state_dir / "gateway.json").read_text("utf-8"))
        return None

    def _ready(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(self.url + "/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(STOP_SECONDS)

    def metrics(self) -> dict[str, float]:
        """Its own metrics."""
        with urllib.request.urlopen(self.admin_url + "/metrics", timeout=60) as answer:
            return parse_metrics(answer.read().decode())

    def log_lines(self) -> list[dict[str, Any]]:
        """The requests of its record, without a last line that is only half there."""
        return [line for line in self._record() if "request_id" in line]

    def messages(self) -> list[dict[str, Any]]:
        """What it has said between the requests, likewise."""
        return [line for line in self._record() if "message" in line]

    def _record(self) -> list[dict[str, Any]]:
        file = self.state_dir / "requests.jsonl"
        text = file.read_text("utf-8") if file.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


class Fleet:
    """All of them. They accept each other's tokens."""

    def __init__(self, folder: Path, engine_url: str, sections: Sequence[Mapping[str, Any]]) -> None:
        secret = folder / "jwt.key"
        secret.write_bytes(os.urandom(32).hex().encode())
        secret.chmod(0o600)
        self.database = folder / "gatehouse.db"
        config = {
            "engine": {"kind": "external", "url": engine_url, "served_model_name": MODEL},
            "logging": {"stdout": False},
            "auth": {"secret_file": str(secret)},
            "database": {"url": f"sqlite:///{self.database}"},
        }
        self.gateways = [FleetGateway(folder / str(number), {**config, **own}) for number, own in enumerate(sections)]

    def token(self, subject: str, **how: Any) -> str:
        """A token that every gateway accepts."""
        first = self.gateways[0]
        config = Context(config_file=first.config_file, chosen_state_dir=first.state_dir).gateway_config()
        return tokens.token(config, subject, **how)

    def log_lines(self) -> list[dict[str, Any]]:
        """The records of all."""
        return [line for gateway in self.gateways for line in gateway.log_lines()]


@contextlib.contextmanager
def running_fleet(engine_url: str, *sections: Mapping[str, Any]) -> Iterator[Fleet]:
    """Run one gateway for each of these sections of gatehouse.yaml."""
    with tempfile.TemporaryDirectory(prefix="gatehouse-fleet-", dir="/tmp") as folder:
        fleet = Fleet(Path(folder), engine_url, sections)
        try:
            for gateway in fleet.gateways:
                gateway.start(wait=False)
            for gateway in fleet.gateways:
                gateway.wait_ready()
            yield fleet
        except BaseException:
            for gateway in fleet.gateways:
                print(gateway.output.read_text("utf-8", "replace")[-2000:], file=sys.stderr)
            raise
        finally:
            for gateway in fleet.gateways:
                gateway.kill()
