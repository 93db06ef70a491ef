"""`gatehouse gateway` as systemd runs it: what it tells, and its workers on Unix sockets behind the real nginx."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gatehouse.context import Context
from tests.support.engines import MODEL
from tests.support.http2 import connection
from tests.support.nginx import DOMAIN, nginx_before
from tests.support.redis_server import running_redis
from tests.support.tokens import token
from tests.support.turns import engine_in_turns

DEADLINE = 60.0
TOKENS = 4


@dataclass
class Service:
    """A gateway's main process, and what it told systemd."""

    folder: Path
    process: asyncio.subprocess.Process
    context: Context
    told: list[str] = field(default_factory=list)

    async def tells(self, text: str, count: int = 1) -> None:
        """Wait until it has told this so often."""
        async with asyncio.timeout(DEADLINE):
            while self.told.count(text) < count:
                assert self.process.returncode is None, self.output
                await asyncio.sleep(0.01)

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text("utf-8", "replace")

    def records(self) -> list[dict[str, Any]]:
        """The chat requests in the record, of all workers."""
        lines = [
            line for file in self.context.state_dir.glob("requests*.jsonl") for line in file.read_text().splitlines()
        ]
        return [each for line in lines if (each := json.loads(line)).get("route") == "/v1/chat/completions"]

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {token(self.context.gateway_config())}"}


@contextlib.asynccontextmanager
async def service(engine_url: str, **gateway: Any) -> AsyncIterator[Service]:
    """Run the command with these settings of `gateway`, a real Redis, and a socket in systemd's place."""
    with tempfile.TemporaryDirectory(prefix="gatehouse-service-", dir="/tmp") as name, running_redis() as redis:
        folder = Path(name)
        (folder / "run").mkdir()
        file, state = folder / "gatehouse.yaml", folder / "state"
        sections = {
            "engine": {"kind": "external", "url": engine_url},
            "gateway": {"port": 0, "admin_port": 0, "socket_dir": str(folder / "run"), **gateway},
            "redis": {"url": redis.url},
            "logging": {"stdout": False},
        }
        file.write_text(json.dumps(sections))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, (folder / "output").open("wb") as output:
            systemd.bind(str(folder / "notify"))
            systemd.setblocking(False)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gatehouse", "gateway", "--config", str(file), "--state-dir", str(state),
                stdout=output, stderr=output,
                env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "200000"},
            )  # fmt: skip
            running = Service(folder, process, Context(config_file=file, chosen_state_dir=state))
            reading = asyncio.create_task(_read(systemd, running.told))
            try:
                await running.tells("READY=1")
                yield running
                if process.returncode is None:
                    process.terminate()
                    await running_stops(running)
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)


async def running_stops(running: Service) -> None:
    """Wait for its end; it must be a clean one that was told."""
    async with asyncio.timeout(DEADLINE):
        assert await running.process.wait() == 0, running.output
        while "STOPPING=1" not in running.told:
            await asyncio.sleep(0.01)


async def _read(systemd: socket.socket, told: list[str]) -> None:
    while True:
        told += (await asyncio.get_running_loop().sock_recv(systemd, 10_000)).decode().splitlines()


@pytest.mark.parametrize("workers", [1, 2])
async def test_systemd_is_told_about_the_gateway(workers: int) -> None:
    """READY once it listens, WATCHDOG while it lives, RELOADING and READY on SIGHUP, STOPPING at the end."""
    async with engine_in_turns(1) as engine, service(engine.url, workers=workers) as running:
        assert len(list((running.folder / "run").glob("worker-*.sock"))) == workers
        await running.tells("WATCHDOG=1", 2)
        assert "RELOADING=1" not in running.told
        running.process.send_signal(signal.SIGHUP)
        await running.tells("RELOADING=1")
        await running.tells("READY=1", 2)
        assert not [line for line in running.told if line.startswith("EXTEND_TIMEOUT_USEC")]  # a stop is bounded


async def test_workers_are_replaced_behind_nginx_and_no_stream_breaks() -> None:
    """Streams run on both workers' sockets while SIGUSR2 replaces them: each goes on to its end, new requests are served."""
    async with (
        engine_in_turns(TOKENS) as engine,
        service(engine.url, workers=2) as running,
        nginx_before(*(f"unix:{running.folder}/run/worker-{number}.sock" for number in (1, 2))) as edge,
        connection(edge.port, edge.tls_h2, DOMAIN) as http,
        asyncio.timeout(DEADLINE),
    ):
        names = [f"s{number}" for number in range(4)]
        answers = {
            name: await http.post(
                "/v1/chat/completions",
                {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": name}]},
                running.headers(),
            )
            for name in names
        }
        assert [await answer.status for answer in answers.values()] == [200] * len(names), running.output
        while engine.begun != set(names):
            await asyncio.sleep(0.01)
        pids = _children(running.process.pid)
        assert len(pids) == 2
        running.process.send_signal(signal.SIGUSR2)
        while len(_children(running.process.pid) - pids) < 2:  # both successors are there, the old ones drain
            assert await (await http.get("/healthz")).status == 200
            await asyncio.sleep(0.05)
        for name in names:
            for _ in range(TOKENS):
                engine.go_on(name)
        bodies = [await answer.read() for answer in answers.values()]
        assert [body.count(b"delta") for body in bodies] == [TOKENS] * len(names)
        assert all(body.endswith(b"data: [DONE]\n\n") for body in bodies)
        used = {line["gateway"] for line in await edge.logged(len(names), path="/v1/chat/completions")}
        assert used == {f"unix:{running.folder}/run/worker-{number}.sock" for number in (1, 2)}
        while len(records := running.records()) < len(names):
            await asyncio.sleep(0.01)
        assert {record["client_ip"] for record in records} == {"127.0.0.1"}


def _children(pid: int) -> set[int]:
    return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
