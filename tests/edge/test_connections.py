"""Slow and greedy clients: each is ended in the stated time, at the stated cost, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.engines import MODEL
from tests.support.gateways import RunningGateway, gateway
from tests.support.scripted import Script, ScriptedEngine, chunked, http_answer, scripted_engine

DEADLINE = 60.0
PATIENT = {"head_seconds": 600}  # nobody is ended for being slow
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
EVENT = (
    b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
)


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with scripted_engine() as engine:
        yield engine


@pytest.fixture
async def gate(engine: ScriptedEngine, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with gateway(engine.url, tmp_path, gateway={"head_seconds": 0.5, "write_seconds": 1}) as gate:
        yield gate


Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(gate: RunningGateway, source: str = "127.0.0.2", *, receive: int | None = None) -> Peer:
    """A bare connection from an address of its own; `receive` bounds what its kernel takes unread."""
    wire = socket.socket()
    if receive is not None:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    wire.setblocking(False)
    wire.bind((source, 0))
    where = urlsplit(gate.url)
    await asyncio.get_running_loop().sock_connect(wire, (where.hostname, where.port))
    return await asyncio.open_connection(sock=wire, limit=1024 if receive else 2**16)


def raw(gate: RunningGateway, body: bytes, *fields: str) -> bytes:
    lines = "".join(f"{field}\r\n" for field in fields)
    token = gate.headers()["Authorization"]
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
    )
    return head.encode() + body


async def end_of(peer: Peer) -> bytes:
    """All that comes until the other side closes, however it does."""
    reader, writer = peer
    answer = b""
    async with asyncio.timeout(DEADLINE):
        try:
            while data := await reader.read(65536):
                answer += data
        except ConnectionError:
            pass
    writer.close()
    return answer


async def counted(gate: RunningGateway, reason: str, at_least: int = 1) -> None:
    async with asyncio.timeout(DEADLINE):
        while (await gate.metrics())[f'gatehouse_connections_ended_total{{reason="{reason}"}}'] < at_least:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("begun", [b"", b"POST /v1/chat/comp", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\r\n"])
async def test_a_head_that_never_ends(gate: RunningGateway, begun: bytes) -> None:
    """408 in the API's form after gateway.head_seconds; who has sent nothing is closed without a word."""
    peer = await connect(gate)
    peer[1].write(begun)
    answer = await end_of(peer)
    if begun:
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    else:
        assert answer == b""
    await counted(gate, "head_timeout")


async def test_a_head_that_comes_byte_by_byte(gate: RunningGateway) -> None:
    """Each byte in time does not help: the deadline is that of the whole head."""
    peer = await connect(gate)

    peer[1].write(b"GET / HTTP/1.1\r\nX-A: ")

    async def trickle() -> None:
        while True:
            peer[1].write(b"X")
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    assert (await end_of(peer)).startswith(b"HTTP/1.1 408 ")
    trickling.cancel()


async def test_a_second_head_that_never_ends(gate: RunningGateway) -> None:
    """An idle connection may stay; once a head has begun on it, it has to come."""
    peer = reader, writer = await connect(gate)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(DEADLINE):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    await asyncio.sleep(1.2)  # more than head_seconds and a sweep
    assert not reader.at_eof()
    writer.write(b"GET /healthz HTTP/1.1\r\nHo")
    assert (await end_of(peer)).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100 + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 10_000 + b"\r\n\r\n",
        b"GET /" + b"y" * 10_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_a_head_that_is_too_large(gate: RunningGateway, head: bytes) -> None:
    """431 in the API's form, and nobody learns which server this is."""
    peer = await connect(gate)
    peer[1].write(head)
    answer = await end_of(peer)
    assert b" 431 Request Header Fields Too Large\r\n" in answer[:64]
    assert b"headers_too_large" in answer
    assert b"aiohttp" not in answer
    await counted(gate, "head_too_large")


async def test_connections_from_one_address_are_bounded(engine: ScriptedEngine, tmp_path: Path) -> None:
    """The eleventh gets 503; who closes one may open one; another address is not concerned."""
    async with gateway(engine.url, tmp_path, gateway={**PATIENT, "max_connections_per_address": 10}) as gate:
        peers = [await connect(gate) for _ in range(10)]
        refused = await end_of(await connect(gate))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"too_many_connections" in refused
        async with gate.http.get(gate.url + "/healthz") as answer:
            assert answer.status == 200
        peers.pop()[1].close()
        async with asyncio.timeout(DEADLINE):
            while True:
                peer = await connect(gate)
                peer[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                if (await end_of(peer)).startswith(b"HTTP/1.1 200 "):
                    break
        for _, writer in peers:
            writer.close()
        await counted(gate, "address_limit")


async def test_who_only_waits_makes_room(engine: ScriptedEngine, tmp_path: Path) -> None:
    """When all connections are taken, one that has sent no request is closed for the newcomer, who is served."""
    async with gateway(engine.url, tmp_path, gateway={**PATIENT, "max_connections": 20}) as gate:
        peers = [await connect(gate, f"127.0.0.{10 + i}") for i in range(25)]
        async with gate.http.get(gate.url + "/healthz") as answer:
            assert answer.status == 200
        await counted(gate, "evicted", 5)
        for _, writer in peers:
            writer.close()


@pytest.mark.parametrize("whole", [True, False])
async def test_a_client_that_reads_nothing(gate: RunningGateway, engine: ScriptedEngine, whole: bool) -> None:
    """It is cut off after gateway.write_seconds, be its answer a stream or in one piece; the engine's work ends."""
    answer = json.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}, "x": "y" * 8_000_000})
    events = chunked([EVENT % (b"x" * 60_000)] * 200, "content-type: text/event-stream", end=b"")
    engine.answer = lambda _head, _body: (
        Script([http_answer(answer.encode(), "content-type: application/json")])
        if whole
        else Script([events], hang=True)
    )
    peer = await connect(gate, receive=4096)
    peer[1].write(raw(gate, json.dumps({**HELLO, "stream": not whole}).encode()))
    [line] = await gate.logged(1)
    if not whole:
        assert line["outcome"] == "client_gone"
    async with asyncio.timeout(DEADLINE):
        while (await gate.metrics())["gatehouse_connections"] > 1:  # that of the test's own client
            await asyncio.sleep(0.05)
        while not whole and engine.open > 1:  # one is the health check's
            await asyncio.sleep(0.05)
    await counted(gate, "reads_nothing")
    peer[1].close()


async def test_a_slow_reader_that_reads_is_served(gate: RunningGateway, engine: ScriptedEngine) -> None:
    """Whoever takes what waits for them, however long it takes in all, gets everything."""
    event = EVENT % (b"x" * 1000)
    engine.answer = lambda _head, _body: Script(
        [chunked([event] * 800 + [b"data: [DONE]\n\n"], "content-type: text/event-stream")]
    )
    reader, writer = await connect(gate, receive=4096)
    writer.write(raw(gate, json.dumps({**HELLO, "stream": True}).encode(), "Connection: close"))
    got = b""
    async with asyncio.timeout(60):
        while data := await reader.read(16_384):
            got += data
            await asyncio.sleep(0.04)  # 50 pauses at least: 2 s, twice write_seconds
    assert b"[DONE]" in got
    writer.close()
