"""The attack corpus (tests/edge/corpus), each case at the gateway alone and behind the real nginx."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import pytest

from gateway.headers import TO_ENGINE
from gateway.routes import ENGINE_ROUTES
from tests.edge.conftest import World
from tests.edge.corpus.case import ID, ORIGIN, SESSION, Case
from tests.support.engines import MODEL
from tests.support.wire import Answer, Wire

FILES = (
    "framing", "request_line", "paths", "headers", "credentials", "cookies", "chat", "websocket", "json_bodies", "fields", "media",
)  # fmt: skip
CASES: list[Case] = [each for name in FILES for each in import_module(f"tests.edge.corpus.{name}").CASES]
OURS = {"host", "user-agent", "x-request-id", "content-length", "content-type", "accept-encoding", "authorization"}
FROM_US = TO_ENGINE | OURS
MARK = "the-next-answer"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("behind_nginx", [False, True], ids=["alone", "nginx"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_case(world: World, case: Case, behind_nginx: bool) -> None:
    """The answers are those that are stated, the connection is closed or in step, the engine got what is stated."""
    id_ = f"c{CASES.index(case):07}"
    before = len(world.engine.received)
    wire = await world.connect(behind_nginx=behind_nginx)
    expected = case.nginx if behind_nginx and case.nginx is not None else case.alone
    statuses = (expected,) if isinstance(expected, int) else expected
    try:
        wire.send(filled(case.send, {ID: id_, SESSION: world.session, ORIGIN: world.origin(behind_nginx=behind_nginx)}))
        answers = [await wire.answer(bodiless=case.bodiless and i == 0) for i in range(max(1, len(statuses)))]
        got = tuple(each.status for each in answers if each is not None)
        assert got == statuses, [each.body[:300] for each in answers if each is not None]
        if got[-1:] == (101,):
            assert b"HTTP/" not in await farewell(wire), "an answer in a WebSocket"
        else:
            extra = await out_of_step(wire)
            assert extra is None, f"an answer too many, or to another request: {extra}"
    finally:
        wire.abort()
    for each in answers:
        assert each is None or no_secrets(each), each
    if answers and answers[0] is not None and not case.bodiless:
        check_error(answers[0], "" if behind_nginx else case.code)
    reached = world.engine.received[before:]
    wanted = case.engine_behind_nginx if behind_nginx and case.engine_behind_nginx is not None else case.engine
    assert [plain(head, body) for head, body in reached] == [
        json.loads(json.dumps(each).replace(ID, id_)) for each in wanted
    ]
    for head, _ in reached:
        check_head(head, world.engine.url)


async def test_nothing_else_reached_the_engine(world: World) -> None:
    """Nothing came late either, and the gateway is as it was: nothing in flight, no error of its own."""
    count = len(world.engine.received)
    async with world.gate.http.get(world.gate.url + "/readyz") as answer:
        assert answer.status == 200
    metrics = await world.gate.metrics()
    assert len(world.engine.received) == count
    assert metrics["gatehouse_in_flight"] == 0
    assert not [line for line in world.gate.log_lines() if line["status"] >= 500]


async def test_the_corpus() -> None:
    """Names are unique, and every case says why."""
    assert len({case.name for case in CASES}) == len(CASES) >= 250
    assert all(case.why for case in CASES)


def filled(data: bytes, values: dict[str, str]) -> bytes:
    """The bytes of a case, with what its placeholders stand for."""
    for name, value in values.items():
        data = data.replace(name.encode(), value.encode())
    return data


async def out_of_step(wire: Wire) -> Answer | None:
    """Send one more request: the answer that is not its own, if there is one."""
    wire.send(f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {MARK}\r\n\r\n".encode())
    answer = await wire.answer()
    return answer if answer is not None and answer.fields.get("x-request-id") != MARK else None


async def farewell(wire: Wire) -> bytes:
    """Close a WebSocket; all that comes over it until the other side has closed it, too."""
    wire.send(b"\x88\x82" + bytes(4) + (1000).to_bytes(2))  # masked, with zeros (RFC 6455, section 5.2)
    return await wire.rest()


def check_error(answer: Answer, code: str) -> None:
    """Errors, nginx's too, have the API's shape, a message, and the code that is stated."""
    if answer.status >= 400:
        body = json.loads(answer.body)
        assert body["error"]["message"]
        assert len(answer.body) < 1500
        if code:
            assert body["error"]["code"] == code


def no_secrets(answer: Answer) -> bool:
    """No answer names the server's software, its files, or what was sent to it as a token."""
    text = (str(answer.fields) + answer.body[:2000].decode("latin-1")).lower()
    return not any(word in text for word in ("aiohttp", "python", "traceback", "uvicorn", "/tests/", "bearer ey"))


def plain(head: bytes, body: bytes) -> dict[str, Any]:
    """What the engine got, less what the gateway adds."""
    fields = json.loads(body)
    fields.pop("priority", None)
    if fields.get("model") == MODEL:
        del fields["model"]
    return {"path": head.split(b" ")[1].decode(), **fields}


def check_head(head: bytes, engine_url: str) -> None:
    """A route of ours, the engine's own Host, no field that may not pass."""
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, path, version = first.split(" ")
    assert (method, version) == ("POST", "HTTP/1.1")
    assert path in {route.path for route in ENGINE_ROUTES}
    fields = [line.partition(": ")[::2] for line in lines]
    names = [name.lower() for name, _ in fields]
    assert set(names) <= FROM_US
    assert len([name for name in names if name in OURS]) == len(set(names) & OURS)
    values = {name.lower(): value for name, value in fields}
    assert values["host"] == engine_url.removeprefix("http://")
    assert "eyJ" not in head.decode("latin-1")
    assert not any("evil" in value.lower() for name, value in fields if name.lower() not in {"traceparent"})
