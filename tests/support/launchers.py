"""Running launchers and engines for tests, and the proof that nothing of them is left."""

import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from launcher.config import EngineSettings
from launcher.gpus import Driver
from launcher.service import Launcher
from launcher.status import Status

DEADLINE = 60.0
QUICK: dict[str, Any] = {
    "kind": "simulated",
    "port": 0,
    "simulator": {"control": True, "ttft": 0, "tps": 2000},
    "restart_delay": 0.05,
    "stop_timeout": 1,
    "shutdown_timeout": 5,
    "health_interval": 0.1,
    "warmup_batches": [1],
}


async def until(true: Callable[[], Any], what: str = "", deadline: float = DEADLINE) -> None:
    """Poll until the condition holds."""
    try:
        async with asyncio.timeout(deadline):
            while not true():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {deadline:.0f} s: {what or true}") from None


def session_members(session: int) -> list[int]:
    """Pids of a session, zombies too."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getsid(pid) == session:
                found.append(pid)
    return found


@dataclass
class Running:
    """A launcher in this process, and all it has said."""

    launcher: Launcher
    state_dir: Path
    api_key: str
    stop: asyncio.Event
    seen: list[Status] = field(default_factory=list)
    sessions: set[int] = field(default_factory=set)
    task: asyncio.Task[None] | None = None

    @property
    def status(self) -> Status:
        """The status of this moment."""
        return self.launcher.snapshot()

    @property
    def states(self) -> list[str]:
        """The states it went through."""
        names: list[str] = []
        for status in self.seen:
            if not names or names[-1] != status.state:
                names.append(status.state)
        return names

    @property
    def has_tree(self) -> bool:
        """Whether all processes of the simulator's tree have started, and the launcher has seen them."""
        engine = self.launcher._run
        return engine is not None and engine.process is not None and len(engine.process._roles) >= 3

    def hear(self, status: Status) -> None:
        """Take what the launcher says."""
        self.seen.append(status)
        if status.pid is not None:
            self.sessions.add(status.pid)

    async def state(self, name: str) -> Status:
        """Wait for a state."""

        def reached() -> bool:
            assert self.task is not None
            if self.task.done() and self.status.state != name:
                self.task.result()
                raise AssertionError(f"the launcher ended as {self.status}")
            return self.status.state == name

        await until(reached, f"{name}, at {self.status}")
        return self.status

    async def ready(self) -> Status:
        """Wait until requests may be sent."""
        return await self.state("ready")

    @contextlib.asynccontextmanager
    async def control(self) -> AsyncIterator[aiohttp.ClientSession]:
        """A client of the status socket."""
        connector = aiohttp.UnixConnector(path=str(self.state_dir / "engine.sock"))
        async with aiohttp.ClientSession("http://launcher", connector=connector) as session:
            yield session

    @contextlib.asynccontextmanager
    async def engine(self) -> AsyncIterator[aiohttp.ClientSession]:
        """A client of the engine."""
        headers = {"Authorization": f"Bearer {self.api_key}"}
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(self.status.url, headers=headers, connector=connector) as session:
            yield session

    async def knobs(self, **values: Any) -> None:
        """Turn the simulator's knobs."""
        async with self.engine() as session, session.post("/sim/knobs", json=values) as answer:
            assert answer.status == 200, await answer.text()

    async def stream(self, tokens: int) -> list[dict[str, Any]]:
        """Have so many tokens streamed; the frames that came before the end, whatever the end was."""
        frames = []
        body = {"model": "gpt-oss-20b", "prompt": "one", "max_tokens": tokens, "ignore_eos": True, "stream": True}
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with self.engine() as session, session.post("/v1/completions", json=body) as answer:
                async for line in answer.content:
                    if line.startswith(b"data: {"):
                        frames.append(json.loads(line[6:]))
        return frames


@contextlib.asynccontextmanager
async def running(state_dir: Path, driver: Driver | None = None, **settings: Any) -> AsyncIterator[Running]:
    """Run a launcher; at the end it is stopped, and nothing of any of its engines may be left."""
    simulator = {**QUICK["simulator"], **settings.pop("simulator", {})}
    if settings.get("kind", "simulated") == "simulated":
        settings["simulator"] = simulator
    else:
        settings = {"simulator": {}, **settings}
    run = Running(None, state_dir, secrets.token_hex(16), asyncio.Event())  # type: ignore[arg-type]
    run.launcher = Launcher(
        EngineSettings(**{**QUICK, **settings}), state_dir, run.api_key, on_change=run.hear, driver=driver
    )
    run.task = asyncio.create_task(run.launcher.run(run.stop))
    try:
        yield run
    finally:
        run.stop.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(run.task, DEADLINE)
        assert_clean(run)


def assert_clean(run: Running) -> None:
    """No process of any session, no socket, no record."""
    assert {session: left for session in run.sessions if (left := session_members(session))} == {}
    left_files = {path.name for path in run.state_dir.iterdir()}
    assert left_files <= {"engine.lock", "engine.log", "engine-startups.json"}
