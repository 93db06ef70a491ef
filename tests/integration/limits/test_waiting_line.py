"""Fair share and admission, over HTTP, before a simulated engine that serves two requests at a time."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import MODEL, Simulator, simulator
from tests.support.gateways import RunningGateway, gateway

SERVICE_SECONDS = 0.4
TOKENS = 20
SLOTS = ("--max-num-seqs", "2", "--scheduling-policy", "priority")
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": TOKENS, "ignore_eos": True}


@pytest.fixture
async def engine() -> AsyncIterator[Simulator]:
    async with simulator(*SLOTS, knobs={"ttft": 0.0, "tps": TOKENS / SERVICE_SECONDS}) as engine:
        yield engine


async def ask(gate: RunningGateway, subject: str, plan: str, **fields: Any) -> tuple[int, Any, float]:
    """Status, headers, seconds of one chat request."""
    began = time.monotonic()
    headers = {"Authorization": f"Bearer {gate.token(subject, plan=plan)}"}
    async with gate.http.post(gate.url + "/v1/chat/completions", json=BODY | fields, headers=headers) as answer:
        await answer.read()
        return answer.status, answer.headers, time.monotonic() - began


async def test_who_has_one_request_does_not_wait_behind_200(engine: Simulator, tmp_path: Path) -> None:
    """One user has 200 requests in the line, another sends one: it waits for at most two service times."""
    async with gateway(engine.url, tmp_path) as gate:
        flood = [asyncio.create_task(ask(gate, "greedy", "member")) for _ in range(200)]
        await engine.until("vllm:num_requests_waiting", lambda waiting: waiting >= 190)
        one = [await ask(gate, "modest", "member") for _ in range(2)]
        service = await service_time(engine)
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
        for status, _, seconds in one:
            assert status == 200
            assert seconds - service <= 2 * service


async def service_time(engine: Simulator) -> float:
    """What the engine itself took for a request in its batch, on average: this machine may be slow."""
    metrics = await engine.metrics()
    taken, count = (metrics[f"vllm:request_inference_time_seconds_{part}"] for part in ("sum", "count"))
    return max(SERVICE_SECONDS, taken / count)


async def test_beyond_max_waiting_batch_is_refused_before_chat(engine: Simulator, tmp_path: Path) -> None:
    """With room for 20, batch services get in while fewer than 10 wait, chat while fewer than 20; then 503, honestly."""
    async with gateway(engine.url, tmp_path, gateway={"max_waiting": 20}) as gate:
        flood = [asyncio.create_task(ask(gate, f"s{n}", "service")) for n in range(60)]
        refused = [status for status, _, _ in await asyncio.gather(*flood) if status == 503]
        assert 30 <= len(refused) < 60

        running = [asyncio.create_task(ask(gate, f"m{n}", "member")) for n in range(14)]
        await engine.until("vllm:num_requests_waiting", lambda waiting: waiting >= 11)
        batch = await ask(gate, "s", "service")
        chat = await ask(gate, "m", "member")
        assert (batch[0], chat[0]) == (503, 200)
        assert 1 <= int(batch[1]["retry-after"]) <= 60
        assert int(chat[1]["x-gatehouse-queue-position"]) >= 1
        assert int(chat[1]["x-gatehouse-queue-length"]) >= 10
        assert [status for status, _, _ in await asyncio.gather(*running)] == [200] * 14

        status, headers, _ = await ask(gate, "m", "member")
        assert status == 200
        assert "x-gatehouse-queue-position" not in headers
        lines = await gate.logged(len(refused) + 1, error_code="engine_overloaded")
        assert {line["outcome"] for line in lines} == {"rejected"}


async def test_the_line_is_never_longer_than_allowed(engine: Simulator, tmp_path: Path) -> None:
    """Under a flood of 300 the engine's own figure stays near the bound, and who is refused comes back and is served."""
    await engine.knobs(tps=TOKENS / 0.05)
    async with gateway(engine.url, tmp_path, gateway={"max_waiting": 30}) as gate:
        longest = 0.0

        async def watch() -> None:
            nonlocal longest
            while True:
                longest = max(longest, (await engine.metrics())["vllm:num_requests_waiting"])
                await asyncio.sleep(0.02)

        watching = asyncio.create_task(watch())

        async def persistent(number: int) -> None:
            while (got := await ask(gate, f"u{number}", "member"))[0] == 503:
                await asyncio.sleep(int(got[1]["retry-after"]))

        first = [asyncio.create_task(persistent(number)) for number in range(40)]
        await engine.until("vllm:num_requests_waiting", lambda waiting: waiting >= 10)
        await asyncio.gather(*first, *(persistent(number) for number in range(40, 120)))
        watching.cancel()
        assert longest <= 60


async def test_the_chat_is_told_how_long_the_line_is(engine: Simulator, tmp_path: Path) -> None:
    """`/api/engine` has the length of the line while people wait."""
    async with gateway(engine.url, tmp_path) as gate:
        flood = [asyncio.create_task(ask(gate, "greedy", "member")) for _ in range(30)]
        headers = {"Authorization": f"Bearer {gate.token('reader', scopes=('chat',))}"}
        async with asyncio.timeout(30):
            waiting = 0
            while waiting < 5:
                async with gate.http.get(gate.url + "/api/engine", headers=headers) as answer:
                    waiting = (await answer.json())["waiting"]
                await asyncio.sleep(0.05)
        assert waiting <= 30
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
