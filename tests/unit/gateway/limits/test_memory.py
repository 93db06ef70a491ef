"""The in-process limiter: what the model checks at random, and what is worth saying by example."""

import datetime as dt
import resource
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits.calendar import Calendar
from gateway.limits.limiter import FORGET_AFTER, MINUTE, SECOND, Allowance, Kind, Pace, Rule
from gateway.limits.memory import MemoryLimiter
from tests.unit.gateway.limits import scenarios
from tests.unit.gateway.limits.limiter_machine import LEASE, Clock, LimiterMachine, finish


class MemoryMachine(LimiterMachine):
    """The in-process limiter agrees with the model, step by step."""

    def make(self, clock: Clock) -> MemoryLimiter:
        """One that lives on the test's clock."""
        return MemoryLimiter(lease=LEASE, time_zone="UTC", clock=clock, wall=clock)


TestAgainstTheModel = MemoryMachine.TestCase
TestAgainstTheModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> MemoryLimiter:
    return MemoryLimiter(lease=LEASE, time_zone="UTC", clock=clock, wall=clock)


@pytest.mark.parametrize(
    "scenario", [scenarios.debt_counts_from_the_settlement, scenarios.yesterdays_refund_is_not_todays_gain]
)
def test_scenarios(limiter: MemoryLimiter, clock: Clock, scenario) -> None:
    """What the scenario says."""

    async def at(now: int) -> None:
        clock.now = now

    finish(scenario(limiter, at))


def own(**allowance: object) -> tuple[Rule, ...]:
    return (Rule("subject:alice", Allowance(**allowance)),)


def acquire(limiter: MemoryLimiter, name: str, rules: tuple[Rule, ...], tokens: int = 0):
    return finish(limiter.acquire(name, rules, tokens))


def test_a_request_larger_than_the_bucket_is_refused_for_good(limiter: MemoryLimiter) -> None:
    """What can never pass has no retry_after, whether a minute or a day is too small for it."""
    for rules in (own(tokens=Pace.of_tokens(100)), own(tokens_per_day=100)):
        refusal = acquire(limiter, "a", rules, 101).refusal
        assert refusal is not None
        assert (refusal.kind, refusal.limit, refusal.retry_after) == (Kind.TOKENS, 100, None)
        assert acquire(limiter, "b", rules, 100).allowed
        finish(limiter.settle({"b": 0}))


def test_one_rule_refuses_and_no_rule_is_charged(limiter: MemoryLimiter) -> None:
    """All or nothing: the team's refusal leaves the subject's account as it was."""
    rules = (*own(requests=Pace.of_requests(60, 10)), Rule("team:red", Allowance(concurrent=1)))
    assert acquire(limiter, "a", rules).allowed
    before = acquire(limiter, "b", rules)
    after = acquire(limiter, "c", rules)
    assert before.refusal is not None
    assert before.refusal.rule == "team:red"
    assert before == after
    assert before.requests is not None
    assert before.requests.remaining == 9


def test_the_longest_obstacle_is_the_one_named(limiter: MemoryLimiter, clock: Clock) -> None:
    """Tokens wait 30 s, requests 1 s: the refusal speaks of tokens, for who waits for those waits long enough."""
    rules = own(requests=Pace.of_requests(60, 1), tokens=Pace.of_tokens(600))
    assert acquire(limiter, "a", rules, 600).allowed
    refusal = acquire(limiter, "b", rules, 300).refusal
    assert refusal is not None
    assert (refusal.kind, refusal.retry_after, refusal.floor) == (Kind.TOKENS, 30.0, 30.0)


def test_debt_at_settlement_delays_the_next_request(limiter: MemoryLimiter, clock: Clock) -> None:
    """Who used more than was reserved waits until that is worked off."""
    rules = own(tokens=Pace.of_tokens(60))
    assert acquire(limiter, "a", rules, 10).allowed
    finish(limiter.settle({"a": 130}))
    refusal = acquire(limiter, "b", rules, 10).refusal
    assert refusal is not None
    assert refusal.retry_after == 80.0


def test_a_lease_dies_without_heartbeat_and_lives_with_one(limiter: MemoryLimiter, clock: Clock) -> None:
    """A lease not renewed is free after its time; a late renewal brings it back."""
    rules = own(concurrent=1)
    assert acquire(limiter, "a", rules).allowed
    clock.now += LEASE * SECOND - 1
    finish(limiter.renew(["a"]))
    clock.now += LEASE * SECOND - 1
    assert not acquire(limiter, "b", rules).allowed
    clock.now += 1
    assert acquire(limiter, "c", rules).allowed
    finish(limiter.renew(["a"]))
    verdict = acquire(limiter, "d", rules)
    assert verdict.running == 2
    assert not verdict.allowed


def test_an_unsettled_reservation_stays_charged_and_is_forgotten(limiter: MemoryLimiter, clock: Clock) -> None:
    """If nobody settles, the tokens stay charged; a settlement that comes far too late has no effect."""
    rules = own(tokens=Pace.of_tokens(60), tokens_per_day=1000)
    assert acquire(limiter, "a", rules, 60).allowed
    clock.now += FORGET_AFTER
    acquire(limiter, "b", rules, 0)
    finish(limiter.settle({"a": 0}))
    verdict = acquire(limiter, "c", rules, 0)
    assert verdict.day is not None
    assert verdict.day.remaining == 940


def test_a_plan_without_limits_still_counts_what_runs(limiter: MemoryLimiter) -> None:
    """The caller's own leases are counted for the priority, even where nothing is limited."""
    assert [acquire(limiter, name, own()).running for name in "abc"] == [0, 1, 2]
    finish(limiter.settle({"a": 0, "b": 0}))
    verdict = acquire(limiter, "d", own())
    assert verdict.running == 1
    assert (verdict.requests, verdict.tokens, verdict.concurrent, verdict.day) == (None, None, None, None)


def test_the_day_budget_returns_at_midnight_of_its_zone(clock: Clock) -> None:
    """The budget is renewed at local midnight, not at UTC's."""
    zone = ZoneInfo("Asia/Shanghai")
    clock.now = round(dt.datetime(2026, 11, 22, 23, 0, tzinfo=zone).timestamp()) * SECOND
    limiter = MemoryLimiter(lease=LEASE, time_zone="Asia/Shanghai", clock=clock, wall=clock)
    rules = own(tokens_per_day=100)
    assert acquire(limiter, "a", rules, 100).allowed
    refusal = acquire(limiter, "b", rules, 1).refusal
    assert refusal is not None
    assert (refusal.kind, refusal.retry_after) == (Kind.QUOTA, 3600.0)
    clock.now += 3600 * SECOND
    assert acquire(limiter, "c", rules, 60).allowed
    finish(limiter.settle({"a": 0}))
    verdict = acquire(limiter, "d", rules, 0)
    assert verdict.day is not None
    assert verdict.day.remaining == 40  # yesterday's refund is not today's gain


def test_memory_is_bounded_by_who_is_active(limiter: MemoryLimiter, clock: Clock) -> None:
    """1e5 subjects that come once leave almost nothing behind."""
    allowance = Allowance(Pace.of_requests(600, 100), Pace.of_tokens(60_000), 4, None)
    most = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(100_000):
        acquire(limiter, f"r{number}", (Rule(f"subject:{number}", allowance),), 10)
        finish(limiter.settle({f"r{number}": 10}))
        clock.now += 1000
        most = max(most, limiter.size)
    assert most < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_a_days_budget_is_forgotten_after_the_day(limiter: MemoryLimiter, clock: Clock) -> None:
    """Accounts with a day's budget stay for that day and go after it."""
    allowance = Allowance(tokens_per_day=1000)
    for number in range(1000):
        acquire(limiter, f"r{number}", (Rule(f"subject:{number}", allowance),), 10)
        finish(limiter.settle({f"r{number}": 10}))
    assert limiter.size == 1000
    clock.now += 2 * 3600 * SECOND
    for number in range(501):
        acquire(limiter, f"again{number}", own(), 0)
        finish(limiter.settle({f"again{number}": 0}))
    assert limiter.size <= 3


@given(
    zone=st.sampled_from(["UTC", "Asia/Shanghai", "Europe/Berlin", "America/Havana", "Africa/Cairo", "Asia/Kathmandu"]),
    at=st.integers(1_600_000_000, 2_000_000_000),
)
def test_the_next_midnight_is_ahead_and_no_further_than_a_long_day(zone: str, at: int) -> None:
    """In any zone, at any time: the day ends after now and within 25 hours, and a new date begins there."""
    now = at * SECOND
    calendar = Calendar(zone)
    end = calendar.day_end(now)
    assert now < end <= now + 25 * 60 * MINUTE
    assert calendar.day_end(end - 1) == end
    local = dt.datetime.fromtimestamp(end / SECOND, ZoneInfo(zone))
    assert (local - dt.timedelta(seconds=1)).date() < local.date() or local.hour <= 1
    assert calendar.day_end(end) > end
    assert calendar.day_end(now) == end
