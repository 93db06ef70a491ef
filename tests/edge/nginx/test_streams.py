"""Streams through the real nginx, over HTTP/2: a token passes as soon as it is there, and reloads break nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import MODEL
from tests.support.gateways import RunningGateway, gateway
from tests.support.http2 import Answer, Connection, connection
from tests.support.nginx import DOMAIN, Nginx, nginx_before
from tests.support.turns import EngineInTurns, engine_in_turns

TOKENS = 5
TABS = 8
DEADLINE = 60.0
BEHIND_NGINX = {"trusted_proxies": ["127.0.0.0/8"]}


def browser(edge: Nginx) -> contextlib.AbstractAsyncContextManager[Connection]:
    """A client with one HTTP/2 connection."""
    return connection(edge.port, edge.tls_h2, DOMAIN)


@contextlib.asynccontextmanager
async def way_in(tmp_path: Path) -> AsyncIterator[tuple[EngineInTurns, RunningGateway, Nginx, Connection]]:
    """An engine that takes turns, a gateway, nginx, and a browser before them all; for no longer than DEADLINE."""
    async with (
        engine_in_turns(TOKENS) as engine,
        gateway(engine.url, tmp_path, gateway=BEHIND_NGINX) as gate,
        nginx_before(gate.url) as edge,
        browser(edge) as http,
        asyncio.timeout(DEADLINE),
    ):
        yield engine, gate, edge, http


def question(name: str) -> dict[str, Any]:
    return {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": name}]}


async def tokens_of(answer: Answer) -> AsyncIterator[bytes]:
    """The events of a stream that carry a token, as they come."""
    rest = b""
    async for piece in answer:
        *events, rest = (rest + piece).split(b"\n\n")
        for event in events:
            if b"delta" in event:
                yield event


async def stream(
    http: Connection, gate: RunningGateway, engine: EngineInTurns, name: str, barrier: asyncio.Barrier | None = None
) -> list[bytes]:
    """Read a whole stream, letting the engine send a token only when the one before has been read here."""
    seen = []
    answer = await http.post("/v1/chat/completions", question(name), gate.headers())
    assert await answer.status == 200
    async for token in tokens_of(answer):
        seen.append(token)
        if barrier is not None:
            await barrier.wait()
        engine.go_on(name)
    return seen


async def test_each_token_passes_before_the_next_is_made(tmp_path: Path) -> None:
    """The engine makes its next token only after the client has read the one before: nothing holds one back.

    So the first token is not delayed for anything that the engine, or a buffer, would have to wait for.
    """
    async with way_in(tmp_path) as (engine, gate, edge, http):
        seen = await stream(http, gate, engine, "a")
        assert [f"a-{number} ".encode() in token for number, token in enumerate(seen)] == [True] * TOKENS
        assert "[warn]" not in edge.error_log
        assert "[error]" not in edge.error_log


async def test_eight_tabs_stream_at_once_over_one_connection(tmp_path: Path) -> None:
    """All eight must have their token before any gets the next: none waits for another's stream to end."""
    async with way_in(tmp_path) as (engine, gate, edge, http):
        barrier = asyncio.Barrier(TABS)
        seen = await asyncio.gather(*(stream(http, gate, engine, f"tab{tab}", barrier) for tab in range(TABS)))
        assert [len(tokens) for tokens in seen] == [TOKENS] * TABS
        lines = await edge.logged(TABS, path="/v1/chat/completions", status=200)
        assert {line["connection"] for line in lines} == {lines[0]["connection"]}


async def test_a_reload_breaks_no_stream(tmp_path: Path) -> None:
    """A stream that runs while nginx takes over its configuration goes on to its end; new requests meet new workers."""
    async with way_in(tmp_path) as (engine, gate, edge, http):
        tokens = tokens_of(await http.post("/v1/chat/completions", question("a"), gate.headers()))
        await anext(tokens)
        before = edge.workers()
        await edge.reload()
        assert edge.workers() - before
        await http.goaway.wait()
        async with browser(edge) as other:
            assert await (await other.get("/healthz")).status == 200
        seen = 1
        engine.go_on("a")
        async for _ in tokens:
            seen += 1
            engine.go_on("a")
        assert seen == TOKENS
        assert engine.broken == set()


async def test_a_client_that_leaves_ends_the_engines_work(tmp_path: Path) -> None:
    """A tab that is closed in mid-stream (RST_STREAM) reaches the engine through nginx and gateway; the record knows."""
    async with way_in(tmp_path) as (engine, gate, _, http):
        answer = await http.post("/v1/chat/completions", question("a"), gate.headers())
        await anext(tokens_of(answer))
        answer.reset()
        await gate.logged(1, outcome="client_gone")
        while "a" not in engine.broken:
            await asyncio.sleep(0.01)
        assert await (await http.get("/healthz")).status == 200  # the connection itself goes on


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_gateway_that_is_away_is_passed_over(tmp_path: Path, method: str) -> None:
    """Of two workers one refuses connections: every request is answered by the other, a POST too."""
    async with (
        engine_in_turns(1) as engine,
        gateway(engine.url, tmp_path, gateway=BEHIND_NGINX) as gate,
        nginx_before("http://127.0.0.1:1", gate.url) as edge,
        browser(edge) as http,
    ):
        for number in range(6):
            if method == "POST":
                answer = await http.post("/v1/chat/completions", question(f"{number}"), gate.headers())
            else:
                answer = await http.get("/v1/models", gate.headers())
            assert await answer.status == 200
