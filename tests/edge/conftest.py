"""One gateway and one nginx for the whole corpus."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from gateway.store import database_address
from tests.edge.corpus import case as cases
from tests.support.engines import MODEL
from tests.support.gateways import RunningGateway, gateway
from tests.support.members import PASSWORD, add_user
from tests.support.nginx import Nginx, nginx_before
from tests.support.scripted import Script, ScriptedEngine, chunked, http_answer, scripted_engine
from tests.support.wire import Wire

SETTINGS: dict[str, Any] = {
    "head_seconds": 1,
    "body_seconds": 1,
    "max_body_bytes": 1_000_000,
    "trusted_proxies": ["127.0.0.1"],
    "media_domains": ["images.example.com"],
    "model_aliases": ["alias"],
}
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
IN_AND_OUT = {"input_tokens": 1, "output_tokens": 1}
STREAMS: dict[bytes, list[dict[str, Any]]] = {
    b"/v1/responses": [{"type": "response.completed", "response": {"id": "resp_1", "usage": IN_AND_OUT}}],
    b"/v1/messages": [
        {"type": "message_start", "message": {"usage": IN_AND_OUT}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": IN_AND_OUT},
        {"type": "message_stop"},
    ],
}


@dataclass
class World:
    """What cases run against."""

    engine: ScriptedEngine
    gate: RunningGateway
    edge: Nginx
    session: str
    tls: ssl.SSLContext

    async def connect(self, *, behind_nginx: bool) -> Wire:
        """A connection to the gateway, or to nginx before it."""
        if behind_nginx:
            return await Wire.open(self.edge.port, self.tls)
        return await Wire.open(int(self.gate.url.rpartition(":")[2]))

    def origin(self, *, behind_nginx: bool) -> str:
        """The page's origin, as a browser knows it."""
        return self.edge.url if behind_nginx else "https://localhost"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """An engine that answers everything, a gateway, a user who is signed in, and nginx."""
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(scripted_engine())
        engine.answer = answer
        state = tmp_path_factory.mktemp("state")
        secret = state / "corpus.key"
        secret.write_bytes(cases.SECRET)
        secret.chmod(0o600)
        gate = await stack.enter_async_context(
            gateway(engine.url, state, gateway=SETTINGS, auth={"secret_file": secret})
        )
        await add_user(database_address(gate.config), "corpus")
        edge = await stack.enter_async_context(nginx_before(gate.url, settings=gate.config.gateway))
        login = {"username": "corpus", "password": PASSWORD}
        async with gate.http.post(gate.url + "/auth/login", json=login) as signed_in:
            session = signed_in.cookies["__Host-session"].value
        yield World(engine, gate, edge, session, edge.tls)


def stream(path: bytes) -> list[bytes]:
    """The events of a whole answer, in the words of the path's API."""
    if path not in STREAMS:
        event = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}], "usage": USAGE}
        return [f"data: {json.dumps(event)}\n\n".encode(), b"data: [DONE]\n\n"]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in STREAMS[path]]


def answer(head: bytes, body: bytes) -> Script:
    """Something well-formed for each route."""
    if json.loads(body or b"{}").get("stream"):
        return Script([chunked(stream(head.split(b" ")[1]), "content-type: text/event-stream")])
    said = {"id": "chatcmpl-1", "model": MODEL, "choices": [], "usage": USAGE}
    return Script([http_answer(json.dumps(said).encode(), "content-type: application/json")])
