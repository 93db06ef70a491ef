"""Back-off: what guessing costs, and that it never costs a colleague the door. Time is simulated."""

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth import throttle as throttle_module
from gateway.auth.throttle import ACCOUNT, ADDRESS, KNOWN_SECONDS, PAIR, Throttle
from tests.unit.gateway.auth.house import Clock

names = st.sampled_from(["ada", "bob", "eve"])
addresses = st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"])


async def guess_until(throttle: Throttle, clock: Clock, account: str, address: str, guesses: int) -> float:
    """Guess wrongly so often, waiting as told; returns the seconds it took."""
    start = clock.now
    for _ in range(guesses):
        while wait := await throttle.attempt(account, address):
            clock.now += wait
    return clock.now - start


async def test_a_few_mistakes_are_free() -> None:
    """Five wrong passwords cost nothing; the sixth try is free too, then one waits 1, 2, 4, … seconds."""
    clock = Clock()
    throttle = Throttle(clock)
    assert await guess_until(throttle, clock, "ada", "10.0.0.1", 6) == 0
    waits = []
    for _ in range(12):
        waits.append(await throttle.attempt("ada", "10.0.0.1"))
        clock.now += waits[-1]
        assert await throttle.attempt("ada", "10.0.0.1") == 0
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]


async def test_guesses_at_once_count_at_once() -> None:
    """Guesses sent together are charged before any is answered: no more pass than one after another would."""
    throttle = Throttle(Clock())
    assert [await throttle.attempt("ada", "10.0.0.1") == 0 for _ in range(1000)].count(True) == PAIR.free + 1


async def test_success_forgives() -> None:
    """Who knows the password starts afresh."""
    clock = Clock()
    throttle = Throttle(clock)
    await guess_until(throttle, clock, "ada", "10.0.0.1", PAIR.free)
    assert await throttle.attempt("ada", "10.0.0.1") == 0
    await throttle.succeeded("ada", "10.0.0.1")
    assert await guess_until(throttle, clock, "ada", "10.0.0.1", PAIR.free) == 0


async def test_failures_are_forgotten_in_an_hour() -> None:
    """An hour after the last failure the count begins anew."""
    clock = Clock()
    throttle = Throttle(clock)
    await guess_until(throttle, clock, "ada", "10.0.0.1", 12)
    clock.now += 3601
    assert await guess_until(throttle, clock, "ada", "10.0.0.1", PAIR.free) == 0


async def test_ten_thousand_guesses_from_a_hundred_addresses() -> None:
    """They take days, and the real user signs in at the first try from the usual address all the while."""
    clock = Clock()
    throttle = Throttle(clock)
    assert await throttle.attempt("ada", "192.0.2.7") == 0
    await throttle.succeeded("ada", "192.0.2.7")
    attackers = [(0.0, f"10.1.0.{n}") for n in range(100)]  # when each may guess again, as it was told
    made, start = 0, clock.now
    while made < 10_000:
        ready_at, attacker = heapq.heappop(attackers)
        clock.now = max(clock.now, ready_at)
        wait = await throttle.attempt("ada", attacker)
        made += wait == 0
        heapq.heappush(attackers, (clock.now + wait, attacker))
        if made % 100 == 0:
            assert await throttle.attempt("ada", "192.0.2.7") == 0
            await throttle.succeeded("ada", "192.0.2.7")
    assert clock.now - start > 12 * 3600


async def test_a_colleague_behind_the_same_address() -> None:
    """An attacker in the same office delays a colleague never seen there by half a minute at most, known ones not."""
    clock = Clock()
    throttle = Throttle(clock)
    await throttle.attempt("bob", "10.0.0.1")
    await throttle.succeeded("bob", "10.0.0.1")
    for n in range(500):
        while wait := await throttle.attempt(f"user{n}", "10.0.0.1"):
            clock.now += wait
    assert await throttle.attempt("bob", "10.0.0.1") == 0
    assert 0 < await throttle.attempt("carol", "10.0.0.1") <= ADDRESS.longest


async def test_an_account_under_attack_from_everywhere() -> None:
    """From an address never seen, the user of an attacked account waits seconds, not minutes."""
    clock = Clock()
    throttle = Throttle(clock)
    for n in range(1000):
        while wait := await throttle.attempt("ada", f"10.2.{n // 250}.{n % 250}"):
            clock.now += wait
    assert 0 < await throttle.attempt("ada", "192.0.2.7") <= ACCOUNT.longest


async def test_known_pairs_are_known_for_a_month() -> None:
    """The privilege of the usual address ends when it has not been used for thirty days."""
    clock = Clock()
    throttle = Throttle(clock)
    await throttle.attempt("ada", "192.0.2.7")
    await throttle.succeeded("ada", "192.0.2.7")
    clock.now += KNOWN_SECONDS + 1
    for n in range(ACCOUNT.free + 1):
        await throttle.attempt("ada", f"10.0.0.{n}")
    assert await throttle.attempt("ada", "192.0.2.7") > 0


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names and addresses are tried, no more than the bound is kept."""
    monkeypatch.setattr(throttle_module, "MAX_TRACKS", 50)
    throttle = Throttle(Clock())
    for n in range(1000):
        await throttle.attempt(f"user{n}", f"10.0.{n // 250}.{n % 250}")
        await throttle.succeeded(f"user{n}", f"10.0.{n // 250}.{n % 250}")
        await throttle.attempt(f"other{n}", f"10.1.{n // 250}.{n % 250}")
    assert len(throttle) <= 4 * 50


async def test_success_after_the_track_was_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A success whose tracks have been forgotten meanwhile is still a success."""
    throttle = Throttle(Clock())
    await throttle.succeeded("ada", "10.0.0.1")
    assert await throttle.attempt("ada", "10.0.0.1") == 0


@settings(max_examples=60)
@given(st.lists(st.tuples(names, addresses, st.booleans(), st.floats(0, 2000)), max_size=150))
async def test_nobody_waits_longer_than_the_longest(steps: list[tuple[str, str, bool, float]]) -> None:
    """Whatever happened, no wait exceeds the pair's longest, and waiting as told always lets one in."""
    clock = Clock()
    throttle = Throttle(clock)
    for account, address, succeeds, pause in steps:
        clock.now += pause
        wait = await throttle.attempt(account, address)
        assert 0 <= wait <= PAIR.longest
        if wait:
            clock.now += wait
            assert await throttle.attempt(account, address) == 0
        if succeeds:
            await throttle.succeeded(account, address)


@settings(max_examples=60)
@given(st.lists(st.tuples(names, st.integers(0, 200), st.floats(0, 30)), max_size=200))
async def test_others_never_stop_a_known_pair(steps: list[tuple[str, int, float]]) -> None:
    """No sequence of other people's guesses, from other addresses, delays a pair that has signed in before."""
    clock = Clock()
    throttle = Throttle(clock)
    await throttle.attempt("ada", "192.0.2.7")
    await throttle.succeeded("ada", "192.0.2.7")
    for account, host, pause in steps:
        clock.now += pause
        await throttle.attempt(account, f"10.0.0.{host}")
    assert await throttle.attempt("ada", "192.0.2.7") == 0
