"""`gatehouse gateway` with several workers, as real processes before a simulator and on a real Redis.

async with workers(engine.url, redis.url) as gate:
gate.pids()                              # of the workers that serve, by number
gate.post("/v1/chat/completions", {...}) # over the shared port
gate.post(..., worker=2)                 # over that worker's own Unix socket
await gate.kill(1)                       # SIGKILL; returns when its successor serves
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from gatehouse.context import Context
from tests.support.engines import MODEL, parse_metrics
from tests.support.processes import clean_environment
from tests.support.stack import NO_LIMITS, until_empty
from tests.support.tokens import issued

DEADLINE = 60.0
POLL_SECONDS = 0.02
CHAT = "/v1/chat/completions"


def chat(**fields: Any) -> dict[str, Any]:
    """A chat request's body."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8} | fields


class WorkersGateway:
    """A gateway of several workers."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, http: aiohttp.ClientSession) -> None:
        self.process, self.folder, self.http = process, folder, http
        self.state_dir, self.sockets, self.config_file = folder / "state", folder / "sockets", folder / "gatehouse.yaml"
        self.url = self.admin_url = ""
        self.seen: set[int] = {process.pid}
        self._to_worker: dict[int, aiohttp.ClientSession] = {}

    @property
    def said(self) -> str:
        """What its processes have printed."""
        return (self.folder / "output").read_text("utf-8", "replace")

    def command(
        self, *words: str, stdin: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `gatehouse WORDS` on its state folder."""
        where = ["--config", str(self.config_file), "--state-dir", str(self.state_dir)]
        argv = [sys.executable, "-m", "gatehouse", *words, *where]
        return subprocess.run(
            argv, input=stdin, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=DEADLINE,
            check=False,
        )  # fmt: skip

    def token(self, subject: str = "tester", **how: Any) -> tuple[str, str]:
        """A token that it accepts, and its id."""
        config = Context(config_file=self.config_file, chosen_state_dir=self.state_dir).gateway_config()
        token, record = issued(config, subject, **how)
        return token, record.id

    def headers(self, subject: str = "tester", **fields: str) -> dict[str, str]:
        """Credentials, and what else is given."""
        return {"Authorization": f"Bearer {self.token(subject)[0]}", **fields}

    def post(self, path: str, body: Any, *, worker: int | None = None, **how: Any) -> Any:
        """An aiohttp request; `async with` it."""
        how.setdefault("headers", self.headers())
        http, base = (self.http, self.url) if worker is None else (self.to_worker(worker), "http://gateway")
        return http.post(base + path, json=body, **how)

    def to_worker(self, number: int) -> aiohttp.ClientSession:
        """A client of one worker's own socket."""
        if number not in self._to_worker:
            path = str(self.sockets / f"worker-{number}.sock")
            self._to_worker[number] = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path, limit=0), cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._to_worker[number]

    async def close(self) -> None:
        """Close the clients."""
        for http in self._to_worker.values():
            await http.close()

    async def admin(self, path: str, method: str = "GET") -> Any:
        """What the admin listener answers, as JSON."""
        async with self.http.request(method, self.admin_url + path) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def metrics(self) -> dict[str, float]:
        """The metrics of all workers."""
        async with self.http.get(self.admin_url + "/metrics") as answer:
            return parse_metrics(await answer.text())

    async def pids(self) -> dict[int, int]:
        """The pids of the workers that serve and do not retire, by number."""
        found = await self.admin("/workers")
        self.seen |= {worker["pid"] for worker in found}
        return {worker["number"]: worker["pid"] for worker in found if worker["state"] == "serving"}

    async def kill(self, number: int) -> int:
        """SIGKILL a worker, and wait for its successor; returns the pid that was."""
        old = (await self.pids())[number]
        os.kill(old, signal.SIGKILL)
        await self.followed(number, old)
        return old

    async def followed(self, number: int, old: int) -> None:
        """Wait until another one serves in the place of the worker with that pid."""

        async def another() -> bool:
            return (await self.pids()).get(number, old) != old

        await eventually(another, f"worker {number} has a successor")

    def connections(self, pid: int) -> set[int]:
        """The clients' ports of the TCP connections that a worker has on the public port."""
        port = int(self.url.rpartition(":")[2])
        found = psutil.Process(pid).net_connections("tcp")
        return {each.raddr.port for each in found if each.laddr.port == port and each.raddr}

    def log_lines(self) -> list[dict[str, Any]]:
        """The requests in the record."""
        file = self.state_dir / "requests.jsonl"
        lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
        return [line for line in lines if "request_id" in line]

    def left_behind(self) -> list[str]:
        """Processes and sockets that are still there."""
        alive = [f"process {pid}" for pid in self.seen if psutil.pid_exists(pid) and not _is_zombie(pid)]
        return alive + [f"socket {path}" for path in self.sockets.glob("*")]


async def eventually(condition: Callable[[], Awaitable[Any]], what: str, seconds: float = DEADLINE) -> Any:
    """Poll until the condition is true; returns what it returned."""
    end = asyncio.get_running_loop().time() + seconds
    while not (found := await condition()):
        assert asyncio.get_running_loop().time() < end, f"not within {seconds} s: {what}"
        await asyncio.sleep(POLL_SECONDS)
    return found


@contextlib.asynccontextmanager
async def workers(
    engine_url: str, redis_url: str, count: int = 2, **sections: dict[str, Any]
) -> AsyncIterator[WorkersGateway]:
    """Run it; at the end SIGTERM it, unless that has happened, and check that nothing is left."""
    merged: dict[str, Any] = {
        "engine": {"kind": "external", "url": engine_url},
        "redis": {"url": redis_url, "timeout_seconds": 0.1},  # as long as it may be: the machine is busy
        "logging": {"stdout": False},
        "plans": {"service": NO_LIMITS, "member": NO_LIMITS},
        **sections,
    }
    # /tmp: a Unix socket's path has at most 107 characters, and pytest's folders have long names
    with tempfile.TemporaryDirectory(prefix="gatehouse-test-", dir="/tmp") as name:
        folder = Path(name)
        merged["gateway"] = {
            "port": 0, "admin_port": 0, "workers": count, "socket_dir": str(folder / "sockets"), "drain_seconds": 5,
            **sections.get("gateway", {}),
        }  # fmt: skip
        (folder / "gatehouse.yaml").write_text(json.dumps(merged), "utf-8")
        argv = [sys.executable, "-m", "gatehouse", "gateway", "--config", str(folder / "gatehouse.yaml")]
        with (folder / "output").open("wb") as out:
            process = subprocess.Popen(
                [*argv, "--state-dir", str(folder / "state")],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=clean_environment(), start_new_session=True,
            )  # fmt: skip
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=DEADLINE)) as http:
            gate = WorkersGateway(process, folder, http)
            try:
                await _until_ready(gate)
                yield gate
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                code = await asyncio.to_thread(process.wait, DEADLINE)
                left = until_empty(gate.left_behind)
                assert (code in {0, -signal.SIGKILL}, left) == (True, []), f"exit {code}, left behind {left}"
            except BaseException:
                print(gate.said[-5000:], file=sys.stderr)
                raise
            finally:
                await gate.close()
                for pid in gate.seen:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()


async def _until_ready(gate: WorkersGateway) -> None:
    file = gate.state_dir / "gateway.json"

    async def listening() -> bool:
        assert gate.process.poll() is None, f"it ended with {gate.process.returncode}"
        with contextlib.suppress(OSError, ValueError):
            where = json.loads(file.read_text("utf-8"))
            gate.url, gate.admin_url = where["url"], where["admin_url"]
        return bool(gate.url)

    await eventually(listening, "it listens")

    async def ready() -> bool:
        answers = [await gate.to_worker(number).get("http://gateway/readyz") for number in await gate.pids()]
        return all(answer.status == 200 for answer in answers)

    await eventually(ready, "every worker is ready")


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True
