"""Bad input: a clear error in the API's shape, nothing reaches the engine that should not, the connection stays usable."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.engines import FAST, MODEL, Simulator, simulator
from tests.support.gateways import RunningGateway, gateway

CHAT = "/v1/chat/completions"
NUMBERS = itertools.count()
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Simulator, RunningGateway]]:
    """One engine and one gateway: whatever one test sends must leave them as good for the next."""
    limits = {"max_body_bytes": 1_000_000, "body_seconds": 2}
    async with simulator() as engine, gateway(engine.url, tmp_path_factory.mktemp("state"), gateway=limits) as gate:
        yield engine, gate


@pytest_asyncio.fixture(loop_scope="module")
async def engine(served: tuple[Simulator, RunningGateway]) -> Simulator:
    """The engine, which remembers no request of earlier tests."""
    engine, _ = served
    await engine.reset()
    await engine.knobs(**FAST)
    return engine


@pytest.fixture
def gate(served: tuple[Simulator, RunningGateway]) -> RunningGateway:
    return served[1]


class Client:
    """One raw connection, used for all requests of a test: an answer leaves it usable, or it does not."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, raw: bytes) -> tuple[int, dict[str, str], Any]:
        self.writer.write(raw)
        async with asyncio.timeout(60):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(fields["content-length"]))
        return int(head[0].split()[1]), fields, json.loads(body) if body else None


@pytest_asyncio.fixture(loop_scope="module")
async def client(gate: RunningGateway) -> AsyncIterator[Client]:
    host, port = gate.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    yield Client(reader, writer)
    writer.close()


def request(gate: RunningGateway, body: bytes, path: str = CHAT, method: str = "POST", **fields: str) -> bytes:
    """A raw request; a field given as "" is left out."""
    headers = {
        "Host": "gateway",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **gate.headers(),
    }
    headers |= {name.replace("_", "-"): value for name, value in fields.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


BAD_BODIES = [
    (b"", 400, "invalid_json"),
    (b'{"model": "gpt-oss-20b", "messages": [', 400, "invalid_json"),
    (b"[]", 400, "invalid_json"),
    (b'{"messages": "\xff"}', 400, "invalid_json"),
    (b'{"a":' * 1000 + b"1" + b"}" * 1000, 400, "json_too_deep"),
    (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", 400, "json_too_deep"),
    (json.dumps({**HELLO, "max_tokens": "abc"}).encode(), 400, "invalid_type"),
    (json.dumps({**HELLO, "stream": "maybe"}).encode(), 400, "invalid_type"),
    (json.dumps({**HELLO, "model": "nope"}).encode(), 404, "model_not_found"),
    (json.dumps({**HELLO, "model": ["gpt-oss-20b"]}).encode(), 400, "invalid_type"),
    (json.dumps({**HELLO, "n": 100000}).encode(), 400, "value_out_of_range"),
    (json.dumps({**HELLO, "priority": -5}).encode(), 400, "field_not_allowed"),
]


@pytest.mark.parametrize(("body", "status", "code"), BAD_BODIES)
@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
async def test_bad_bodies(
    gate: RunningGateway, engine: Simulator, client: Client, body: bytes, status: int, code: str, path: str
) -> None:
    """Each is refused with what was wrong; the same connection serves a good request next; the engine saw only that."""
    name = f"{next(NUMBERS)}"
    got, fields, answer = await client.ask(request(gate, body, path, X_Request_Id=name))
    assert got == status
    assert answer["error"]["message"]
    if path == CHAT:
        assert answer["error"]["code"] == code
    else:
        assert answer["type"] == "error"
        assert fields["request-id"] == answer["request_id"]
    assert fields["x-request-id"] == name
    got, _, answer = await client.ask(request(gate, json.dumps(HELLO).encode()))
    assert got == 200
    posts = [r for r in await engine.requests() if r["method"] == "POST"]
    assert len(posts) == 1
    [line] = await gate.logged(1, request_id=name)
    assert (line["outcome"], line["status"], line["error_code"]) == ("rejected", status, code)


async def test_a_body_of_20_mb(gate: RunningGateway, engine: Simulator, client: Client) -> None:
    """413 naming the limit; whoever still sends is read out, and the connection serves the next request."""
    body = json.dumps({**HELLO, "x": "y" * 20_000_000}).encode()
    status, _, answer = await client.ask(request(gate, body))
    assert status == 413
    assert "1000000" in answer["error"]["message"]
    assert answer["error"]["code"] == "request_too_large"
    assert (await client.ask(request(gate, json.dumps(HELLO).encode())))[0] == 200


async def test_a_large_body_without_a_length(gate: RunningGateway, client: Client) -> None:
    """The chunked coding hides the size until it is too large."""
    head = request(gate, b"", Content_Length="", Transfer_Encoding="chunked")
    chunk = b"20000\r\n" + b"x" * 0x20000 + b"\r\n"
    status, _, answer = await client.ask(head + chunk * 10 + b"0\r\n\r\n")
    assert (status, answer["error"]["code"]) == (413, "request_too_large")


async def test_a_body_that_never_comes(gate: RunningGateway, client: Client) -> None:
    """408 after gateway.body_seconds."""
    status, _, answer = await client.ask(request(gate, b"", Content_Length="100") + b'{"mod')
    assert (status, answer["error"]["code"]) == (408, "request_timeout")


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"Content_Type": "text/plain"}, 415, "unsupported_media_type"),
        ({"Content_Type": ""}, 415, "unsupported_media_type"),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        ({"Content_Encoding": "gzip"}, 415, "unsupported_media_type"),
        ({"Authorization": ""}, 401, "token_missing"),
        ({"Authorization": "Basic eDp5"}, 401, "token_malformed"),
        ({"Authorization": "Bearer x.y.z"}, 401, "token_malformed"),
    ],
)
async def test_bad_headers(
    gate: RunningGateway, engine: Simulator, client: Client, fields: dict[str, str], status: int, code: str
) -> None:
    """Type, coding and credentials are looked at before the body."""
    got, headers, answer = await client.ask(request(gate, json.dumps(HELLO).encode(), **fields))
    assert (got, answer["error"]["code"]) == (status, code)
    assert ("www-authenticate" in headers) == (status == 401)
    assert not [r for r in await engine.requests() if r["method"] == "POST"]
    assert (await client.ask(request(gate, json.dumps(HELLO).encode())))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405),
        ("PUT", "/v1/models", 405),
        ("DELETE", CHAT, 405),
        ("POST", "/v1/nope", 404),
        ("POST", "/invocations", 404),
        ("POST", "/pause", 404),
        ("POST", "/v1/load_lora_adapter", 404),
        ("GET", "/metrics", 404),
        ("GET", "/health", 404),
        ("POST", "//v1/chat/completions", 404),
        ("POST", "/v1//chat/completions", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/v1/chat%2fcompletions", 404),
        ("POST", "/v1/chat/../completions", 404),
        ("POST", "/v1/./chat/completions", 404),
        ("POST", "/V1/chat/completions", 404),
        ("POST", "/v1/chat/completions;x=1", 404),
        ("POST", "/v1\\chat\\completions", 404),
        ("POST", "/v2/chat/completions", 404),
        ("GET", "/v1/responses/../../metrics", 404),
        ("GET", "/v1/responses/resp_x%2f..%2fmetrics", 404),
        ("GET", "/v1/responses/resp_of_somebody_else", 404),
        ("POST", "/v1/responses/resp_of_somebody_else/cancel", 404),
        ("GET", "/v1/models/other", 404),
    ],
)
async def test_unknown_routes_and_methods(
    gate: RunningGateway, engine: Simulator, client: Client, method: str, path: str, status: int
) -> None:
    """Exact paths only; an answer in JSON with the request id, and the engine never hears of it."""
    got, fields, answer = await client.ask(request(gate, json.dumps(HELLO).encode(), path, method))
    assert got == status
    assert answer["error"]["message"]
    assert fields["x-request-id"]
    if status == 405:
        assert fields["allow"]
    assert not [r for r in await engine.requests() if "health" not in r["target"]]


async def test_request_ids(gate: RunningGateway) -> None:
    """A sane id of the caller is kept and goes to the engine; an insane one is replaced."""
    async with gate.post(CHAT, HELLO, **{"X-Request-Id": "my-id-1"}) as answer:
        assert answer.headers["x-request-id"] == "my-id-1"
        assert (await answer.json())["id"] == "chatcmpl-my-id-1"
    async with gate.post(CHAT, HELLO, **{"X-Request-Id": "a b\tc"}) as answer:
        assert answer.headers["x-request-id"] != "a b\tc"
        assert len(answer.headers["x-request-id"]) == 32


async def test_the_engine_gets_no_credentials(gate: RunningGateway, engine: Simulator) -> None:
    """Neither the caller's token nor cookies or forwarding fields cross the hop."""
    async with gate.post(
        CHAT, HELLO, Cookie="session=1", **{"X-Forwarded-For": "1.2.3.4", "X_Real_User": "root"}
    ) as answer:
        assert answer.status == 200
    [seen] = [r for r in await engine.requests() if r["method"] == "POST"]
    names = {name.lower() for name, _ in seen["headers"]}
    assert not names & {"cookie", "x-forwarded-for", "x_real_user", "authorization"}
    assert "eyJ" not in json.dumps(seen)


async def test_a_token_without_the_scope(gate: RunningGateway) -> None:
    """403 names the scope that is missing."""
    headers = {"Authorization": f"Bearer {gate.token(scopes=['chat'])}"}
    async with gate.http.post(gate.url + CHAT, json=HELLO, headers=headers) as answer:
        assert answer.status == 403
        assert "`api`" in (await answer.json())["error"]["message"]


async def test_a_token_for_other_models(gate: RunningGateway) -> None:
    """Models that are not the caller's do not exist for them."""
    headers = {"Authorization": f"Bearer {gate.token(models=['llama-*'])}"}
    async with gate.http.get(gate.url + "/v1/models", headers=headers) as answer:
        assert (await answer.json())["data"] == []
    async with gate.http.post(gate.url + CHAT, json=HELLO, headers=headers) as answer:
        assert answer.status == 404


async def test_a_response_belongs_to_whom_it_was_made_for(gate: RunningGateway, engine: Simulator) -> None:
    """Nobody else can read it, cancel it, or go on with its conversation; its owner can."""
    async with gate.post("/v1/responses", {"model": MODEL, "input": "a secret", "max_output_tokens": 5}) as answer:
        made = (await answer.json())["id"]
    stranger = {"Authorization": f"Bearer {gate.token('stranger')}"}
    before = len(await engine.requests())
    for method, path in (("GET", f"/v1/responses/{made}"), ("POST", f"/v1/responses/{made}/cancel")):
        async with gate.http.request(method, gate.url + path, headers=stranger) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (404, "response_not_found")
    going_on = {"model": MODEL, "input": "what was it?", "previous_response_id": made, "max_output_tokens": 5}
    async with gate.http.post(gate.url + "/v1/responses", json=going_on, headers=stranger) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "response_not_found")
    assert [r["method"] for r in (await engine.requests())[before:] if r["method"] == "POST"] == []
    async with gate.http.get(f"{gate.url}/v1/responses/{made}", headers=gate.headers()) as answer:
        assert (answer.status, (await answer.json())["id"]) == (200, made)


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_not_http(gate: RunningGateway, engine: Simulator, raw: bytes) -> None:
    """400 and a closed connection; the engine hears nothing, others are served on."""
    host, port = gate.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(raw)
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    assert b" 400 " in answer[:13] or b" 431 " in answer[:13]
    assert not [r for r in await engine.requests() if r["method"] == "POST"]
    assert (await gate.chat())["choices"]


async def test_limits_answer_429(engine: Simulator, tmp_path: Path) -> None:
    """The second request in a minute of a plan that allows one: 429 with true retry headers, and a line in the record."""
    plans = {"member": {}, "service": {"requests_per_minute": 1, "request_burst": 1}}
    async with gateway(engine.url, tmp_path, plans=plans) as gate:
        async with gate.post(CHAT, HELLO) as answer:
            assert answer.status == 200
            assert answer.headers["x-ratelimit-limit-requests"] == "1"
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        async with gate.post(CHAT, HELLO) as answer:
            assert answer.status == 429
            assert 0 < int(answer.headers["retry-after-ms"]) <= 60_000
            assert (await answer.json())["error"]["code"] == "rate_limit_exceeded"
        [line] = await gate.logged(1, status=429)
        assert line["outcome"] == "rejected"
