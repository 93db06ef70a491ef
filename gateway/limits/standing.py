"""Pure: how accounts stand, and what follows from that: whether a request passes, when it would, how much is left.

Every implementation of the limiter only keeps the books; they are read here, so that all give the same answers.
"""

from collections.abc import Iterator, Sequence

import msgspec

from gateway.limits.limiter import SECOND, Allowance, Kind, Pace, Rate, Refusal, Rule, Verdict

_NEVER = 1 << 62  # longer than any wait


class Standing(msgspec.Struct, array_like=True, gc=False):
    """One rule's account at `Moment.now`; times in microseconds."""

    requests_square_at: int
    tokens_square_at: int
    day_tokens: int
    month_tokens: int
    leases: int
    lease_free_at: int  # when so many leases have expired that there is room for one more; 0: there is
    last_lease_until: int  # when the last of them expires; 0: there is none


class Moment(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """When accounts were looked at, and how long the day and the month still last; microseconds."""

    now: int
    day_left: int
    month_left: int


def refusal(rules: Sequence[Rule], standings: Sequence[Standing], tokens: int, moment: Moment) -> Refusal | None:
    """The obstacle that lasts longest, or None."""
    worst: tuple[int, Rule, Kind, int] | None = None
    floor = 0
    for rule, standing in zip(rules, standings, strict=True):
        for kind, limit, wait in _obstacles(rule.allowance, standing, tokens, moment):
            if kind is not Kind.CONCURRENT:
                floor = max(floor, wait)
            if worst is None or wait > worst[0]:
                worst = (wait, rule, kind, limit)
    if worst is None:
        return None
    wait, rule, kind, limit = worst
    if wait == _NEVER:
        return Refusal(rule.key, kind, limit, None, 0.0)
    return Refusal(rule.key, kind, limit, wait / SECOND, floor / SECOND)


def verdict(
    refused: Refusal | None, running: int, rules: Sequence[Rule], standings: Sequence[Standing], moment: Moment
) -> Verdict:
    """The answer: the refusal, and of each kind the rate that has least left."""
    requests: Rate | None = None
    tokens: Rate | None = None
    concurrent: Rate | None = None
    day: Rate | None = None
    month: Rate | None = None
    now = moment.now
    for rule, standing in zip(rules, standings, strict=True):
        allowance = rule.allowance
        if pace := allowance.requests:
            backlog = standing.requests_square_at - now if standing.requests_square_at > now else 0
            rate = Rate(pace.per_minute, pace.count(backlog), backlog / SECOND)
            requests = rate if requests is None else _tighter(requests, rate)
        if pace := allowance.tokens:
            backlog = standing.tokens_square_at - now if standing.tokens_square_at > now else 0
            rate = Rate(pace.per_minute, pace.room(backlog), backlog / SECOND)
            tokens = rate if tokens is None else _tighter(tokens, rate)
        if (most := allowance.concurrent) is not None:
            until = standing.last_lease_until - now if standing.leases else 0
            rate = Rate(most, _left(most, standing.leases), until / SECOND)
            concurrent = rate if concurrent is None else _tighter(concurrent, rate)
        if (budget := allowance.tokens_per_day) is not None:
            rate = Rate(budget, _left(budget, standing.day_tokens), moment.day_left / SECOND)
            day = rate if day is None else _tighter(day, rate)
        if (budget := allowance.tokens_per_month) is not None:
            rate = Rate(budget, _left(budget, standing.month_tokens), moment.month_left / SECOND)
            month = rate if month is None else _tighter(month, rate)
    return Verdict(refused, running, requests, tokens, concurrent, day, month)


def _obstacles(
    allowance: Allowance, standing: Standing, tokens: int, moment: Moment
) -> Iterator[tuple[Kind, int, int]]:
    """Each limit that refuses the request: kind, limit, microseconds until it no longer would."""
    now = moment.now
    if pace := allowance.requests:
        over = _over(pace, standing.requests_square_at, now, 1)
        if over > 0:
            yield Kind.REQUESTS, pace.per_minute, over
    if pace := allowance.tokens:
        over = _over(pace, standing.tokens_square_at, now, tokens)
        if over > 0:
            yield Kind.TOKENS, pace.per_minute, over if pace.cost(tokens) <= pace.depth else _NEVER
    if (most := allowance.concurrent) is not None and standing.leases >= most:
        yield Kind.CONCURRENT, most, standing.lease_free_at - now
    if (budget := allowance.tokens_per_day) is not None and standing.day_tokens + tokens > budget:
        yield (Kind.QUOTA, budget, moment.day_left) if tokens <= budget else (Kind.TOKENS, budget, _NEVER)
    if (budget := allowance.tokens_per_month) is not None and standing.month_tokens + tokens > budget:
        yield (Kind.MONTH, budget, moment.month_left) if tokens <= budget else (Kind.TOKENS, budget, _NEVER)


def _over(pace: Pace, square_at: int, now: int, amount: int) -> int:
    backlog = square_at - now if square_at > now else 0
    return backlog + pace.cost(amount) - pace.depth


def _left(limit: int, taken: int) -> int:
    return limit - taken if limit > taken else 0


def _tighter(one: Rate, other: Rate) -> Rate:
    """Of two rates the one that has fewer left; among equals the one that takes longer to recover."""
    if (other.remaining, -other.reset) < (one.remaining, -one.reset):
        return other
    return one
