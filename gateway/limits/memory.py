"""The limiter of one process. No lock: nothing awaits between reading and writing, so each call is one atomic step."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec

from gateway.limits.calendar import Calendar
from gateway.limits.limiter import FORGET_AFTER, SECOND, Allowance, Kind, Rate, Refusal, Rule, Verdict, tighter

_NEVER = 1 << 62  # longer than any wait


def monotonic() -> int:
    """Microseconds of a clock that never steps: for rates and leases."""
    return time.monotonic_ns() // 1000


def wall() -> int:
    """Microseconds since the epoch: for the day's end."""
    return time.time_ns() // 1000


class _Account(msgspec.Struct):
    """What is counted under one rule's key."""

    requests_square_at: int = 0  # when the request backlog is worked off
    tokens_square_at: int = 0
    day_end: int = 0  # the day that day_tokens belong to
    day_tokens: int = 0
    leases: OrderedDict[str, int] = msgspec.field(default_factory=OrderedDict)  # reservation → expiry, soonest first

    def expire(self, now: int) -> None:
        """Drop the leases that nobody renewed."""
        while self.leases and next(iter(self.leases.values())) <= now:
            self.leases.popitem(last=False)

    def idle(self, now: int, day_end: int) -> bool:
        """Whether a new account would say the same."""
        spent_today = self.day_tokens > 0 and self.day_end == day_end
        return not (self.leases or spent_today or max(self.requests_square_at, self.tokens_square_at) > now)


class _Reservation(msgspec.Struct):
    rules: tuple[Rule, ...]
    tokens: int
    day_end: int
    forget_at: int


class MemoryLimiter:
    """Implements `Limiter` for one process; `lease` is in seconds, clocks are injected for the tests.

    Memory: every acquire looks at the two accounts that were untouched longest and drops the idle ones, so accounts
    go at least as fast as they come. One with a day's budget stays until that day is over.
    """

    def __init__(
        self,
        *,
        lease: float,
        time_zone: str,
        clock: Callable[[], int] = monotonic,
        wall: Callable[[], int] = wall,
    ) -> None:
        self._lease = round(lease * SECOND)
        self._calendar = Calendar(time_zone)
        self._clock = clock
        self._wall = wall
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._reservations: OrderedDict[str, _Reservation] = OrderedDict()  # least recently renewed first

    @property
    def size(self) -> int:
        """Accounts and reservations in memory."""
        return len(self._accounts) + len(self._reservations)

    async def acquire(self, reservation_id: str, rules: Sequence[Rule], tokens: int) -> Verdict:
        """See Limiter.acquire."""
        now, day_end, day_left = self._now()
        self._sweep(now, day_end)
        accounts = [(rule, self._account(rule.key, now, day_end)) for rule in rules]
        running = len(accounts[0][1].leases)
        if reservation_id in self._reservations:
            refusal, running = None, running - 1
        else:
            refusal = _refusal(accounts, tokens, now, day_left)
            if refusal is None:
                self._charge(reservation_id, accounts, tokens, now, day_end)
        return _verdict(refusal, running, accounts, now, day_left)

    async def renew(self, reservation_ids: Iterable[str]) -> None:
        """See Limiter.renew."""
        now, day_end, _ = self._now()
        for reservation_id in reservation_ids:
            reservation = self._reservations.get(reservation_id)
            if reservation is None:
                continue
            self._reservations.move_to_end(reservation_id)
            reservation.forget_at = now + FORGET_AFTER
            for rule in _leased(reservation.rules):
                leases = self._account(rule.key, now, day_end).leases
                leases[reservation_id] = now + self._lease
                leases.move_to_end(reservation_id)

    async def settle(self, used: Mapping[str, int]) -> None:
        """See Limiter.settle."""
        now, day_end, _ = self._now()
        for reservation_id, tokens in used.items():
            reservation = self._reservations.pop(reservation_id, None)
            if reservation is None:
                continue
            for rule in reservation.rules:
                account = self._account(rule.key, now, day_end)
                account.leases.pop(reservation_id, None)
                if pace := rule.allowance.tokens:
                    account.tokens_square_at = (
                        max(account.tokens_square_at, now) + pace.cost(tokens) - pace.cost(reservation.tokens)
                    )
                # A request that began yesterday was yesterday's: its difference does not touch today's budget.
                if rule.allowance.tokens_per_day is not None and reservation.day_end == account.day_end:
                    account.day_tokens += tokens - reservation.tokens

    def _now(self) -> tuple[int, int, int]:
        """Now on the steady clock; the end of today; how long until then."""
        wall = self._wall()
        day_end = self._calendar.day_end(wall)
        return self._clock(), day_end, day_end - wall

    def _account(self, key: str, now: int, day_end: int) -> _Account:
        """The key's account, with what time has ended taken out of it."""
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account()
        self._accounts.move_to_end(key)
        if account.day_end != day_end:
            account.day_end, account.day_tokens = day_end, 0
        account.expire(now)
        return account

    def _charge(
        self, reservation_id: str, accounts: list[tuple[Rule, _Account]], tokens: int, now: int, day_end: int
    ) -> None:
        rules = tuple(rule for rule, _ in accounts)
        self._reservations[reservation_id] = _Reservation(rules, tokens, day_end, now + FORGET_AFTER)
        for rule, account in accounts:
            allowance = rule.allowance
            if pace := allowance.requests:
                account.requests_square_at = max(account.requests_square_at, now) + pace.cost(1)
            if pace := allowance.tokens:
                account.tokens_square_at = max(account.tokens_square_at, now) + pace.cost(tokens)
            if allowance.tokens_per_day is not None:
                account.day_tokens += tokens
        for rule in _leased(rules):
            self._accounts[rule.key].leases[reservation_id] = now + self._lease

    def _sweep(self, now: int, day_end: int) -> None:
        """Look at the two oldest accounts and reservations; forget what no longer matters."""
        for _ in range(2):
            if self._reservations:
                reservation_id, reservation = next(iter(self._reservations.items()))
                if reservation.forget_at <= now:
                    del self._reservations[reservation_id]
            if self._accounts:
                key, account = next(iter(self._accounts.items()))
                account.expire(now)
                if account.idle(now, day_end):
                    del self._accounts[key]
                else:
                    self._accounts.move_to_end(key)


def _leased(rules: tuple[Rule, ...]) -> list[Rule]:
    """The rules that count leases: those that limit them, and the first, whose count the caller is told."""
    return [rule for rule in rules if rule is rules[0] or rule.allowance.concurrent is not None]


def _refusal(accounts: list[tuple[Rule, _Account]], tokens: int, now: int, day_left: int) -> Refusal | None:
    """The obstacle that lasts longest, or None."""
    worst: tuple[int, Rule, Kind, int] | None = None
    floor = 0
    for rule, account in accounts:
        for kind, limit, wait in _obstacles(rule.allowance, account, tokens, now, day_left):
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


def _obstacles(
    allowance: Allowance, account: _Account, tokens: int, now: int, day_left: int
) -> Iterator[tuple[Kind, int, int]]:
    """Each limit that refuses the request: kind, limit, microseconds until it no longer would."""
    if pace := allowance.requests:
        over = max(account.requests_square_at - now, 0) + pace.cost(1) - pace.depth
        if over > 0:
            yield Kind.REQUESTS, pace.per_minute, over
    if pace := allowance.tokens:
        cost = pace.cost(tokens)
        over = max(account.tokens_square_at - now, 0) + cost - pace.depth
        if over > 0:
            yield Kind.TOKENS, pace.per_minute, over if cost <= pace.depth else _NEVER
    if (most := allowance.concurrent) is not None:
        surplus = len(account.leases) - most
        if surplus >= 0:
            yield Kind.CONCURRENT, most, next(islice(account.leases.values(), surplus, None)) - now
    if (budget := allowance.tokens_per_day) is not None and account.day_tokens + tokens > budget:
        yield (Kind.QUOTA, budget, day_left) if tokens <= budget else (Kind.TOKENS, budget, _NEVER)


def _verdict(
    refusal: Refusal | None, running: int, accounts: list[tuple[Rule, _Account]], now: int, day_left: int
) -> Verdict:
    requests: Rate | None = None
    tokens: Rate | None = None
    concurrent: Rate | None = None
    day: Rate | None = None
    for rule, account in accounts:
        allowance = rule.allowance
        if pace := allowance.requests:
            backlog = max(0, account.requests_square_at - now)
            left = (pace.depth - backlog) // pace.cost(1)
            requests = tighter(requests, Rate(pace.per_minute, left, backlog / SECOND))
        if pace := allowance.tokens:
            backlog = max(0, account.tokens_square_at - now)
            tokens = tighter(tokens, Rate(pace.per_minute, pace.room(backlog), backlog / SECOND))
        if (most := allowance.concurrent) is not None:
            leases = account.leases
            until = next(reversed(leases.values())) - now if leases else 0
            concurrent = tighter(concurrent, Rate(most, max(0, most - len(leases)), until / SECOND))
        if (budget := allowance.tokens_per_day) is not None:
            day = tighter(day, Rate(budget, max(0, budget - account.day_tokens), day_left / SECOND))
    return Verdict(refusal, running, requests, tokens, concurrent, day)
