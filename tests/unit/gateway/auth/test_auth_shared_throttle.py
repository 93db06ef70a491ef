"""Back-off counted in a real Redis: the same rules as in memory, kept while Redis is away, bounded keys."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth.shared_throttle import SharedThrottle
from gateway.auth.throttle import PAIR, Throttle
from gateway.config import RedisSettings
from gateway.redis import LastingLink
from tests.support.redis_server import RedisServer, running_redis
from tests.unit.gateway.auth.house import Clock

names = st.sampled_from(["ada", "bob", ""])
addresses = st.sampled_from(["10.0.0.1", "2001:db8::1", "2001:db8::2"])
steps = st.lists(st.tuples(names, addresses, st.booleans(), st.integers(0, 5000)), min_size=20, max_size=120)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@asynccontextmanager
async def shared(server: RedisServer, clock: Clock | None = None) -> AsyncIterator[SharedThrottle]:
    """One worker's view."""
    # longer than the settings allow: Redis is not away because this machine is busy
    link = LastingLink(RedisSettings(namespace="test").model_copy(update={"timeout_seconds": 10.0}), server.url)
    await link.start()
    try:
        yield SharedThrottle(link, clock)
    finally:
        await link.close()


@settings(max_examples=25)
@given(steps)
async def test_it_counts_as_one_process_would(
    server: RedisServer, given_steps: list[tuple[str, str, bool, int]]
) -> None:
    """Any sequence of attempts and successes, made in turns by two workers: each wait is that of the one in memory."""
    clock = Clock()
    alone = Throttle(clock)
    server.cli("FLUSHALL")
    async with shared(server, clock) as one, shared(server, clock) as two:
        for number, (account, address, succeeds, pause) in enumerate(given_steps):
            clock.now += pause if pause > 4000 else 0
            both = (one, two)
            wait = await both[number % 2].attempt(account, address)
            assert wait == pytest.approx(await alone.attempt(account, address), abs=0.002)
            if succeeds and not wait:
                await both[(number + 1) % 2].succeeded(account, address)
                await alone.succeeded(account, address)


async def test_by_the_servers_clock(server: RedisServer) -> None:
    """Without a clock of its own it goes by Redis': after the free guesses somebody waits a second, on any worker."""
    server.cli("FLUSHALL")
    async with shared(server) as one, shared(server) as two:
        for _ in range(PAIR.free + 1):
            assert await one.attempt("ada", "10.0.0.1") == 0
        waits = [await two.attempt("ada", "10.0.0.1") for _ in range(3)]  # the first may come after its second is over
        assert any(0 < wait <= 4 for wait in waits)
        assert await two.attempt("ada", "10.0.0.2") == 0


async def test_nothing_stays_for_ever(server: RedisServer) -> None:
    """Every key runs out by itself."""
    server.cli("FLUSHALL")
    async with shared(server) as throttle:
        await throttle.attempt("ada", "10.0.0.1")
        await throttle.succeeded("ada", "10.0.0.1")
        await throttle.attempt("bob", "10.0.0.1")
    keys = server.cli("KEYS", "*")
    assert len(keys) == 5
    assert all(server.cli("PTTL", key) > 0 for key in keys)


async def test_while_redis_is_away(server: RedisServer) -> None:
    """Guesses are counted here then, and together again when it is back."""
    server.cli("FLUSHALL")
    async with shared(server) as throttle:
        for _ in range(PAIR.free):
            assert await throttle.attempt("ada", "10.0.0.1") == 0
        server.kill()
        allowed = [await throttle.attempt("ada", "10.0.0.1") for _ in range(20)].count(0)
        assert allowed == PAIR.free + 1
        server.start()
        async with asyncio.timeout(60):
            while await throttle.attempt("ada", "10.0.0.1"):  # Redis was restarted empty
                await asyncio.sleep(0.05)
