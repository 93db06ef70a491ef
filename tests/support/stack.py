"""The product as a user runs it: `gatehouse up` in a session of its own, and the proof that nothing of it is left.

    with running_stack({"engine": {"kind": "simulated", …}}) as stack:
        stack.url, stack.admin_url, stack.engine_url
        stack.token("alice", plan="small")
        stack.logged(request_id)           # its line in the record
        stack.engine_metrics()             # vLLM's own, through the admin listener

Everything here is synchronous, so that a session-wide fixture needs no event loop.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from gatehouse.context import Context
from tests.support import tokens
from tests.support.engines import parse_metrics
from tests.support.processes import clean_environment

READY_SECONDS = 120.0
STOP_SECONDS = 60.0
DEADLINE = 60.0
POLL_SECONDS = 0.01
NO_LIMITS = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrent_requests", "tokens_per_day"))
BASE: dict[str, dict[str, Any]] = {
    "engine": {"port": 0, "tensor_parallel_size": 1, "restart_delay": 0.1},
    "logging": {"stdout": False},
    "plans": {"service": NO_LIMITS, "member": NO_LIMITS, "once": {"requests_per_minute": 1, "request_burst": 1}},
}
"""No limits but in the plan `once`, free ports."""
SIMULATED: dict[str, Any] = {
    "kind": "simulated",
    "simulator": {"control": True, "ttft": 0.0, "tps": 2000},
}


class Stack:
    """A running `gatehouse up`."""

    def __init__(self, process: subprocess.Popen[bytes], state_dir: Path, config_file: Path, output: Path) -> None:
        self.process, self.state_dir, self.output = process, state_dir, output
        self.config = Context(config_file=config_file, chosen_state_dir=state_dir).gateway_config()
        self.model = self.config.engine.model
        self._seen: dict[int, psutil.Process] = {}
        self._sockets: set[str] = set()
        self._shared: set[Path] = set()
        where = until(self._gateway_file, "the gateway listens", READY_SECONDS, alive=process)
        self.url, self.admin_url = where["url"], where["admin_url"]

    def _gateway_file(self) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.state_dir / "gateway.json").read_text("utf-8"))
        return None

    # -- how it is -----------------------------------------------------------------------------------------------

    @property
    def said(self) -> str:
        """What the command has printed."""
        return self.output.read_text("utf-8", "replace")

    def ready(self) -> bool:
        """Whether /readyz says 200."""
        try:
            with urllib.request.urlopen(self.url + "/readyz", timeout=DEADLINE) as answer:
                return answer.status == 200
        except (urllib.error.HTTPError, OSError):
            return False

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until a request can be served."""
        until(self.ready, "ready", seconds, alive=self.process, every=0.1)

    def status(self) -> dict[str, Any]:
        """The launcher's status, from its Unix socket."""
        connection = http.client.HTTPConnection("launcher", timeout=DEADLINE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.state_dir / "engine.sock"))
        with contextlib.closing(connection):
            connection.request("GET", "/status")
            return json.loads(connection.getresponse().read())

    @property
    def engine_url(self) -> str:
        """Where the engine itself listens."""
        return self.status()["url"]

    @property
    def engine_key(self) -> str:
        """What the engine asks for."""
        return (self.state_dir / "engine.key").read_text("ascii")

    def engine_metrics(self) -> dict[str, float]:
        """VLLM's metrics, through the admin listener."""
        with urllib.request.urlopen(self.admin_url + "/engine/metrics", timeout=DEADLINE) as answer:
            return parse_metrics(answer.read().decode())

    def metrics(self) -> dict[str, float]:
        """The gateway's own metrics."""
        with urllib.request.urlopen(self.admin_url + "/metrics", timeout=DEADLINE) as answer:
            return parse_metrics(answer.read().decode())

    # -- callers and the record ----------------------------------------------------------------------------------

    def token(self, subject: str = "tester", *, ttl_seconds: float = 3600, **how: Any) -> str:
        """A token that this gateway accepts (or has accepted, with a `ttl_seconds` below zero)."""
        return tokens.token(self.config, subject, ttl_seconds=ttl_seconds, **how)

    def log_lines(self) -> list[dict[str, Any]]:
        """The requests of the record, as far as it is written."""
        return [line for line in self.record() if "request_id" in line]

    def record(self) -> list[dict[str, Any]]:
        """The record with the messages in it, as far as it is written."""
        file = self.state_dir / "requests.jsonl"
        text = file.read_text("utf-8") if file.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def logged(self, request_id: str) -> dict[str, Any]:
        """Wait for the one line of a request."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.log_lines() if line["request_id"] == request_id]

        lines = until(found, f"request {request_id} is in the record")
        assert len(lines) == 1, lines
        return lines[0]

    # -- the end -------------------------------------------------------------------------------------------------

    def observe(self) -> None:
        """Remember its processes, sockets and shared memory: what must be gone after the end."""
        with contextlib.suppress(psutil.NoSuchProcess):
            tree = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
            self._seen |= {each.pid: each for each in tree}
            self._sockets |= _unix_sockets(tree)
            self._shared |= shared_memory(tree)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ctrl-C, as a terminal sends it to the command; returns the exit code. Fails where it does not end."""
        self.observe()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not ended after {STOP_SECONDS} s:\n{self.said[-3000:]}") from None

    def left_behind(self) -> list[str]:
        """What outlived it, of all that was observed."""
        alive = [f"process {each}" for each in self._seen.values() if _is_running(each)]
        sessions = self._seen.keys()
        alive += [f"process {pid} of session {sid}" for pid, sid in _sessions() if sid in sessions]
        sockets = {str(path) for path in self.state_dir.glob("*.sock")} | {p for p in self._sockets if Path(p).exists()}
        shared = [path for path in self._shared if path.exists()]
        return [*alive, *(f"socket {path}" for path in sorted(sockets)), *(f"shared memory {path}" for path in shared)]

    def kill(self) -> None:
        """End it by force, with everything it was seen to have."""
        for process in self._seen.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running_stack(
    config: dict[str, Any], *, wait: bool = True, ready_seconds: float = READY_SECONDS
) -> Iterator[Stack]:
    """Run `gatehouse up` with this configuration (on top of BASE); at the end stop it and check what is left."""
    merged = {name: {**BASE.get(name, {}), **config.get(name, {})} for name in BASE.keys() | config.keys()}
    # /tmp: a Unix socket's path has at most 107 characters, and pytest's folders have long names
    with tempfile.TemporaryDirectory(prefix="gatehouse-test-", dir="/tmp") as folder:
        file, state_dir, output = Path(folder) / "gatehouse.yaml", Path(folder) / "state", Path(folder) / "output"
        file.write_text(json.dumps(merged), "utf-8")  # JSON is YAML
        argv = [sys.executable, "-m", "gatehouse", "up", "--config", str(file), "--state-dir", str(state_dir)]
        argv += ["--port", "0", "--admin-port", "0"]
        with output.open("wb") as out:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=clean_environment(), start_new_session=True
            )
        stack = None
        try:
            stack = Stack(process, state_dir, file, output)
            if wait:
                stack.wait_ready(ready_seconds)
            stack.observe()
            yield stack
            code = stack.stop()
            left = until_empty(stack.left_behind)
            assert (code, left) == (0, []), f"exit {code}, left behind {left}:\n{stack.said[-3000:]}"
        except BaseException:
            print(output.read_text("utf-8", "replace")[-5000:], file=sys.stderr)
            raise
        finally:
            if stack is not None:
                stack.observe()
                stack.kill()
            else:
                _kill_tree(process)


def until(
    condition: Callable[[], Any],
    what: str,
    seconds: float = DEADLINE,
    *,
    alive: subprocess.Popen[bytes] | None = None,
    every: float = POLL_SECONDS,
) -> Any:
    """Poll until the condition is true; returns what it returned. Fails at once when the process `alive` is not."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if alive is not None and alive.poll() is not None:
            raise AssertionError(f"the command ended with {alive.returncode} before: {what}")
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(every)
    return found


def until_empty(remaining: Callable[[], list[str]], seconds: float = DEADLINE) -> list[str]:
    """Poll until nothing remains; returns what still does then (the kernel takes a moment to reap)."""
    end = time.monotonic() + seconds
    while (left := remaining()) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    return left


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()


def _is_running(process: psutil.Process) -> bool:
    """Whether this very process lives (a pid may have been given to another since)."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _sessions() -> Iterator[tuple[int, int]]:
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                yield pid, os.getsid(pid)


def _unix_sockets(processes: list[psutil.Process]) -> set[str]:
    """Paths of the Unix sockets that these processes listen on or use."""
    inodes = set()
    for process in processes:
        with contextlib.suppress(OSError):
            for fd in Path(f"/proc/{process.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(fd)))
    table = Path("/proc/net/unix").read_text().splitlines()[1:]
    rows = [line.split(maxsplit=7) for line in table]
    return {row[7] for row in rows if len(row) == 8 and row[6] in inodes and row[7].startswith("/")}


def shared_memory(processes: list[psutil.Process]) -> set[Path]:
    """Files in /dev/shm that these processes have mapped, or that carry the pid of one in their name."""
    found = set()
    names = {path.name: path for path in Path("/dev/shm").iterdir()}
    for process in processes:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            found |= {Path(name) for name in re.findall(r"(/dev/shm/\S+)", maps)}
        found |= {path for name, path in names.items() if f"-{process.pid}-" in name}
    return {path for path in found if path.exists()}
