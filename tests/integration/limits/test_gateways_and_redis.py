"""Whole gateways on one Redis: limits over HTTP, the mode that administrators see, the official client in a storm."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.config import PlanSettings
from gateway.limits.limiter import Allowance, Rule
from gateway.limits.redis import RedisLimiter
from gateway.redis import Link
from gateway.redis.address import Address
from tests.support.engines import MODEL, Simulator, simulator
from tests.support.gateways import RunningGateway, gateway
from tests.support.redis_server import RedisServer, running_redis

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
PATIENT = 10.0  # seconds: Redis is not away because this machine is busy


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
async def engine() -> AsyncIterator[Simulator]:
    async with simulator() as engine:
        yield engine


def sections(server: RedisServer, plan: dict[str, Any], **redis: Any) -> dict[str, Any]:
    """A gateway's settings: everybody on one plan, counted in Redis."""
    return {
        "redis": {"url": server.url, **redis},
        "plans": {"member": PlanSettings(), "service": PlanSettings(**plan)},
    }


async def ask(gate: RunningGateway, subject: str = "alice", **fields: Any) -> tuple[int, Any, bytes]:
    """Status, headers and body of one chat request."""
    scopes = fields.pop("scopes", ("api",))
    headers = {"Authorization": f"Bearer {gate.token(subject, scopes=scopes)}"}
    async with gate.http.post(gate.url + "/v1/chat/completions", json=BODY | fields, headers=headers) as answer:
        return answer.status, answer.headers, await answer.read()


async def test_two_gateways_share_every_limit(engine: Simulator, server: RedisServer, tmp_path: Path) -> None:
    """Requests over both gateways together pass as often as the plan allows, and the headers of both agree."""
    plan = sections(server, {"requests_per_minute": 1, "request_burst": 5})  # one more after a whole minute
    async with (
        gateway(engine.url, tmp_path / "one", redis_seconds=PATIENT, **plan) as one,
        gateway(engine.url, tmp_path / "two", redis_seconds=PATIENT, **plan) as two,
    ):
        answers = await asyncio.gather(*(ask((one, two)[number % 2]) for number in range(16)))
        assert sorted(status for status, _, _ in answers) == [200] * 5 + [429] * 11
        for gate in (one, two):
            _, headers, _ = await ask(gate)
            assert headers["x-ratelimit-remaining-requests"] == "0"
            assert 0 < int(headers["retry-after-ms"]) <= 60_000


async def test_the_mode_is_shown_to_administrators_and_in_the_metrics(
    engine: Simulator, server: RedisServer, tmp_path: Path
) -> None:
    """`redis`, then `local` while Redis is stopped, then `redis` again; nobody but administrators is told in a header."""
    async with gateway(engine.url, tmp_path, **sections(server, {})) as gate:

        async def mode() -> str:
            return (await ask(gate, scopes=("api", "admin")))[1]["x-gatehouse-limiter"]

        async def until(wanted: str) -> None:
            async with asyncio.timeout(60):
                while await mode() != wanted:
                    await asyncio.sleep(0.02)

        await until("redis")
        assert "x-gatehouse-limiter" not in (await ask(gate))[1]
        server.pause()
        assert await mode() == "local"
        assert (await gate.metrics())['gatehouse_limiter_mode{mode="local"}'] == 1
        server.resume()
        await until("redis")
        metrics = await gate.metrics()
        assert metrics['gatehouse_limiter_mode{mode="redis"}'] == 1
        assert 'gatehouse_limiter_mode{mode="local"}' not in metrics


async def test_closed_refuses_in_the_apis_own_shape(engine: Simulator, server: RedisServer, tmp_path: Path) -> None:
    """With on_failure closed: 503 with a code and Retry-After, recorded as a refusal."""
    async with gateway(
        engine.url, tmp_path, redis_seconds=PATIENT, **sections(server, {}, on_failure="closed")
    ) as gate:
        assert (await ask(gate))[0] == 200
        server.kill()
        status, headers, body = await ask(gate)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert b'"limits_unavailable"' in body
        (line,) = await gate.logged(1, error_code="limits_unavailable")
        assert line["outcome"] == "rejected"


@pytest.mark.parametrize("plan", [
    {"requests_per_minute": 60, "request_burst": 3},
    {"tokens_per_minute": 60_000, "concurrent_requests": 1},
])  # fmt: skip
async def test_the_openai_client_rides_through_a_storm(
    engine: Simulator, server: RedisServer, tmp_path: Path, plan: dict[str, Any]
) -> None:
    """Default retries, more than the limit lets through at once: 429s, and not one error."""
    async with gateway(engine.url, tmp_path, redis_seconds=PATIENT, **sections(server, plan)) as gate:
        client = openai.AsyncOpenAI(base_url=gate.url + "/v1", api_key=gate.token("alice"))
        async with client:
            for _ in range(8):
                answer = await client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=4
                )
                assert answer.usage is not None
        await gate.logged(8, status=200)
        refused = [line for line in gate.log_lines() if line["status"] == 429]
        if "requests_per_minute" in plan:
            assert len(refused) >= 1  # one a second is let through: five of eight come too early where nothing is slow


@pytest.mark.parametrize("budget", ["tokens_per_day", "tokens_per_month"])
async def test_a_spent_budget_is_not_tried_again(
    engine: Simulator, server: RedisServer, tmp_path: Path, budget: str
) -> None:
    """The official client fails at once, with the quota's own code: one request, not three."""
    async with gateway(engine.url, tmp_path, redis_seconds=PATIENT, **sections(server, {budget: 200})) as gate:
        client = openai.AsyncOpenAI(base_url=gate.url + "/v1", api_key=gate.token("alice"))
        async with client:
            with pytest.raises(openai.RateLimitError) as caught:
                for _ in range(50):
                    await client.chat.completions.create(
                        model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=20
                    )
            assert caught.value.code == "insufficient_quota"
            assert caught.value.response.headers["x-should-retry"] == "false"
        assert len(await gate.logged(1, error_code="insufficient_quota")) == 1


async def test_charged_is_what_the_engine_sent_through_outages_and_disconnects(
    engine: Simulator, server: RedisServer, tmp_path: Path
) -> None:
    """Clients leave at random, Redis is stopped and let go: the day's counter in Redis is the record's sum, exactly."""
    await engine.knobs(tps=400)
    async with gateway(engine.url, tmp_path, **sections(server, {"tokens_per_day": 10**9})) as gate:
        headers = {"Authorization": f"Bearer {gate.token('alice')}"}

        begun = 0

        async def client(number: int) -> None:
            nonlocal begun
            for turn in range(8):
                body = BODY | {"stream": True, "max_tokens": 60, "ignore_eos": True}
                pieces = random.Random(100 * number + turn).choice((1, 10, 1000))  # read before it leaves
                async with gate.http.post(gate.url + "/v1/chat/completions", json=body, headers=headers) as answer:
                    assert answer.status == 200
                    begun += 1
                    while pieces and await answer.content.readany():
                        pieces -= 1

        async def breaker() -> None:
            for _ in range(3):
                await asyncio.sleep(0.3)
                server.pause()
                await asyncio.sleep(0.3)
                server.resume()

        await asyncio.gather(breaker(), *(client(number) for number in range(12)))
        await gate.logged(1)
        async with asyncio.timeout(60):
            while (await gate.metrics())["gatehouse_in_flight"] or (await gate.metrics()).get(
                'gatehouse_limiter_mode{mode="redis"}'
            ) != 1:
                await asyncio.sleep(0.02)
            while True:
                lines = [line for line in gate.log_lines() if line["route"] == "/v1/chat/completions"]
                recorded = sum(line["prompt_tokens"] + line["completion_tokens"] for line in lines)
                if await charged(server) == recorded and len(lines) == begun:
                    break
                await asyncio.sleep(0.1)
        assert {line["outcome"] for line in lines} >= {"complete", "client_gone"}


async def charged(server: RedisServer) -> int:
    """What alice has used today, as Redis has it."""
    link = Link(Address(server.url), 5, lambda reason: None)
    await link.connect()
    rule = Rule("subject:service:alice", Allowance(tokens_per_day=10**9))
    verdict = await RedisLimiter(link, lease=30, time_zone="UTC").acquire("audit", (rule,), 0)
    await link.aclose()
    assert verdict.day is not None
    return 10**9 - verdict.day.remaining
