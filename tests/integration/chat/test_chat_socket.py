"""The WebSocket: who may open one, when it is closed, and that nothing is lost on it."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.chat import socket as chat_socket
from gateway.chat.replay import Replay
from gateway.context import Api, Exchange
from tests.support.engines import simulator
from tests.support.gateways import gateway
from tests.support.members import OVER_HTTP, member, sign_in


async def test_who_may_connect(tmp_path: Path) -> None:
    """Only this site's own page, to the letter, and only with a session; a token is none."""
    async with simulator() as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada = await member(gate)
        host = gate.url.removeprefix("http://")
        own = {"Cookie": ada.cookie, "Origin": gate.url}
        foreign = [
            "https://evil.example",
            "null",
            "",
            f"{gate.url}.evil.example",
            f"http://x.{host}",
            f"{gate.url}/",
            "file://",
        ]
        wrong: list[tuple[dict[str, str], int]] = [({**own, "Origin": origin}, 403) for origin in foreign]
        wrong += [({"Cookie": ada.cookie}, 403), ({"Origin": gate.url}, 401)]
        wrong += [({"Origin": gate.url, "Authorization": f"Bearer {gate.token('ada', scopes=('chat',))}"}, 403)]
        for headers, status in wrong:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await gate.http.ws_connect(f"{gate.url}/api/ws", headers=headers)
            assert refused.value.status == status, headers
        async with ada.tab(Origin=f"https://{host}") as tab:  # behind nginx
            await tab.socket.send_str("{}")
            assert (await tab.until("refused"))["code"] == "invalid_frame"
        plain = await ada.call("GET", "/api/ws", Origin=gate.url)
        assert plain.status == 400
    settings = {"auth": {**OVER_HTTP, "public_url": "https://chat.example.com"}}
    async with simulator() as engine, gateway(engine.url, tmp_path, **settings) as gate:
        ada = await sign_in(gate.url, gate.http, "ada")
        async with ada.tab(Origin="https://chat.example.com"):
            pass
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await gate.http.ws_connect(f"{gate.url}/api/ws", headers={"Cookie": ada.cookie, "Origin": gate.url})


async def test_when_a_session_ends(tmp_path: Path) -> None:
    """A revoked session closes its tabs with 4401 at once, ends its runs, and keeps what had come; others go on."""
    async with simulator(knobs={"tps": 50}) as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada = await member(gate)
        phone = await sign_in(gate.url, gate.http, "ada")
        chat = await ada.made(params={"max_tokens": 4000})
        run = await ada.asked(chat)
        async with ada.tab() as tab, phone.tab() as other:
            await tab.sub(run)
            await other.sub(run)
            await tab.until("c")
            following = asyncio.create_task(ada.frames(run))
            await ada.ok("POST", "/auth/logout", {})
            assert await tab.closed() == 4401
            end = await other.until("end")
            assert end["status"] == "failed"
            (error,) = [frame for frame in other.seen if frame["t"] == "error"]
            assert error["code"] == "session_expired"
            assert len(await following) <= end["seq"]
        assert (await phone.message(chat, run))["content"]
        await engine.until("vllm:num_requests_running", 0)
        (line,) = await gate.logged(1, route="/api/chats/{id}/runs")
        assert (line["outcome"], line["error_code"]) == ("rejected", "session_expired")


async def test_idle_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open tab does not keep a session alive: when it was not used for too long, the tab is closed with 4401."""
    monkeypatch.setattr(chat_socket, "HEARTBEAT_SECONDS", 0.05)
    settings = {"auth": {**OVER_HTTP, "session_idle_hours": 3 / 3600}}
    async with simulator() as engine, gateway(engine.url, tmp_path, **settings) as gate:
        ada = await member(gate)
        async with ada.tab() as tab:
            await tab.until("hb")
            assert await tab.closed() == 4401
        assert (await ada.call("GET", "/api/chats")).status == 401


async def test_floods(tmp_path: Path) -> None:
    """Too large a frame, too many frames, too many tabs: the one who sends them is sent away, nobody else."""
    async with simulator() as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP, chat={"max_tabs": 2}) as gate:
        ada = await member(gate)
        async with ada.tab() as calm:
            async with ada.tab() as tab:
                await tab.socket.send_str("x" * 5000)
                assert await tab.closed() == 1009
            async with ada.tab() as tab:
                for _ in range(300):
                    await tab.socket.send_str('{"t":"unsub","run":"m"}')
                assert await tab.closed() == 4429
            async with ada.tab() as tab:
                for junk in (
                    "[",
                    "null",
                    '{"t":"sub"}',
                    '{"t":"sub","run":7}',
                    '{"t":"nonsense","run":"m"}',
                    "[" * 3000,
                ):
                    await tab.socket.send_str(junk)
                    assert (await tab.until("refused"))["code"] == "invalid_frame"
                await tab.socket.send_bytes(b"x")
                await tab.until("refused")
            chat = await ada.made()
            assert (await calm.until("chat"))["chat"]["id"] == chat
            async with ada.tab(), ada.tab():
                assert await calm.closed() == 4429


async def test_a_tab_that_does_not_read() -> None:
    """A tab that takes nothing is given up, whatever waits for it; what is due is not put into memory before."""
    replay, seen = Replay("m_1"), []
    for _ in range(400):
        replay.add("c", {"text": "x" * 50_000})  # 20 MB: more than any socket's buffers
    gone = asyncio.Event()

    async def connect(request: web.Request) -> web.StreamResponse:
        async def find(_owner: str, _run: str) -> Replay:
            return replay

        async def session_over() -> bool:
            return False

        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        tab = chat_socket.Tab(socket, "ada", find, write_seconds=0.5)
        exchange = Exchange("1", "GET", "/api/ws", Api.OTHER, "", "")
        serving = asyncio.create_task(tab.serve(exchange, session_over))
        while not serving.done():
            transport = request.transport
            seen.append(transport.get_write_buffer_size() if transport is not None else 0)
            await asyncio.sleep(0.01)
        seen.append(tab.too_slow)
        gone.set()
        return socket

    app = web.Application()
    app.router.add_get("/", connect)
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession() as http,
        http.ws_connect(server.make_url("/"), max_msg_size=0) as socket,
    ):
        socket._response.connection.transport.pause_reading()
        await socket.send_json({"t": "sub", "run": "m_1", "from": 0})
        async with asyncio.timeout(60):
            await gone.wait()
        socket._response.connection.transport.abort()
    *buffered, too_slow = seen
    assert too_slow
    assert max(buffered) < 2_000_000


async def test_two_tabs_in_step(tmp_path: Path) -> None:
    """What changes in one tab is told to the member's others, with what they need; to nobody else's."""
    async with simulator(knobs={"tps": 0}) as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada, bob = await member(gate), await member(gate, "bob")
        async with ada.tab() as tab, bob.tab() as stranger:
            chat = await ada.made()
            await told(tab, id=chat, title="")
            run = await ada.asked(chat, "Good morning", params={"max_tokens": 5})
            await told(tab, id=chat, title="Good morning", head=run, runs=[])
            await ada.ok("PATCH", f"/api/chats/{chat}", {"title": "Tea", "pinned": True})
            await told(tab, id=chat, title="Tea", pinned=True)
            await ada.ok("DELETE", f"/api/chats/{chat}")
            await told(tab, id=chat, deleted=True)
            await ada.ok("PATCH", f"/api/chats/{chat}", {"deleted": False})
            await told(tab, id=chat, deleted=False)
            exported = await ada.call("GET", "/api/export")
            await ada.call("POST", "/api/import", exported.body)
            await tab.until("chats")
            await bob.made()
            await stranger.until("chat")
            assert [frame["t"] for frame in stranger.seen] == ["hello", "chat"]
        await engine.knobs(tps=20)
        later = await ada.asked(chat, params={"max_tokens": 4000})
        async with ada.tab() as tab:
            (going,) = tab.seen[0]["runs"]
            assert (going["run"], going["chat"]) == (later, chat)
        await ada.ok("DELETE", f"/api/chats/{chat}")
        assert (await ada.frames(later))[-1]["t"] == "end"
        assert (await ada.ok("GET", "/api/runs"))["runs"] == []


async def told(tab: Any, **fields: Any) -> None:
    """Wait until the tab hears of a chat that is so."""
    async with asyncio.timeout(60):
        while True:
            frame = await tab.until("chat")
            if fields.items() <= {key: value for key, value in frame["chat"].items() if key in fields}.items():
                return
