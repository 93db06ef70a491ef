"""What the scenarios share: the servers on the host, what the GPUs hold, and the launcher's events."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from gatehouse.bench.client import Target
from gatehouse.context import Context
from gateway.auth.keys import load_keys
from gateway.auth.tokens import issue_token

POLL_SECONDS = 0.1
GATEHOUSE = [sys.executable, "-m", "gatehouse"]
TOKEN_SECONDS = 7200


def gpu_memory() -> list[int]:
    """MiB in use on each GPU; empty where there is no nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return [int(line) for line in subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()]


def alive(processes: Iterable[psutil.Process]) -> list[str]:
    """Names of those that still run."""
    return [p.name() for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


class Watch:
    """Follows the launcher's events, with the time each came."""

    def __init__(self, state_dir: Path) -> None:
        self._socket = str(state_dir / "engine.sock")
        self.events: list[tuple[float, dict[str, Any]]] = []
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(self._socket)
                    connection.sendall(b"GET /events HTTP/1.1\r\nHost: launcher\r\n\r\n")
                    for line in connection.makefile("rb"):
                        if line.startswith(b"data:"):
                            self.events.append((time.monotonic(), json.loads(line[5:])))
            except OSError:
                time.sleep(POLL_SECONDS)

    @property
    def now(self) -> dict[str, Any]:
        """The newest status."""
        return self.events[-1][1] if self.events else {"state": "unknown"}

    def until(self, state: str, seconds: float, *, after: float = 0.0, other: bool = False) -> float:
        """Wait for a state (`other`: any but it) that was entered after a moment; returns when."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for at, status in self.events:
                if at > after and (status["state"] == state) != other:
                    return at
            time.sleep(POLL_SECONDS)
        raise TimeoutError(f"{'not ' if other else ''}{state} within {seconds} s; now {self.now}")


@dataclass(frozen=True)
class Server:
    """A process that runs on after this program, in a session of its own; `folder` has its pid and output."""

    folder: Path

    @classmethod
    def start(cls, folder: Path, argv: list[str], **environment: str) -> Server:
        """Start it; its output goes into FOLDER/output."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "output").open("ab") as out:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                env={**os.environ, **environment},
            )  # fmt: skip
        (folder / "pid").write_text(str(process.pid))
        return cls(folder)

    @property
    def processes(self) -> list[psutil.Process]:
        """It and what it started."""
        with contextlib.suppress(psutil.NoSuchProcess, OSError):
            first = psutil.Process(int((self.folder / "pid").read_text()))
            return [first, *first.children(recursive=True)]
        return []

    def stop(self, number: int = signal.SIGTERM, seconds: float = 120.0) -> list[str]:
        """End it; returns what is left of it then."""
        tree = self.processes
        if tree:
            tree[0].send_signal(number)
            psutil.wait_procs(tree, seconds)
        return alive(tree)


@dataclass(frozen=True)
class Gatehouse:
    """A gateway, or `gatehouse up`, with a configuration of its own."""

    server: Server

    @classmethod
    def start(cls, folder: Path, command: str, config: dict[str, Any]) -> Gatehouse:
        """Run `gatehouse COMMAND` with this configuration."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gatehouse.yaml").write_text(json.dumps(config))  # JSON is YAML
        options = ["--config", str(folder / "gatehouse.yaml"), "--state-dir", str(folder / "state")]
        return cls(Server.start(folder, [*GATEHOUSE, command, *options, "--port", "0", "--admin-port", "0"]))

    @property
    def state_dir(self) -> Path:
        """Its state directory."""
        return self.server.folder / "state"

    @property
    def context(self) -> Context:
        """Its settings."""
        return Context(config_file=self.server.folder / "gatehouse.yaml", chosen_state_dir=self.state_dir)

    def listening(self, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until its gateway says where it is."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):
                found: dict[str, Any] = json.loads((self.state_dir / "gateway.json").read_text())
                if urllib.request.urlopen(found["url"] + "/readyz", timeout=5).status == 200:
                    return found
            time.sleep(POLL_SECONDS)
        raise TimeoutError(f"{self.server.folder.name} is not ready: {self.said()[-2000:]}")

    def said(self) -> str:
        """What it printed."""
        return (self.server.folder / "output").read_text("utf-8", "replace")

    def target(self, name: str, *, subject: str = "bench", plan: str = "service") -> Target:
        """Its gateway, as this subject with this plan sees it."""
        config = self.context.gateway_config()
        key = load_keys(config).signing
        token, _ = issue_token(key, config.auth, subject=subject, plan=plan, ttl_seconds=TOKEN_SECONDS)
        return Target(name, self.listening()["url"], token)

    def engine(self, name: str) -> Target:
        """The engine behind it."""
        with urllib.request.urlopen(self.listening()["admin_url"] + "/engine/status", timeout=10) as answer:
            url = json.load(answer)["url"]
        return Target(name, url, self.context.engine_api_key())

    def gateways(self) -> list[psutil.Process]:
        """The gateway's processes, without the command above them and the engine beside them."""
        first = psutil.Process(self.listening()["pid"])
        return [first, *first.children(recursive=True)]


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """CPU time of these processes until now."""
    total = 0.0
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total
