"""Each fault does what its name says, to the request it is meant for, and no longer than told."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from launcher.simulator.errors import ENGINE_DEAD
from tests.support.engines import Simulator, simulator

PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi", "max_tokens": 40},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 500},
}
ERROR_FRAME = {
    "error": {"message": ENGINE_DEAD, "type": "InternalServerError", "param": None, "code": 500},
}


async def stream(engine: Simulator, path: str) -> tuple[str, bool]:
    """(what a stream brought, whether it ended as HTTP says it must)."""
    received = b""
    try:
        async with engine.http.post(engine.url + path, json={**PATHS[path], "stream": True}) as answer:
            async for chunk in answer.content.iter_any():
                received += chunk
    except aiohttp.ClientError:
        return received.decode(), False
    return received.decode(), True


def tokens(text: str) -> int:
    """How many frames of the stream carry a token's text."""
    count = 0
    for line in text.splitlines():
        if line.startswith("data: {"):
            frame = json.loads(line[6:])
            delta = frame.get("delta") or {}
            choices = frame.get("choices") or [{}]
            inner = choices[0].get("delta") or {}
            is_delta = isinstance(delta, str) or delta.get("thinking") or delta.get("text")
            count += bool(is_delta or inner.get("reasoning") or inner.get("content") or choices[0].get("text"))
    return count


@pytest.mark.parametrize("path", PATHS)
async def test_error_frame(path: str) -> None:
    """EngineCore's error after k tokens: a frame and [DONE], nothing at all on responses, an event on messages."""
    async with simulator(knobs={"fault": "error_frame", "fault_after": 5, "fault_times": 1}) as engine:
        text, whole = await stream(engine, path)
        assert tokens(text) == 5
        blocks = text.strip().split("\n\n")
        if path == "/v1/responses":
            assert not whole
            assert "error" not in blocks[-1]
        elif path == "/v1/messages":
            assert whole
            assert blocks[-1].startswith("event: error\n")
            assert json.loads(blocks[-1].partition("data: ")[2])["type"] == "error"
        else:
            assert whole
            assert blocks[-1] == "data: [DONE]"
            # dumped by another encoder than the chunks, as recorded: spaces behind the separators
            assert blocks[-2] == "data: " + json.dumps(ERROR_FRAME)
        _, whole = await stream(engine, path)
        assert whole, "the second request is served"
        assert (await engine.metrics())["vllm:num_requests_running"] == 0


@pytest.mark.parametrize("path", PATHS)
async def test_error_of_a_plain_answer(path: str) -> None:
    """A request that does not stream gets 500 and a closed connection when its engine dies."""
    async with (
        simulator(knobs={"fault": "error_frame"}) as engine,
        engine.http.post(engine.url + path, json=PATHS[path]) as answer,
    ):
        assert answer.status == 500
        assert answer.headers["connection"] == "close"
        assert await answer.json() == ERROR_FRAME


async def test_die_mid_stream() -> None:
    """The process is SIGKILLed after exactly k tokens left it."""
    async with simulator(knobs={"fault": "die_mid_stream", "fault_after": 7}) as engine:
        text, whole = await stream(engine, "/v1/chat/completions")
        assert (tokens(text), whole) == (7, False)
        assert await engine.wait() == -9
        assert await engine.health() is None


async def test_die_before_first_byte() -> None:
    """The process ends when the request arrives, with the exit status asked for, and the client gets no byte."""
    async with simulator(knobs={"fault": "die_before_first_byte", "exit_code": 3}) as engine:
        with pytest.raises(aiohttp.ClientConnectionError):
            await engine.http.post(engine.url + "/v1/chat/completions", json=PATHS["/v1/chat/completions"])
        assert await engine.wait() == 3


async def test_engine_death_ends_with_exit_0() -> None:
    """EngineCore's death fails all streams, /health is 503 and new work 500 until the process exits 0."""
    async with simulator(knobs={"fault": "engine_death", "fault_times": 1, "death_linger": 1.0}) as engine:
        text, whole = await stream(engine, "/v1/chat/completions")
        assert whole
        assert text.endswith("data: " + json.dumps(ERROR_FRAME) + "\n\ndata: [DONE]\n\n")
        assert await engine.health() == 503
        async with engine.http.post(engine.url + "/v1/completions", json=PATHS["/v1/completions"]) as answer:
            assert (answer.status, await answer.json()) == (500, ERROR_FRAME)
        assert await engine.wait() == 0


async def test_hang_stalls_all_streams_while_health_is_200() -> None:
    """A hang: /health 200, work in flight, the step counter frozen; turning the knob back lets all go on."""
    steps = "vllm:iteration_tokens_total_count"
    async with simulator(knobs={"fault": "hang", "fault_times": 1}) as engine:
        going = asyncio.gather(*(stream(engine, path) for path in PATHS))
        await engine.until("vllm:num_requests_running", 4)
        await engine.until(steps, lambda seen: seen > 0)
        async with asyncio.timeout(60):
            seen = [0.0]
            while len(seen) < 12 or len(set(seen[-10:])) > 1:
                seen.append((await engine.metrics())[steps])
                await asyncio.sleep(0.02)
        assert await engine.health() == 200
        assert not going.done()
        await engine.knobs(fault="none")
        assert all(whole for _, whole in await going)


async def test_health_503() -> None:
    """/health can be made to say 503 while all else works."""
    async with simulator(knobs={"health_503": True}) as engine:
        assert await engine.health() == 503
        assert (await engine.chat(max_tokens=1))["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize("fault", ["close_mid_chunk", "reset"])
@pytest.mark.parametrize("path", PATHS)
async def test_connection_faults(fault: str, path: str) -> None:
    """The connection breaks after k tokens, inside a chunk or by reset; the slot is free, the process lives on."""
    async with simulator(knobs={"fault": fault, "fault_after": 4, "fault_times": 2}) as engine:
        text, whole = await stream(engine, path)
        assert not whole
        assert tokens(text.rpartition("\n\n")[0]) == 4
        with pytest.raises(aiohttp.ClientError):
            async with engine.http.post(engine.url + path, json=PATHS[path]) as answer:
                await answer.read()
        assert (await engine.metrics())["vllm:num_requests_running"] == 0
        _, whole = await stream(engine, path)
        assert whole


async def test_garbage() -> None:
    """An answer that is not HTTP, one that is not JSON, a frame that is not JSON."""
    path = "/v1/chat/completions"
    async with simulator(knobs={"fault": "garbage_http", "fault_times": 1}) as engine:
        with pytest.raises(aiohttp.ClientError):
            await engine.http.post(engine.url + path, json=PATHS[path])
        await engine.knobs(fault="garbage_json", fault_times=2)
        async with engine.http.post(engine.url + path, json=PATHS[path]) as answer:
            assert answer.status == 200
            with pytest.raises(json.JSONDecodeError):
                json.loads(await answer.text())
        text, whole = await stream(engine, path)
        assert whole
        bad = [line for line in text.splitlines() if line.startswith("data: {") and not _is_json(line[6:])]
        assert len(bad) == 1
        assert (await engine.chat(max_tokens=1))["object"] == "chat.completion"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True


async def test_knobs_are_checked() -> None:
    """An unknown knob or a wrong value is refused and nothing is changed."""
    async with simulator() as engine:
        before = await engine.knobs()
        for wrong in ({"fault": "flood"}, {"no_such": 1}, {"ttft": "soon"}, {"tps": 5, "health_503": "perhaps"}):
            async with engine.http.post(engine.url + "/sim/knobs", json=wrong) as answer:
                assert answer.status == 400
        assert await engine.knobs() == before
