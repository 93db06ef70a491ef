"""The status socket."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientResponse

from launcher.status import Board, serve
from tests.support.launchers import running, until

KEYS = {
    *("state", "phase", "percent", "elapsed_s", "eta_s", "attempt", "restarts", "reason", "tail", "pid", "url"),
    *("model", "version", "kind", "since"),
}


async def frames(answer: ClientResponse) -> AsyncIterator[dict]:
    async for line in answer.content:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


async def test_status_has_every_key(tmp_path: Path):
    """GET /status is what the gateway and the chat rely on; ?tail=N adds the engine's last lines."""
    async with running(tmp_path) as run:
        await run.ready()
        async with run.control() as control:
            async with control.get("/status") as answer:
                status = await answer.json()
            assert set(status) == KEYS
            assert (status["state"], status["tail"], status["url"]) == ("ready", [], run.status.url)
            async with control.get("/status", params={"tail": "3"}) as answer:
                assert len((await answer.json())["tail"]) == 3


async def test_only_the_owner_may_talk(tmp_path: Path):
    """The socket has mode 0600."""
    async with running(tmp_path) as run:
        await run.ready()
        assert (tmp_path / "engine.sock").stat().st_mode & 0o777 == 0o600


async def test_events_tell_every_change(tmp_path: Path):
    """The present status on connect, then each change: a death is seen as restarting, starting, …, ready."""
    async with running(tmp_path) as run:
        await run.ready()
        async with run.control() as control, control.get("/events") as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            told = frames(answer)
            first = await anext(told)
            assert first["state"] == "ready"
            os.kill(first["pid"], signal.SIGKILL)
            states = []
            async with asyncio.timeout(60):
                async for status in told:
                    if status["state"] not in states:
                        states.append(status["state"])
                    if status["state"] == "ready" and status["restarts"]:
                        break
            assert states[0] == "restarting"
            assert states[-1] == "ready"


async def test_followers_do_not_delay_the_stop(tmp_path: Path):
    """A client that follows the events is let go when the launcher ends."""
    async with running(tmp_path) as run:
        await run.ready()
        async with run.control() as control, control.get("/events") as answer:
            run.stop.set()
            states = [status["state"] async for status in frames(answer)]
            assert "draining" in states


async def test_a_follower_that_leaves_is_no_error(tmp_path: Path, caplog):
    """Followers go away in the middle, one after the other; nothing is logged, and those who stay hear on."""
    async with running(tmp_path) as run:
        await run.ready()
        async with run.control() as staying, staying.get("/events") as answer:
            for _ in range(3):
                _, leaving = await asyncio.open_unix_connection(str(tmp_path / "engine.sock"))
                leaving.write(b"GET /events HTTP/1.1\r\nHost: launcher\r\n\r\n")
                await leaving.drain()
                leaving.transport.abort()
            run.launcher.restart()
            told = frames(answer)
            async with asyncio.timeout(60):
                while (await anext(told))["restarts"] != 1:
                    pass
        await run.ready()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_quiet_time_has_heartbeats(monkeypatch):
    """Nothing happens: the follower is told that too, so that it knows the launcher lives."""
    monkeypatch.setattr("launcher.status.HEARTBEAT_SECONDS", 0.01)
    board = Board()
    following = board.follow()
    assert [await anext(following), await anext(following)] == [True, False]
    board.changed()
    assert await anext(following) is True
    board.close()
    assert [moved async for moved in following] == []


async def test_metrics(tmp_path: Path):
    """States, restarts by reason, phases of the start-up, stalls."""
    async with running(tmp_path) as run:
        first = await run.ready()
        os.kill(first.pid or 0, signal.SIGKILL)
        await until(lambda: run.status.restarts == 1 and run.status.state == "ready")
        async with run.control() as control, control.get("/metrics") as answer:
            text = await answer.text()
        assert 'gatehouse_engine_state{state="ready"} 1.0' in text
        assert 'gatehouse_engine_state{state="failed"} 0.0' in text
        assert 'gatehouse_engine_restarts_total{reason="exited"} 1.0' in text
        assert 'gatehouse_engine_startup_seconds{phase="importing"}' in text
        assert "gatehouse_engine_stalls_total 0.0" in text


async def test_reset_prefix_cache_says_what_it_needs(tmp_path: Path):
    """Outside of vLLM's development mode there is no such route: said so, not done silently."""
    async with running(tmp_path) as run:
        await run.ready()
        async with run.control() as control, control.post("/reset-prefix-cache") as answer:
            body = await answer.json()
            assert answer.status in {200, 501}, body
            assert answer.status == 200 or "VLLM_SERVER_DEV_MODE=1" in body["error"]


async def test_the_second_start_knows_how_long(tmp_path: Path):
    """After one start-up the next one says how long it will take."""
    async with running(tmp_path) as run:
        await run.ready()
        run.launcher.restart()
        await until(lambda: run.status.restarts == 1)
        await run.ready()
        assert any(status.eta_s is not None for status in run.seen if status.restarts == 1)
        assert all(status.eta_s is None for status in run.seen if status.restarts == 0)


async def test_a_dead_launchers_socket_is_replaced(tmp_path: Path):
    """The file that a SIGKILLed launcher left is no obstacle."""
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "engine.sock"))
    dead.close()
    async with running(tmp_path) as run:
        await run.ready()
        async with run.control() as control, control.get("/status") as answer:
            assert answer.status == 200


async def test_a_path_too_long_is_said(tmp_path: Path):
    """A Unix socket's path has at most 107 bytes: the message names the path and the remedy."""
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with pytest.raises(OSError, match="use a shorter state directory"):
        async with serve(None, Board(), deep):  # type: ignore[arg-type]
            pass
