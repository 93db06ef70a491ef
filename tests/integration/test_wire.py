"""HTTP between a client and the gateway, on the wire: versions, keep-alive, 100 Continue, the end of a stream."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.engines import MODEL
from tests.support.gateways import RunningGateway, gateway
from tests.support.scripted import Script, ScriptedEngine, chunked, http_answer, scripted_engine

EVENTS = [b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', b"data: [DONE]\n\n"]
PATH = "/v1/chat/completions"


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with scripted_engine() as engine:
        yield engine


@pytest.fixture
async def gate(engine: ScriptedEngine, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with gateway(engine.url, tmp_path) as gate:
        yield gate


def request(gate: RunningGateway, *fields: str, version: str = "1.1", stream: bool = False, path: str = PATH) -> bytes:
    """The head of a request and its body, by which it ends."""
    body = json.dumps({"model": MODEL, "messages": [], "stream": stream})
    lines = [f"POST {path} HTTP/{version}", "Host: x", f"Authorization: Bearer {gate.token()}", *fields]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


async def dial(gate: RunningGateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = gate.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def to_the_end(gate: RunningGateway, data: bytes) -> tuple[str, bytes]:
    """Send, read until the gateway closes: head and what follows it."""
    reader, writer = await dial(gate)
    writer.write(data)
    async with asyncio.timeout(60):
        head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head.decode("latin-1").lower(), rest


async def test_a_stream_to_an_http_1_0_client_ends_with_the_connection(
    engine: ScriptedEngine, gate: RunningGateway
) -> None:
    """HTTP/1.0 has no chunked coding: the bytes come bare, and the closed connection is the end."""
    engine.answer = lambda _head, _body: Script([chunked(EVENTS, "content-type: text/event-stream")])
    head, body = await to_the_end(gate, request(gate, version="1.0", stream=True))
    assert head.startswith("http/1.0 200 ok")
    assert "transfer-encoding" not in head
    assert body == b"".join(EVENTS)


async def test_an_http_1_0_client_may_keep_its_connection(engine: ScriptedEngine, gate: RunningGateway) -> None:
    """If it asks for that; otherwise it is closed after the answer."""
    engine.answer = lambda _head, _body: Script([http_answer(b"{}")])
    keeping = request(gate, "Connection: keep-alive", version="1.0") + request(gate, version="1.0")
    head, rest = await to_the_end(gate, keeping)
    assert "connection: keep-alive" in head
    second = rest.decode("latin-1").lower()
    assert second.startswith("{}http/1.0 200")
    assert "connection: keep-alive" not in second


async def test_a_client_that_closes_gets_its_whole_answer_first(engine: ScriptedEngine, gate: RunningGateway) -> None:
    """`Connection: close` is answered in kind, for streams and for answers in one piece."""
    engine.answer = lambda _head, _body: Script([chunked(EVENTS, "content-type: text/event-stream")])
    head, body = await to_the_end(gate, request(gate, "Connection: close", stream=True))
    assert "connection: close" in head
    assert "transfer-encoding: chunked" in head
    assert body.endswith(b"\r\n0\r\n\r\n")
    engine.answer = lambda _head, _body: Script([http_answer(b'{"a":1}')])
    head, body = await to_the_end(gate, request(gate, "Connection: close"))
    assert "connection: close" in head
    assert body == b'{"a":1}'


async def test_requests_that_come_at_once_are_answered_in_their_order(
    engine: ScriptedEngine, gate: RunningGateway
) -> None:
    """Pipelining, a stream between two answers in one piece, also by a path that only the router knows."""
    engine.answer = lambda head, body: (
        Script([chunked(EVENTS, "content-type: text/event-stream")])
        if b'"stream":true' in body.replace(b" ", b"")
        else Script([http_answer(b'{"one":1}')])
    )
    data = request(gate) + request(gate, stream=True) + request(gate, "Connection: close", path=PATH + "?x=1")
    _, rest = await to_the_end(gate, data)
    assert rest.startswith(b'{"one":1}HTTP/1.1 200 OK')
    assert rest.endswith(b'{"one":1}')
    assert rest.count(b"HTTP/1.1 200 OK") == 2
    assert b"data: [DONE]\n\n\r\n0\r\n\r\nHTTP/1.1" in rest


async def test_who_waits_to_be_told_is_told_to_continue(engine: ScriptedEngine, gate: RunningGateway) -> None:
    """`Expect: 100-continue`: the body is asked for before it is read."""
    engine.answer = lambda _head, _body: Script([http_answer(b"{}")])
    reader, writer = await dial(gate)
    head, _, body = request(gate, "Expect: 100-continue").partition(b"\r\n\r\n")
    writer.write(head + b"\r\n\r\n")
    async with asyncio.timeout(60):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
    writer.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_every_answer_says_when_and_by_whom_it_was_made(
    engine: ScriptedEngine, gate: RunningGateway, stream: bool
) -> None:
    """`Date` in the form of RFC 9110, `Server`, the request's id: each once, the engine's own never."""
    fields = ("date: Thu, 01 Jan 1970 00:00:00 GMT", "server: engine", "x-request-id: engine")
    engine.answer = lambda _head, _body: Script(
        [chunked(EVENTS, "content-type: text/event-stream", *fields) if stream else http_answer(b"{}", *fields)]
    )
    head, _ = await to_the_end(gate, request(gate, "Connection: close", "X-Request-Id: mine", stream=stream))
    lines = head.split("\r\n")
    assert [line for line in lines if line.startswith("server:")] == ["server: gatehouse"]
    assert [line for line in lines if line.startswith("x-request-id:")] == ["x-request-id: mine"]
    [date] = [line for line in lines if line.startswith("date:")]
    assert re.fullmatch(r"date: \w{3}, \d\d \w{3} 20\d\d \d\d:\d\d:\d\d gmt", date)
