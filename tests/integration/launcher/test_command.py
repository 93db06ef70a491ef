"""`gatehouse engine` as a process of its own, as systemd runs it."""

import asyncio
import json
import os
import pty
import re
import socket
from pathlib import Path
from typing import Any

from tests.support.commands import command
from tests.support.launchers import until


async def test_operate(tmp_path: Path):
    """Status, restart, drain: by the words that the manual names, messages on stderr, codes as documented."""
    async with command(tmp_path) as engine:
        first = await engine.ready()
        code, out, err = await engine.call("status", "--json")
        assert (code, json.loads(out)["pid"], err) == (0, first["pid"], "")
        code, out, err = await engine.call("status", "--tail", "2")
        assert (code, err) == (0, "")
        assert out.startswith("engine ready · gpt-oss-20b at http://127.0.0.1:")
        assert len(out.splitlines()) == 3
        code, out, err = await engine.call("restart")
        assert (code, out) == (0, "")
        assert "restarts" in err
        assert (await engine.until("ready", restarts=1))["pid"] != first["pid"]
        assert (await engine.call("drain"))[0] == 0
        await engine.until("stopped")
        code, out, _ = await engine.call("status")
        assert (code, "engine stopped" in out) == (1, True)
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
    for drawn in ("engine loading", "engine capturing", "━"):
        assert drawn in first
    assert re.search(r"0:00:0[1-9]", first)
    assert len(set(re.findall(r"(\d+)%", first))) > 3
    assert "s left" not in first
    second = await on_a_terminal(tmp_path, simulator={"startup": 2})
    assert re.search(r"about \d+ s left", second)
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


async def listen(systemd: socket.socket, told: list[str]) -> None:
    """Read what is sent, as systemd does: the kernel queues ten messages, then senders wait."""
    while True:
        told.append((await asyncio.get_running_loop().sock_recv(systemd, 10_000)).decode())


async def test_systemd_is_told(tmp_path: Path):
    """READY once the launcher works, STATUS on the way, WATCHDOG while it lives, STOPPING at the end."""
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
