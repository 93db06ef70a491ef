"""What a caller sees, and what is counted, when the engine fails or the client leaves: on all four APIs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.settlement import Settlement
from gateway.upstream import Connection
from tests.support.engines import DEADLINE, MODEL, Simulator, simulator
from tests.support.gateways import RunningGateway, gateway
from tests.support.scripted import Script, chunked, http_answer, scripted_engine

MESSAGES = [{"role": "user", "content": "Tell me something long."}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 400},
    "/v1/completions": {"prompt": "Once", "max_tokens": 400},
    "/v1/responses": {"input": "Tell me something long.", "max_output_tokens": 400},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 400},
}
APIS = pytest.mark.parametrize("path", BODIES)
RUNNING = "vllm:num_requests_running"
LEAVES_WITHIN_MS = 100
MOST_TRIES = 50


@pytest.fixture
async def engine() -> AsyncIterator[Simulator]:
    async with simulator("--sim-control", knobs={"tps": 200}) as engine:
        yield engine


def body_of(path: str, *, stream: bool, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "stream": stream, "ignore_eos": True, **BODIES[path], **fields}


async def read_to_end(answer: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """Everything that came, and whether it ended in good order."""
    got = b""
    try:
        async for data in answer.content.iter_any():
            got += data
    except aiohttp.ClientPayloadError:
        return got, False
    return got, True


@APIS
@pytest.mark.parametrize("fault", ["error_frame", "die_mid_stream", "close_mid_chunk"])
async def test_an_engine_that_fails_in_mid_stream(engine: Simulator, tmp_path: Path, path: str, fault: str) -> None:
    """The client gets the error event of its own API, then the end of the connection; never `[DONE]`; tokens count."""
    async with gateway(engine.url, tmp_path) as gate:
        await engine.knobs(fault=fault, fault_after=5, fault_times=1)
        async with gate.post(path, body_of(path, stream=True)) as answer:
            assert answer.status == 200
            got, ended_well = await read_to_end(answer)
        assert not ended_well
        assert b"[DONE]" not in got
        assert b"message_stop" not in got
        assert b"response.completed" not in got
        events = [event for event in got.decode().split("\n\n") if event]
        last = json.loads(events[-1].split("data: ", 1)[1])
        match path:
            case "/v1/messages":
                assert events[-1].startswith("event: error\n")
                assert last["type"] == "error"
                assert last["request_id"] == answer.headers["request-id"]
            case "/v1/responses":
                assert last["type"] == "error"
                assert last["code"] == "engine_failed"
                before = json.loads(events[-2].split("data: ", 1)[1])
                assert last["sequence_number"] == before["sequence_number"] + 1
            case _:
                assert last["error"]["code"] == "engine_failed"
        [line] = await gate.logged(1, outcome="engine_failed")
        assert line["error_code"] == "engine_failed"
        assert line["completion_tokens"] >= 5
        assert line["request_id"] == answer.headers["x-request-id"]


@APIS
@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_without_a_byte_survives_its_engine(tmp_path: Path, path: str, stream: bool) -> None:
    """The engine dies before its answer: the request is held, and served by the next engine as if nothing happened."""
    async with (
        simulator("--sim-control", knobs={"fault": "die_before_first_byte", "fault_times": 1}) as first,
        gateway(first.url, tmp_path) as gate,
    ):
        waiting = asyncio.create_task(answered(gate, path, stream))
        await first.wait()
        async with simulator("--sim-control", port=first.port):
            status, body = await waiting
        assert status == 200
        assert body
        [line] = await gate.logged(1, route=path)
        assert line["outcome"] == "complete"
        assert line["completion_tokens"] == 20


async def answered(gate: RunningGateway, path: str, stream: bool) -> tuple[int, bytes]:
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    async with gate.post(path, body_of(path, stream=stream, **{limit: 20})) as answer:
        return answer.status, await answer.read()


async def test_a_request_that_kills_engines_is_not_sent_for_ever(tmp_path: Path) -> None:
    """One resend, then 503: a poisonous request must not take every engine down with it."""
    async with scripted_engine() as engine, gateway(engine.url, tmp_path) as gate:
        engine.answer = lambda _head, _body: Script([], abort=True)
        async with gate.post("/v1/chat/completions", body_of("/v1/chat/completions", stream=False)) as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
        assert len(engine.received) == 2
        [line] = await gate.logged(1)
        assert (line["outcome"], line["prompt_tokens"]) == ("engine_failed", 0)


async def test_a_dying_engine_does_not_use_up_the_resend(tmp_path: Path) -> None:
    """It refuses for a moment before anybody sees it dead: the request waits for that, and for the engine after it."""
    dying = b'{"error":{"message":"EngineCore encountered an issue.","code":500}}'
    deaths: list[float] = []

    def answer(_head: bytes, _body: bytes) -> Script:
        deaths.append(time.monotonic())
        if time.monotonic() - deaths[0] < 0.5:
            return Script([http_answer(dying, status="500 Internal Server Error")])
        return Script([http_answer(b'{"choices":[]}', "content-type: application/json")])

    async with scripted_engine() as engine, gateway(engine.url, tmp_path) as gate:
        engine.answer = answer
        async with gate.post("/v1/chat/completions", body_of("/v1/chat/completions", stream=False)) as served:
            assert served.status == 200
        assert len(deaths) == 2


async def test_an_idle_connection_that_the_engine_closes_costs_nothing(tmp_path: Path) -> None:
    """The keep-alive race: the request was never read, so it is sent again at once, on a new connection, and uncounted."""
    good = http_answer(b'{"choices":[]}', "content-type: application/json")
    async with scripted_engine() as engine, gateway(engine.url, tmp_path, gateway={"max_resends": 0}) as gate:
        scripts = iter([Script([good]), Script([], abort=True), Script([good])])
        engine.answer = lambda _head, _body: next(scripts)
        for _ in range(2):
            async with gate.post("/v1/chat/completions", body_of("/v1/chat/completions", stream=False)) as answer:
                assert answer.status == 200
        assert len(engine.received) == 3


@APIS
async def test_an_engine_that_is_away_for_too_long(tmp_path: Path, path: str) -> None:
    """Held for hold_seconds, then 503 with Retry-After in the API's shape."""
    async with (
        simulator("--sim-control") as engine,
        gateway(engine.url, tmp_path, gateway={"hold_seconds": 0.3}) as gate,
    ):
        engine.kill()
        await engine.wait()
        async with gate.post(path, body_of(path, stream=True)) as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
            error = (await answer.json())["error"]
        assert "engine" in error["message"]


@APIS
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_the_engine(
    engine: Simulator, tmp_path: Path, path: str, stream: bool
) -> None:
    """The engine's own gauge is back at zero within 100 ms of the disconnect, while its answer would take minutes.

    A busy machine makes any of them late, but not all: a delay of the gateway's own would be in each.
    """
    await engine.knobs(tps=2)
    async with gateway(engine.url, tmp_path) as gate:
        times: list[float] = []
        while min(times, default=LEAVES_WITHIN_MS) >= LEAVES_WITHIN_MS and len(times) < MOST_TRIES:
            async with aiohttp.ClientSession() as http:
                request = http.post(gate.url + path, json=body_of(path, stream=stream), headers=gate.headers())
                if stream:
                    answer = await request
                    await answer.content.readany()
                    answer.close()
                else:
                    sending = asyncio.ensure_future(request)
                    await engine.until(RUNNING, 1)
                    sending.cancel()
                    await asyncio.wait({sending})
            left = time.monotonic()
            await engine.until(RUNNING, 0)
            times.append((time.monotonic() - left) * 1000)
        print(f"\n{path} stream={stream}: engine idle after {', '.join(f'{t:.0f}' for t in times)} ms")
        assert min(times) < LEAVES_WITHIN_MS
        lines = await gate.logged(len(times), outcome="client_gone")
        assert all(line["prompt_tokens"] > 0 for line in lines)
        if not stream:
            assert all(line["estimated"] for line in lines)


async def test_the_engine_is_told_of_all_who_leave_before_anything_is_done_for_one(
    engine: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight clients leave at once: eight times the engine is hung up on, then eight requests are settled and recorded."""
    done: list[str] = []
    hang_up, finish = Connection.hang_up, Settlement.finish
    monkeypatch.setattr(Connection, "hang_up", lambda conn: (done.append("told"), hang_up(conn)))
    monkeypatch.setattr(Settlement, "finish", lambda *given: (done.append("settled"), finish(*given))[1])
    await engine.knobs(tps=2)
    async with gateway(engine.url, tmp_path) as gate:
        path = "/v1/chat/completions"
        answers = [await gate.post(path, body_of(path, stream=True)) for _ in range(8)]
        for answer in answers:
            await answer.content.readany()
        done.clear()  # the gateway's readiness was asked for
        for answer in answers:
            answer.close()
        await gate.logged(8, outcome="client_gone")
    assert done == ["told"] * 8 + ["settled"] * 8


async def test_silence_before_the_first_token(tmp_path: Path) -> None:
    """504 when the engine says nothing in time, and its work is aborted."""
    async with scripted_engine() as engine, gateway(engine.url, tmp_path, gateway={"first_token_seconds": 0.3}) as gate:
        engine.answer = lambda _head, _body: Script([], hang=True)
        async with gate.post("/v1/chat/completions", body_of("/v1/chat/completions", stream=True)) as answer:
            assert answer.status == 504
            assert (await answer.json())["error"]["code"] == "engine_timeout"
        async with asyncio.timeout(DEADLINE):
            while engine.open > 1:  # one is the health check's
                await asyncio.sleep(0.01)
        [line] = await gate.logged(1)
        assert line["outcome"] == "timeout"


async def test_silence_in_mid_stream(engine: Simulator, tmp_path: Path) -> None:
    """An engine that hangs while its /health is well: error event, end of the connection, work aborted."""
    async with gateway(engine.url, tmp_path, gateway={"next_token_seconds": 2}) as gate:
        await engine.knobs(fault="hang", fault_after=3)
        async with gate.post("/v1/chat/completions", body_of("/v1/chat/completions", stream=True)) as answer:
            got, ended_well = await read_to_end(answer)
        assert not ended_well
        assert b'"code":"engine_timeout"' in got
        assert b"[DONE]" not in got
        [line] = await gate.logged(1)
        assert line["outcome"] == "timeout"
        assert line["completion_tokens"] == 3


async def test_comments_keep_a_queued_client_and_bind_nothing(tmp_path: Path) -> None:
    """vLLM's keep-alive comments pass while a request is queued; when the engine dies then, the request is sent again."""
    head = ("content-type: text/event-stream",)
    done = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\ndata: [DONE]\n\n'
    async with scripted_engine() as engine, gateway(engine.url, tmp_path) as gate:
        scripts = iter(
            [Script([chunked([b": keep-alive\n\n"], *head, end=b"")], abort=True), Script([chunked([done], *head)])]
        )
        engine.answer = lambda _head, _body: next(scripts)
        async with gate.post("/v1/chat/completions", body_of("/v1/chat/completions", stream=True)) as answer:
            got, ended_well = await read_to_end(answer)
        assert ended_well
        assert got == b": keep-alive\n\n" + done


async def test_an_engine_that_refuses_the_gateways_key(tmp_path: Path) -> None:
    """The caller's credentials are not at fault, so it is no 401."""
    async with scripted_engine() as engine, gateway(engine.url, tmp_path) as gate:
        engine.answer = lambda _head, _body: Script(
            [http_answer(b'{"error":"Unauthorized"}', status="401 Unauthorized")]
        )
        async with gate.post("/v1/chat/completions", body_of("/v1/chat/completions", stream=True)) as answer:
            assert answer.status == 502
            assert (await answer.json())["error"]["code"] == "engine_key_refused"


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"])
async def test_an_engine_that_answers_garbage(tmp_path: Path, garbage: bytes) -> None:
    """Nothing of it is passed on."""
    async with scripted_engine() as engine, gateway(engine.url, tmp_path) as gate:
        engine.answer = lambda _head, _body: Script([garbage], close=True)
        async with gate.post("/v1/chat/completions", body_of("/v1/chat/completions", stream=False)) as answer:
            assert answer.status == 503
        assert await gate.logged(1, outcome="engine_failed")


async def test_a_client_that_never_reads(tmp_path: Path) -> None:
    """It is cut off in a stated time, holds a bounded part of the answer, and the engine's work stops."""
    endless = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 4000 + b'"}}]}\n\n'
    async with scripted_engine() as engine, gateway(engine.url, tmp_path, gateway={"write_seconds": 0.5}) as gate:
        script = Script(
            [chunked([endless], "content-type: text/event-stream", end=b""), *[chunk_of(endless)] * 20_000], hang=True
        )
        engine.answer = lambda _head, _body: script
        host, port = gate.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        body = json.dumps(body_of("/v1/chat/completions", stream=True)).encode()
        headers = "".join(f"{name}: {value}\r\n" for name, value in gate.headers().items())
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        writer.transport.pause_reading()
        [line] = await gate.logged(1)
        writer.transport.abort()
        assert line["outcome"] == "client_gone"
        assert line["bytes_out"] < 20 * 2**20


def chunk_of(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def test_shutdown_lets_streams_finish(engine: Simulator, tmp_path: Path) -> None:
    """Told to stop: new requests get 503, what runs ends in good order and is recorded."""
    await engine.knobs(tps=1)  # it still runs when the stop is seen
    async with gateway(engine.url, tmp_path, gateway={"drain_seconds": 60}) as gate:
        async with gate.post(
            "/v1/chat/completions", body_of("/v1/chat/completions", stream=True, max_tokens=100)
        ) as answer:
            await answer.content.readany()
            gate.stop.set()
            async with asyncio.timeout(DEADLINE):
                while True:
                    async with gate.http.get(gate.url + "/v1/models", headers=gate.headers()) as refused:
                        if refused.status == 503:
                            assert (await refused.json())["error"]["code"] == "shutting_down"
                            break
            await engine.knobs(tps=2000)
            got, ended_well = await read_to_end(answer)
        assert ended_well
        assert got.endswith(b"data: [DONE]\n\n")
        [line] = await gate.logged(1, route="/v1/chat/completions")
        assert (line["outcome"], line["completion_tokens"]) == ("complete", 100)
