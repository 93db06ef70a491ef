"""A simulated engine as a real process, for tests.

    async with simulator("--max-num-seqs", "2", knobs={"tps": 500}) as engine:
        engine.url          # http://127.0.0.1:PORT
        await engine.knobs(fault="hang", fault_times=1)
        await engine.metrics()["vllm:num_requests_running"]

The process runs in a session of its own, which is killed and checked empty at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil

MODEL = "gpt-oss-20b"
DEADLINE = 60.0
FAST = {"ttft": 0.0, "tps": 2000.0}
"""Knobs that tests start from: answers in milliseconds, still one step after the other."""
_ADDRESS = re.compile(r"Starting vLLM server on http://[^ ]*:(\d+)")
_READY = "Application startup complete."


class Simulator:
    """A running simulator."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int, http: aiohttp.ClientSession) -> None:
        self.process, self.log_path, self.port, self.http = process, log, port, http
        self.url = f"http://127.0.0.1:{port}"

    @property
    def pid(self) -> int:
        """The main process."""
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self.log_path.read_text()

    async def knobs(self, **values: Any) -> dict[str, Any]:
        """Turn some knobs (none: read them); returns them all."""
        if not values:
            return await self._json("GET", "/sim/knobs")
        return await self._json("POST", "/sim/knobs", json=values)

    async def requests(self) -> list[dict[str, Any]]:
        """What reached the engine since the start or the last reset."""
        return await self._json("GET", "/sim/requests")

    async def reset(self) -> None:
        """Knobs to their defaults, records forgotten. Counters stay."""
        await self._json("POST", "/sim/reset")

    async def metrics(self) -> dict[str, float]:
        """`/metrics`, keyed by name with the labels other than engine and model_name: `name` or `name{le="1.0"}`."""
        async with self.http.get(self.url + "/metrics") as answer:
            return parse_metrics(await answer.text())

    async def until(self, metric: str, value: float | Callable[[float], bool], deadline: float = DEADLINE) -> float:
        """Wait until a metric has a value (or satisfies a predicate); returns it."""
        wanted = value if callable(value) else lambda seen: seen == value
        async with asyncio.timeout(deadline):
            while not wanted(seen := (await self.metrics())[metric]):
                await asyncio.sleep(0.005)
        return seen

    async def health(self) -> int | None:
        """The status of /health, or None when nobody listens."""
        try:
            async with self.http.get(self.url + "/health") as answer:
                return answer.status
        except aiohttp.ClientConnectionError:
            return None

    async def chat(self, content: str = "hello", **fields: Any) -> dict[str, Any]:
        """A chat answer, not streamed."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}
        return await self._json("POST", "/v1/chat/completions", json=body)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the main process."""
        self.process.send_signal(number)

    async def wait(self, deadline: float = DEADLINE) -> int:
        """Wait for the main process to end; returns its exit status (negative: by signal)."""
        async with asyncio.timeout(deadline):
            while self.process.poll() is None:
                await asyncio.sleep(0.005)
        assert self.process.returncode is not None
        return self.process.returncode

    async def stop(self) -> int:
        """SIGTERM, then wait."""
        self.kill(signal.SIGTERM)
        return await self.wait()

    async def _json(self, method: str, path: str, **how: Any) -> Any:
        async with self.http.request(method, self.url + path, **how) as answer:
            text = await answer.text()
            assert answer.status == 200, f"{method} {path}: {answer.status} {text}"
            return json.loads(text)


@contextlib.asynccontextmanager
async def simulator(
    *flags: str,
    knobs: dict[str, Any] | None = None,
    model: str = MODEL,
    port: int = 0,
    env: dict[str, str] | None = None,
) -> AsyncIterator[Simulator]:
    """Start a simulator with vLLM's `flags` and these knobs (on top of FAST), and wait until it is healthy."""
    with tempfile.TemporaryDirectory(prefix="simulator-") as folder:
        log = Path(folder) / "log"
        process = start_simulator(*flags, log=log, knobs=knobs, model=model, port=port, env=env)
        try:
            found = await _ready(process, log)
            # A fresh connection for every call: the simulator under test may close any of them at any time.
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            timeout = aiohttp.ClientTimeout(total=60)
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
                yield Simulator(process, log, found, http)
        finally:
            left = shared_memory_of_group(process.pid) if "--sim-tree" in flags else set()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for path in left:
                path.unlink(missing_ok=True)


def shared_memory_of_group(group: int) -> set[Path]:
    """Shared-memory files that the processes of a group have mapped or are named after (`--sim-tree` makes them)."""
    found: set[Path] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) == group:
                maps = Path(f"/proc/{process.pid}/maps").read_text()
                found |= {Path(name) for name in re.findall(r"/dev/shm/psm_\w+", maps)}
                found |= set(Path("/dev/shm").glob(f"sem.loky-{process.pid}-*"))
    return found


def start_simulator(
    *flags: str,
    log: Path,
    knobs: dict[str, Any] | None = None,
    model: str = MODEL,
    port: int = 0,
    env: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a simulator without waiting; the caller owns the process and its session."""
    argv = [sys.executable, "-m", "launcher.simulator", "serve", model, "--port", str(port), "--sim-control", *flags]
    outer = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
    given = {**outer, "VLLM_SIM_KNOBS": json.dumps({**FAST, **(knobs or {})}), **(env or {})}
    given.setdefault(
        "VLLM_RPC_BASE_PATH", str(log.parent)
    )  # a killed engine leaves its sockets; here they go with the log
    with log.open("wb") as output:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=given, start_new_session=True
        )


async def _ready(process: subprocess.Popen[bytes], log: Path) -> int:
    async with asyncio.timeout(DEADLINE):
        while True:
            text = log.read_text()
            if process.poll() is not None:
                raise RuntimeError(f"the simulator exited with {process.returncode}:\n{text[-2000:]}")
            address = _ADDRESS.search(text)
            if address and _READY in text:
                return int(address[1])
            await asyncio.sleep(0.01)


_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parse_metrics(text: str) -> dict[str, float]:
    """Samples of a Prometheus exposition, without the engine and model_name labels."""
    found = {}
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None:
            continue
        name, labels, value = sample.groups()
        kept = [f'{key}="{each}"' for key, each in _LABEL.findall(labels or "") if key not in ("engine", "model_name")]
        found[name + (f"{{{','.join(kept)}}}" if kept else "")] = float(value)
    return found
