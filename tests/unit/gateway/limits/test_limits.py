"""What the gateway composes: reserve, settle on every exit, heartbeats, settlements that survive a failing limiter."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.config import Config, EngineTarget, LimitsSettings, PlanSettings
from gateway.context import Api, Exchange, Principal, Usage, Via
from gateway.limits import Limits
from gateway.limits.limiter import SECOND, Kind
from gateway.limits.memory import MemoryLimiter
from gateway.limits.patience import Durations
from tests.unit.gateway.limits.limiter_machine import Clock

LEASE = 0.15


def make_config(**plan: int) -> Config:
    return Config(
        state_dir=Path("/nonexistent"),
        engine=EngineTarget(url="http://127.0.0.1:1", max_model_len=8192),
        plans={"member": PlanSettings(**plan), "service": PlanSettings()},
        limits=LimitsSettings(lease_seconds=LEASE),
    )


def make_exchange(subject: str = "alice") -> Exchange:
    exchange = Exchange("same-id", "POST", "/v1/chat/completions", Api.CHAT, "127.0.0.1", "test")
    exchange.principal = Principal(subject, None, frozenset(), "member", (), None, Via.BEARER)
    return exchange


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


class FailingLimiter(MemoryLimiter):
    """The in-process limiter behind a connection that fails while `down`."""

    down = False
    failures = 0
    settled: list[str]

    def __init__(self) -> None:
        super().__init__(lease=LEASE, time_zone="UTC")
        self.settled = []

    async def renew(self, reservation_ids) -> None:
        """Renew, or fail."""
        self._fail()
        await super().renew(reservation_ids)

    async def settle(self, used) -> None:
        """Settle, or fail."""
        self._fail()
        self.settled += used
        await super().settle(used)

    def _fail(self) -> None:
        if self.down:
            self.failures += 1
            raise ConnectionError("away")


@pytest.fixture
async def limits() -> AsyncIterator[Limits]:
    limits = Limits(make_config(concurrent_requests=1, tokens_per_minute=20_000, tokens_per_day=100_000))
    await limits.start()
    yield limits
    await limits.close()


async def test_settlement_gives_back_what_was_not_used(limits: Limits) -> None:
    """Reserved is estimate and maximum; after the settlement only what was used is charged, and the lease is free."""
    exchange = make_exchange()
    verdict = await limits.reserve(exchange, "m", 1000, 2000)
    assert verdict.allowed
    assert verdict.day is not None
    assert verdict.day.remaining == 97_000
    assert (exchange.prompt_estimate, limits.in_flight) == (1000, 1)
    exchange.usage = Usage(prompt_tokens=900, completion_tokens=100)
    limits.settle(exchange)
    limits.settle(exchange)
    await until(lambda: not limits._due)
    verdict = await limits.reserve(make_exchange(), "m", 0, 0)
    assert verdict.allowed
    assert verdict.running == 0
    assert verdict.day is not None
    assert verdict.day.remaining == 99_000


async def test_a_refused_request_settles_to_nothing(limits: Limits) -> None:
    """Neither a refused nor an unknown exchange can be settled into anything."""
    first, second = make_exchange(), make_exchange()
    assert (await limits.reserve(first, "m", 10, 10)).allowed
    assert not (await limits.reserve(second, "m", 10, 10)).allowed
    limits.settle(second)
    assert limits.in_flight == 1
    assert not limits._due


async def test_equal_request_ids_do_not_share_a_reservation() -> None:
    """A client that sends the same X-Request-Id twice is counted twice."""
    limits = Limits(make_config(requests_per_minute=60, request_burst=2))
    verdicts = [await limits.reserve(make_exchange(), "m", 1, 1) for _ in range(3)]
    assert [verdict.allowed for verdict in verdicts] == [True, True, False]


async def test_an_unauthenticated_request_cannot_reserve(limits: Limits) -> None:
    """Limits come after authentication; anything else is a mistake in the code."""
    exchange = make_exchange()
    exchange.principal = None
    with pytest.raises(RuntimeError, match="authenticated"):
        await limits.reserve(exchange, "m", 1, 1)


async def test_the_prompt_counts_at_most_as_a_full_context(limits: Limits) -> None:
    """The engine refuses what is longer than its context, so no more is ever reserved for it."""
    exchange = make_exchange()
    await limits.reserve(exchange, "m", 1_000_000, 100)
    assert exchange.prompt_estimate == 8192


async def test_heartbeats_keep_a_long_stream_counted() -> None:
    """A request that outlives its lease many times still holds its place: the lease's clock moves by most of it between
    two heartbeats.
    """
    clock = Clock()

    class Counting(MemoryLimiter):
        beats = 0

        async def renew(self, reservation_ids) -> None:
            """Renew, and count."""
            await super().renew(reservation_ids)
            self.beats += 1

    limiter = Counting(lease=LEASE, time_zone="UTC", clock=clock, wall=clock)
    limits = Limits(make_config(concurrent_requests=1), limiter)
    await limits.start()
    assert (await limits.reserve(make_exchange(), "m", 10, 10)).allowed
    for _ in range(5):
        clock.now += round(0.9 * LEASE * SECOND)
        beats = limiter.beats
        await until(lambda beats=beats: limiter.beats > beats)
    verdict = await limits.reserve(make_exchange(), "m", 10, 10)
    assert verdict.refusal is not None
    assert verdict.refusal.kind is Kind.CONCURRENT
    await limits.close()


async def test_settlements_wait_for_a_limiter_that_is_away() -> None:
    """What could not be delivered is kept and delivered once, and heartbeats go on."""
    limiter = FailingLimiter()
    limits = Limits(make_config(), limiter)
    await limits.start()
    exchange = make_exchange()
    await limits.reserve(exchange, "m", 10, 10)
    limiter.down = True
    limits.settle(exchange)
    await until(lambda: limiter.failures >= 3)
    limiter.down = False
    await until(lambda: not limits._due)
    await limits.close()
    assert len(limiter.settled) == 1


async def test_a_client_that_leaves_while_the_limiter_is_asked_holds_nothing() -> None:
    """Whatever the limiter answered to nobody is given back."""

    class SlowLimiter(FailingLimiter):
        asked = False

        async def acquire(self, *args):
            """Acquire, and answer late."""
            await super().acquire(*args)
            self.asked = True
            await asyncio.sleep(60)

    limiter = SlowLimiter()
    limits = Limits(make_config(concurrent_requests=1), limiter)
    await limits.start()
    task = asyncio.create_task(limits.reserve(make_exchange(), "m", 10, 10))
    await until(lambda: limiter.asked)
    task.cancel()
    await until(lambda: len(limiter.settled) == 1)
    await limits.close()
    assert limits.in_flight == 0


async def test_close_delivers_what_is_due() -> None:
    """A settlement asked for just before the end is not lost, background task or not."""
    limiter = FailingLimiter()
    limits = Limits(make_config(), limiter)
    for started in (False, True):
        if started:
            await limits.start()
        exchange = make_exchange()
        await limits.reserve(exchange, "m", 10, 10)
        limits.settle(exchange)
        await limits.close()
    assert len(limiter.settled) == 2


async def test_the_estimate_learns_from_exact_usage_only(limits: Limits) -> None:
    """The engine's own figure corrects the next estimate; an estimated one does not."""
    for estimated in (True, False):
        exchange = make_exchange()
        await limits.reserve(exchange, "m", 1000, 0)
        assert exchange.prompt_estimate == 1000
        exchange.usage = Usage(prompt_tokens=2000, estimated=estimated)
        limits.settle(exchange)
        await until(lambda: not limits._due)
    exchange = make_exchange()
    await limits.reserve(exchange, "m", 1000, 0)
    assert exchange.prompt_estimate > 1000


async def test_a_request_without_a_prompt_reserves_none(limits: Limits) -> None:
    """A route that generates nothing is no lesson for the estimate, and is charged no template."""
    exchange = make_exchange()
    limits._corrections.of("m").overhead = 70
    await limits.reserve(exchange, "m", 0, 0)
    exchange.usage = Usage(prompt_tokens=5)
    limits.settle(exchange)
    assert exchange.prompt_estimate == 0
    assert limits._corrections.of("m").overhead == 70


async def test_who_waits_for_their_own_requests_is_told_how_long_those_take() -> None:
    """Not the lease's expiry but the learned duration, and never less than the other limits demand."""
    limits = Limits(make_config(concurrent_requests=1, requests_per_minute=600, request_burst=1))
    limits._limiter._lease = 30_000_000
    assert (await limits.reserve(make_exchange(), "m", 1, 1)).allowed
    unknown = (await limits.reserve(make_exchange(), "m", 1, 1)).refusal
    limits._durations["member"].learn(0.5)
    learned = (await limits.reserve(make_exchange(), "m", 1, 1)).refusal
    limits._durations["member"] = Durations(mean=0.0)
    floored = (await limits.reserve(make_exchange(), "m", 1, 1)).refusal
    assert unknown is not None
    assert learned is not None
    assert floored is not None
    assert 20 < unknown.retry_after <= 30
    assert learned.retry_after == 1.5
    assert 0 < floored.retry_after == floored.floor <= 0.1


def test_durations_cover_nearly_all_requests() -> None:
    """Mean and four deviations, as TCP waits for an answer: steady durations narrow it down."""
    durations = Durations()
    assert durations.within() is None
    for _ in range(50):
        durations.learn(2.0)
    assert durations.within() == pytest.approx(2.0, rel=0.01)
    durations.learn(10.0)
    assert durations.within() > 10
