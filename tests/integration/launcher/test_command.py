"""`gatehouse engine` as a process of its own, as systemd runs it."""

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.family import birth

from .conftest import DEADLINE, QUICK, session_members, until


@dataclass
class Command:
    """A running `gatehouse engine`."""

    process: asyncio.subprocess.Process
    config: Path
    state_dir: Path

    async def call(self, *words: str) -> tuple[int, str, str]:
        """Run `gatehouse engine WORDS`: exit code, stdout, stderr."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gatehouse", "engine", *words, *self.options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    @property
    def options(self) -> list[str]:
        """The options that all calls share."""
        return ["--config", str(self.config), "--state-dir", str(self.state_dir)]

    async def ready(self) -> dict[str, Any]:
        """Wait until `engine status` says so; the status."""
        async with asyncio.timeout(DEADLINE):
            while True:
                code, out, _ = await self.call("status", "--json")
                if code == 0:
                    return json.loads(out)
                assert self.process.returncode is None, "the launcher ended"
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def command(
    tmp_path: Path, env: dict[str, str] | None = None, stderr: int | None = None, **settings: Any
) -> AsyncIterator[Command]:
    """Start `gatehouse engine` with these settings; its engine is gone at the end or the test fails."""
    config = tmp_path / "gatehouse.yaml"
    config.write_text(yaml.safe_dump({"engine": {**QUICK, **settings}}))
    state_dir = tmp_path / "state"
    running = Command(None, config, state_dir)  # type: ignore[arg-type]
    with (tmp_path / "stderr").open("wb") as log:
        running.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gatehouse", "engine", *running.options),
            stderr=log if stderr is None else stderr,
            env={**os.environ, **(env or {})},
        )
    try:
        yield running
    finally:
        if running.process.returncode is None:
            running.process.terminate()
        await asyncio.wait_for(running.process.wait(), DEADLINE)


async def test_operate(tmp_path: Path):
    """Status, restart, drain: by the words that the manual names, messages on stderr, codes as documented."""
    async with command(tmp_path) as engine:
        first = await engine.ready()
        code, out, err = await engine.call("status", "--tail", "2")
        assert (code, err) == (0, "")
        assert out.startswith("engine ready · gpt-oss-20b at http://127.0.0.1:")
        assert len(out.splitlines()) == 3
        code, out, err = await engine.call("restart")
        assert (code, out) == (0, "")
        assert "restarts" in err
        async with asyncio.timeout(DEADLINE):
            while (await engine.ready())["restarts"] != 1:
                pass
        assert (await engine.ready())["pid"] != first["pid"]
        assert (await engine.call("drain"))[0] == 0
        async with asyncio.timeout(DEADLINE):
            while "engine stopped" not in (await engine.call("status"))[1]:
                pass
        assert (await engine.call("status"))[0] == 1
        engine.process.terminate()
        assert await engine.process.wait() == 0
        code, _, err = await engine.call("status")
        assert code == 3
        assert "start one with `gatehouse engine`" in err


async def test_progress_is_told(tmp_path: Path):
    """One line a phase on stderr, and nothing on stdout."""
    async with command(tmp_path, simulator={"startup": 1}) as engine:
        await engine.ready()
    told = (tmp_path / "stderr").read_text()
    for word in ("importing", "loading", "compiling", "capturing", "engine ready", "engine draining", "engine stopped"):
        assert word in told


async def on_a_terminal(tmp_path: Path, **settings: Any) -> str:
    """What `gatehouse engine` draws on a terminal from its start until it is ready and stopped."""
    ours, theirs = pty.openpty()
    drawn = bytearray()
    asyncio.get_running_loop().add_reader(ours, lambda: drawn.extend(os.read(ours, 65536)))
    try:
        async with command(tmp_path, {"TERM": "xterm", "COLUMNS": "100"}, stderr=theirs, **settings) as engine:
            await until(lambda: b"engine ready" in drawn)
            engine.process.terminate()
            await until(lambda: b"engine stopped" in drawn)
        return drawn.decode()
    finally:
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)
        os.close(theirs)


async def test_a_terminal_shows_a_bar(tmp_path: Path):
    """A bar with phase, share and elapsed time, from the second start on with an estimate; the cursor comes back."""
    first = await on_a_terminal(tmp_path, simulator={"startup": 2})
    for drawn in ("engine loading", "engine capturing", "━", "0:00:01"):
        assert drawn in first
    assert len(set(re.findall(r"(\d+)%", first))) > 3
    assert "s left" not in first
    second = await on_a_terminal(tmp_path, simulator={"startup": 2})
    assert re.search(r"about \d s left", second)
    for drawn in (first, second):
        assert drawn.rfind("\x1b[?25h") > drawn.rfind("\x1b[?25l") > -1, "the cursor is shown again"
        assert "starting" not in drawn
        assert "engine ready · gpt-oss-20b at http://127.0.0.1:" in drawn


async def test_a_second_launcher_is_refused(tmp_path: Path):
    """The same state directory: said who has it, exit 1, the first one goes on."""
    async with command(tmp_path) as engine:
        await engine.ready()
        code, _, err = await engine.call()
        assert code == 1
        assert f"another launcher is running, pid {engine.process.pid}" in err
        await engine.ready()


async def test_a_killed_launcher_is_succeeded(tmp_path: Path):
    """SIGKILL of the launcher leaves its engine on its own; the next start clears it, then serves."""
    async with command(tmp_path, simulator={"tree": True}) as engine:
        orphan = (await engine.ready())["pid"]
        engine.process.kill()
        await engine.process.wait()
        assert len(session_members(orphan)) == 5
    async with command(tmp_path, simulator={"tree": True}) as engine:
        assert (await engine.ready())["pid"] != orphan
        left = [pid for pid in session_members(orphan) if _state(pid) != "Z"]
        assert left == []
    assert not (tmp_path / "state" / "engine.json").exists()


async def listen(systemd: socket.socket, told: list[str]) -> None:
    """Read what is sent, as systemd does: the kernel queues ten messages, then senders wait."""
    while True:
        told.append((await asyncio.get_running_loop().sock_recv(systemd, 10_000)).decode())


async def test_systemd_is_told(tmp_path: Path):
    """READY once it is ready, STATUS on the way, WATCHDOG while it lives, STOPPING at the end."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.setblocking(False)
        told: list[str] = []
        reader = asyncio.create_task(listen(systemd, told))
        async with command(tmp_path, env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"}) as engine:
            await engine.ready()
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
    lines = "\n".join(told).splitlines()
    assert lines.count("READY=1") == 1
    assert "STOPPING=1" in lines
    assert "WATCHDOG=1" in lines
    assert any(line.startswith("STATUS=engine starting") for line in lines)


async def test_ctrl_c_twice(tmp_path: Path):
    """An engine that is deaf to TERM and has ten minutes' patience is gone at once with the second Ctrl-C."""
    settings = {"simulator": {"ignore_sigterm": True}, "stop_timeout": 600}
    async with command(tmp_path, **settings) as engine:
        pid = (await engine.ready())["pid"]
        engine.process.send_signal(signal.SIGINT)
        await until(lambda: "draining" in (tmp_path / "stderr").read_text())
        engine.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(engine.process.wait(), DEADLINE) == 0
        assert birth(pid) is None


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
