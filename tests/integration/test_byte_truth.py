"""What the client receives is what the engine sent, byte for byte, less the fields that the contract removes."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.headers import NOT_FROM_ENGINE
from tests.support.engines import MODEL
from tests.support.gateways import RunningGateway, gateway
from tests.support.scripted import Script, ScriptedEngine, chunked, http_answer, scripted_engine

EXAMPLES = 1000


class Answer:
    """An HTTP answer as it came, parsed by a parser that is not the gateway's code."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True

    @classmethod
    def read(cls, connection: socket.socket) -> Answer:
        answer = cls()
        parser = httptools.HttpResponseParser(answer)
        while not answer.complete and (data := connection.recv(65536)):
            parser.feed_data(data)
        answer.status = parser.get_status_code()
        return answer


class Pair:
    """An engine and a gateway, served by a loop in a thread, so that Hypothesis can drive them from outside."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._up, self._down = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.engine: ScriptedEngine
        self.gateway: RunningGateway

    async def _serve(self) -> None:
        async with (
            scripted_engine() as self.engine,
            gateway(
                self.engine.url,
                self._state_dir,
                engine={"keep_alive_seconds": 3600},
                gateway={"head_seconds": 3600},  # the first example may be long in the making
            ) as self.gateway,
        ):
            self._up.set()
            await asyncio.to_thread(self._down.wait)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(30)
        host, port = self.gateway.url.removeprefix("http://").split(":")
        self.client = socket.create_connection((host, int(port)))
        self.client.settimeout(30)
        self.token = self.gateway.token()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._down.set()
        self._thread.join(30)

    def exchange(self, path: str, body: bytes, fields: list[tuple[str, str]]) -> Answer:
        lines = [f"POST {path} HTTP/1.1", "Host: gateway", f"Authorization: Bearer {self.token}"]
        lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in fields]
        self.client.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)
        return Answer.read(self.client)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("byte-truth")) as pair:
        yield pair


RESERVED = NOT_FROM_ENGINE | {
    "content-type",
    "content-length",
    "content-encoding",
    "x-accel-buffering",
    "cache-control",
}
name = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,12}", fullmatch=True).filter(
    lambda n: n.lower() not in RESERVED and not n.lower().startswith(("x-ratelimit", "retry"))
)
value = st.from_regex(r"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True)
# duplicates come by drawing from few names
engine_fields = st.lists(st.tuples(name | st.sampled_from(["X-Twice", "x-twice", "Vary"]), value), max_size=6)
cuts = st.lists(st.integers(min_value=0), max_size=30)
request_fields = st.dictionaries(
    st.from_regex(r"x_[a-z]{1,6}", fullmatch=True),
    st.text() | st.integers() | st.none() | st.lists(st.text(), max_size=3),
    max_size=4,
)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


def check_request(pair: Pair, sent: dict[str, object]) -> None:
    """The engine got the client's fields as they were."""
    _, body = pair.engine.received[-1]
    got = json.loads(body)
    assert {key: got[key] for key in sent} == sent


@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    fields=engine_fields,
    body=st.binary(max_size=300) | st.integers(1, 400_000).map(lambda n: b"\x00\xff" * n),
    cuts=cuts,
    framing=st.sampled_from(["length", "chunked"]),
    encoding=st.sampled_from([None, "gzip", "br"]),
    status=st.sampled_from(["200 OK", "201 Created", "400 Bad Request", "422 Unprocessable", "500 Oops"]),
    sent=request_fields,
    path=st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"]),
)
def test_answers_in_one_piece(
    pair: Pair,
    fields: list[tuple[str, str]],
    body: bytes,
    cuts: list[int],
    framing: str,
    encoding: str | None,
    status: str,
    sent: dict[str, object],
    path: str,
) -> None:
    """Any body, any coding, any split, duplicate fields: status, fields and body arrive as they were sent."""
    if not status.startswith("2"):
        body = b'{"error":{"message":"' + body.hex().encode()[:1000] + b'"}}'
    lines = [f"{n}: {v}" for n, v in fields] + ["content-type: application/octet-stream"]
    if encoding:
        lines.append(f"content-encoding: {encoding}")
    data = http_answer(body, *lines, status=status) if framing == "length" else chunked([body], *lines, status=status)
    pair.engine.answer = lambda _head, _body: Script(pieces_of(data, cuts))
    answer = pair.exchange(path, json.dumps({"model": MODEL, "max_tokens": 5, **sent}).encode(), [])
    check_request(pair, sent)
    assert answer.status == int(status[:3])
    assert answer.body == body
    received = [(n, v) for n, v in answer.headers if n.lower() not in RESERVED and not n.lower().startswith("x-r")]
    assert received == [(n, v) for n, v in fields if not n.lower().startswith("x-r")]
    assert dict(answer.headers).get("content-encoding") == encoding


event = st.one_of(
    st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=40).map(lambda t: f": {t}\n\n".encode()),
    st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=40).map(
        lambda t: f"data: {json.dumps({'x': t}, ensure_ascii=False)}\n\n".encode()
    ),
    st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=40).map(
        lambda t: f"event: e\nid: 1\ndata: {json.dumps({'choices': [{'delta': {'content': t}}]})}\n\n".encode()
    ),
    st.integers(1, 60_000).map(lambda n: b'data: {"long":"' + b"x" * n + b'"}\n\n'),
)


@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=st.lists(event, max_size=8), cuts=cuts, chunk_cuts=cuts, fields=engine_fields, every_byte=st.booleans())
def test_streams(
    pair: Pair,
    events: list[bytes],
    cuts: list[int],
    chunk_cuts: list[int],
    fields: list[tuple[str, str]],
    every_byte: bool,
) -> None:
    """Comments, long and short events, chunks and packets cut anywhere, also at every byte: the same stream arrives."""
    stream = b"".join(events) + b"data: [DONE]\n\n"
    lines = [f"{n}: {v}" for n, v in fields] + ["content-type: text/event-stream; charset=utf-8"]
    data = chunked(pieces_of(stream, chunk_cuts), *lines)
    packets = [data[i : i + 1] for i in range(len(data))] if every_byte and len(data) < 600 else pieces_of(data, cuts)
    pair.engine.answer = lambda _head, _body: Script(packets)
    body = {"model": MODEL, "stream": True, "messages": []}
    answer = pair.exchange("/v1/chat/completions", json.dumps(body).encode(), [])
    assert answer.status == 200
    assert answer.complete
    assert answer.body == stream
    received = [(n, v) for n, v in answer.headers if n.lower() not in RESERVED and not n.lower().startswith("x-r")]
    assert received == [(n, v) for n, v in fields if not n.lower().startswith("x-r")]


def test_one_connection_served_them_all(pair: Pair) -> None:
    """Whole answers give their connection back: no handshake a request."""
    assert pair.engine.connections < EXAMPLES / 10
