"""What a request leaves in memory, however it ended: nothing that waits for the garbage collector.

The collector comes by seldom (gateway/server.py), and far more seldom to what it has found in use before.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.answer import Answer
from gateway.connections.client import ClientConnection
from gateway.context import Exchange
from gateway.delivery import Delivery
from gateway.stream import Stream
from gateway.upstream import Connection
from tests.support.engines import DEADLINE, MODEL
from tests.support.gateways import RunningGateway, gateway
from tests.support.scripted import Script, chunked, http_answer, scripted_engine

ROUNDS = 5
OF_REQUESTS = {Answer, ClientConnection, Connection, Delivery, Exchange, Stream}
PATH = "/v1/chat/completions"
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "word "}, "token_ids": [1]}]}\n\n'
EVENTS = "content-type: text/event-stream"
BEGUN = chunked([EVENT, EVENT], EVENTS, end=b"")
IMPATIENT = {"first_token_seconds": 0.05, "next_token_seconds": 0.05}

Ask = Callable[[RunningGateway, aiohttp.ClientSession], Awaitable[int]]


def asked(gate: RunningGateway, http: aiohttp.ClientSession, **fields: Any) -> Any:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], **fields}
    return http.post(gate.url + PATH, json=body, headers=gate.headers())


async def read(gate: RunningGateway, http: aiohttp.ClientSession, **fields: Any) -> int:
    """Read all that comes; the status."""
    async with asked(gate, http, **fields) as answer:
        with contextlib.suppress(aiohttp.ClientPayloadError):
            await answer.read()
        return int(answer.status)


async def leave(gate: RunningGateway, http: aiohttp.ClientSession) -> int:
    """Leave a stream in its middle."""
    async with asked(gate, http, stream=True) as answer:
        await answer.content.readany()
        answer.close()
        return int(answer.status)


async def look(gate: RunningGateway, http: aiohttp.ClientSession, path: str) -> int:
    """Ask for what is at a path."""
    async with http.get(gate.url + path, headers=gate.headers()) as answer:
        return int(answer.status)


async def talk(gate: RunningGateway, _http: aiohttp.ClientSession) -> int:
    """Say what is not HTTP."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gate.url.rpartition(":")[2]))
    writer.write(b"GET nothing that is HTTP\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


@dataclass
class Case:
    """What the engine does, what the client does, the status that it gets; `settings` of the gateway."""

    script: Script
    ask: Ask
    status: int = 200
    settings: dict[str, float] = field(default_factory=dict)


stream: Ask = partial(read, stream=True)
CASES = {
    "an answer": Case(Script([http_answer(b'{"choices": [], "usage": {"prompt_tokens": 1}}')]), read),
    "a stream": Case(Script([chunked([EVENT, b"data: [DONE]\n\n"], EVENTS)]), stream),
    "a client that leaves": Case(Script([BEGUN], hang=True), leave),
    "a stream that breaks off": Case(Script([BEGUN], close=True), stream),
    "a stream that is reset": Case(Script([BEGUN], abort=True), stream),
    "a stream that falls silent": Case(Script([BEGUN], hang=True), stream, settings=IMPATIENT),
    "a silent engine": Case(Script([], hang=True), stream, 504, IMPATIENT),
    "an engine that closes": Case(Script([], close=True), read, 503),
    "an engine that speaks no HTTP": Case(Script([b"what?\r\n\r\n"], hang=True), read, 503),
    "an engine that refuses": Case(Script([http_answer(b'{"error": {}}', status="400 Bad Request")]), stream, 400),
    "a request that is refused": Case(Script([]), partial(read, stream="perhaps"), 400),
    "a route that is not there": Case(Script([]), partial(look, path="/nowhere"), 404),
    "a method that is not offered": Case(Script([]), partial(look, path=PATH), 405),
    "what is not HTTP": Case(Script([]), talk, 400),
}


@pytest.fixture
def collector() -> Iterator[None]:
    """The garbage collector works again afterwards."""
    yield
    gc.enable()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.usefixtures("collector")
async def test_a_request_that_is_over_is_freed_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, case: Case
) -> None:
    """Nothing of it holds itself: without the garbage collector it is gone all the same."""
    caplog.set_level(logging.CRITICAL, "gatehouse.relay")  # pytest keeps what is logged, and with it the calls
    settings = {"max_resends": 0, **case.settings}
    async with scripted_engine() as engine, gateway(engine.url, tmp_path, gateway=settings) as gate:
        engine.answer = lambda _head, _body: case.script
        gc.collect()
        gc.disable()  # the gateway has enabled it
        before = in_memory()
        for _ in range(ROUNDS):
            async with aiohttp.ClientSession() as http:
                assert await case.ask(gate, http) == case.status
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE):
                while in_memory() - before:
                    await asyncio.sleep(0.01)
        assert not in_memory() - before


def in_memory() -> Counter[str]:
    """What there is of requests, connections to the engine that can be used again excepted."""
    found = (each for each in gc.get_objects() if type(each) in OF_REQUESTS)
    return Counter(type(each).__name__ for each in found if not (isinstance(each, Connection) and each.usable))
