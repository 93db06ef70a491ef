"""What is worth saying by example of every limiter; random steps against the model seldom come by here.

`at(now)` sets the time, in microseconds, in whatever way the limiter under test has it.
"""

from collections.abc import Awaitable, Callable

from gateway.limits.limiter import SECOND, Allowance, Limiter, Pace, Rule
from tests.unit.gateway.limits.limiter_machine import DAY

At = Callable[[int], Awaitable[None]]


async def debt_counts_from_the_settlement(limiter: Limiter, at: At) -> None:
    """A request that used more than it had reserved, and whose reservation is long worked off: the rest counts now."""
    rules = (Rule("total", Allowance(tokens=Pace.of_tokens(6000))),)
    await at(1000 * DAY)
    assert (await limiter.acquire("a", rules, 100)).allowed
    await at(1000 * DAY + 30 * SECOND)
    await limiter.settle({"a": 700})
    verdict = await limiter.acquire("b", rules, 0)
    assert verdict.tokens is not None
    assert verdict.tokens.remaining == 6000 - 600


async def yesterdays_refund_is_not_todays_gain(limiter: Limiter, at: At) -> None:
    """What a request of yesterday gives back changes neither today's budget nor this month's."""
    rules = (Rule("total", Allowance(tokens_per_day=100, tokens_per_month=200)),)
    await at(1004 * DAY - 1)  # the last microsecond of 1972-09-30
    assert (await limiter.acquire("a", rules, 100)).allowed
    assert not (await limiter.acquire("b", rules, 1)).allowed
    await at(1004 * DAY)
    assert (await limiter.acquire("c", rules, 60)).allowed
    await limiter.settle({"a": 0})
    verdict = await limiter.acquire("d", rules, 0)
    assert verdict.day is not None
    assert verdict.month is not None
    assert (verdict.day.remaining, verdict.month.remaining) == (40, 140)
