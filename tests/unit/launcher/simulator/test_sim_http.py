"""The server's HTTP, as uvicorn's: what a gateway meets on the connection itself."""

import asyncio
import io
import json

import pytest

from launcher.simulator.schema import minimal
from tests.support.engines import simulator

GET = b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n"


async def exchange(port: int, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes, read to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    if half_close:
        writer.write_eof()
    async with asyncio.timeout(60):
        received = await reader.read()
    writer.close()
    await writer.wait_closed()
    return received


async def test_idle_connections_close_after_the_keep_alive_time() -> None:
    """An idle connection is closed after VLLM_HTTP_TIMEOUT_KEEP_ALIVE; a long pipeline is answered in order first."""
    async with simulator(env={"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "0.2"}) as engine:
        received = await exchange(engine.port, GET * 2000)
        assert received.count(b"HTTP/1.1 200 OK") == 2000
        assert await exchange(engine.port, b"") == b""


async def test_half_close_gets_no_answer() -> None:
    """A client that closes its sending side gets nothing, not even for a request that was whole."""
    async with simulator(knobs={"ttft": 0.2}) as engine:
        body = json.dumps({"prompt": "hi", "max_tokens": 5}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(
            body
        )
        assert await exchange(engine.port, head + body, half_close=True) == b""
        assert (await engine.metrics())["vllm:num_requests_running"] == 0


async def test_what_is_not_http() -> None:
    """Bytes that are no HTTP get uvicorn's 400 and the end of the connection."""
    async with simulator() as engine:
        received = await exchange(engine.port, b"\x16\x03\x01nonsense\r\n\r\n")
        assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert received.endswith(b"Invalid HTTP request received.")


async def test_large_and_strange_bodies() -> None:
    """20 MB, deep nesting, wrong types and lone surrogates are refused or answered; the connection is told which."""
    async with simulator() as engine:
        url = engine.url + "/v1/chat/completions"

        async def status(data: bytes) -> int:
            headers = {"content-type": "application/json", "expect": "100-continue"}
            async with engine.http.post(url, data=io.BytesIO(data), headers=headers) as answer:
                assert "error" in await answer.text() or answer.status == 200
                return answer.status

        def chat(**fields: object) -> bytes:
            return json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, **fields}).encode()

        assert await status(chat(messages=[{"role": "user", "content": "x" * 20_000_000}])) == 400
        assert await status(b'{"messages":' + b"[" * 100_000) == 400
        assert await status(b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 900}') == 200
        assert await status(b"\xff\xfe") == 400
        for wrong in (
            {"messages": "hi"},
            {"messages": [1]},
            {"stop": 3},
            {"n": 1.5},
            {"stream_options": 1},
            {"seed": []},
        ):
            assert await status(chat(**wrong)) == 400, wrong
        assert await status(chat(tools=5)) in (400, 500)
        assert await status(chat()) == 200


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, {"a": 0}),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"const": 4}}}, 4),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({"allOf": [{"properties": {"b": {"enum": ["c"]}}}], "type": "object"}, {"b": "c"}),
        ({"type": ["null", "number"], "exclusiveMinimum": 2}, 3),
        ({"type": "string", "minLength": 12}, "simulated..."),
        ({"type": "string", "maxLength": 3}, "sim"),
        ({"$ref": "#"}, {}),
        ({}, "simulated"),
    ],
)
def test_minimal_value_of_a_schema(schema: dict[str, object], value: object) -> None:
    """The value made for a schema satisfies it; a schema that never ends is cut off."""
    assert minimal(schema) == value
