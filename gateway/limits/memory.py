"""The limiter of one process. No lock: nothing awaits between reading and writing, so each call is one atomic step."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

import msgspec

from gateway.limits.calendar import Calendar
from gateway.limits.limiter import FORGET_AFTER, SECOND, Rule, Verdict, leased
from gateway.limits.standing import Moment, Standing, refusal, verdict


def monotonic() -> int:
    """Microseconds of a clock that never steps: for rates and leases."""
    return time.monotonic_ns() // 1000


def wall() -> int:
    """Microseconds since the epoch: for the ends of days and months."""
    return time.time_ns() // 1000


class _Now(msgspec.Struct, frozen=True, gc=False):
    """The time of one call: on the steady clock, and which day and month it is."""

    now: int
    day_end: int
    month_end: int
    moment: Moment


class _Account(msgspec.Struct):
    """What is counted under one rule's key."""

    requests_square_at: int = 0  # when the request backlog is worked off
    tokens_square_at: int = 0
    day_end: int = 0  # the day that day_tokens belong to
    day_tokens: int = 0
    month_end: int = 0
    month_tokens: int = 0
    leases: OrderedDict[str, int] = msgspec.field(default_factory=OrderedDict)  # reservation → expiry, soonest first

    def catch_up(self, time: _Now) -> None:
        """Take out what time has ended: leases that nobody renewed, the tokens of other days and months."""
        while self.leases and next(iter(self.leases.values())) <= time.now:
            self.leases.popitem(last=False)
        if self.day_end != time.day_end:
            self.day_end, self.day_tokens = time.day_end, 0
        if self.month_end != time.month_end:
            self.month_end, self.month_tokens = time.month_end, 0

    def idle(self, now: int) -> bool:
        """Whether a new account would say the same."""
        spent = self.day_tokens > 0 or self.month_tokens > 0
        return not (self.leases or spent or max(self.requests_square_at, self.tokens_square_at) > now)

    def standing(self, rule: Rule) -> Standing:
        """The account as the rule sees it."""
        surplus = len(self.leases) - (rule.allowance.concurrent or 0)
        return Standing(
            self.requests_square_at,
            self.tokens_square_at,
            self.day_tokens,
            self.month_tokens,
            len(self.leases),
            next(islice(self.leases.values(), surplus, None), 0) if surplus >= 0 else 0,
            next(reversed(self.leases.values()), 0),
        )


class _Reservation(msgspec.Struct):
    rules: tuple[Rule, ...]
    tokens: int
    day_end: int
    month_end: int
    forget_at: int


class MemoryLimiter:
    """Implements `Limiter` for one process; `lease` is in seconds, clocks are injected for the tests.

    Memory: every acquire looks at the two accounts that were untouched longest and drops the idle ones, so accounts
    go at least as fast as they come. One with a budget stays until its day or month is over.
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
        time = self._time()
        self._sweep(time)
        accounts = [(rule, self._account(rule.key, time)) for rule in rules]
        running = len(accounts[0][1].leases)
        refused = None
        if reservation_id in self._reservations:
            running -= reservation_id in accounts[0][1].leases
        else:
            refused = refusal(rules, [account.standing(rule) for rule, account in accounts], tokens, time.moment)
            if refused is None:
                self._charge(reservation_id, accounts, tokens, time)
        standings = [account.standing(rule) for rule, account in accounts]
        return verdict(refused, running, rules, standings, time.moment)

    async def renew(self, reservation_ids: Iterable[str]) -> None:
        """See Limiter.renew."""
        time = self._time()
        for reservation_id in reservation_ids:
            reservation = self._reservations.get(reservation_id)
            if reservation is None:
                continue
            self._reservations.move_to_end(reservation_id)
            reservation.forget_at = time.now + FORGET_AFTER
            for rule in leased(reservation.rules):
                leases = self._account(rule.key, time).leases
                leases[reservation_id] = time.now + self._lease
                leases.move_to_end(reservation_id)

    async def settle(self, used: Mapping[str, int]) -> None:
        """See Limiter.settle."""
        if self._reservations.keys().isdisjoint(used):
            return
        time = self._time()
        for reservation_id, tokens in used.items():
            reservation = self._reservations.pop(reservation_id, None)
            if reservation is None:
                continue
            for rule in reservation.rules:
                account = self._account(rule.key, time)
                account.leases.pop(reservation_id, None)
                if pace := rule.allowance.tokens:
                    account.tokens_square_at = (
                        max(account.tokens_square_at, time.now) + pace.cost(tokens) - pace.cost(reservation.tokens)
                    )
                # A request that began yesterday was yesterday's: its difference does not touch today's budget.
                if rule.allowance.tokens_per_day is not None and reservation.day_end == account.day_end:
                    account.day_tokens += tokens - reservation.tokens
                if rule.allowance.tokens_per_month is not None and reservation.month_end == account.month_end:
                    account.month_tokens += tokens - reservation.tokens

    def _time(self) -> _Now:
        now, wall = self._clock(), self._wall()
        (_, day_end, _), (_, month_end, _) = self._calendar.near(wall)
        return _Now(now, day_end, month_end, Moment(now, day_end - wall, month_end - wall))

    def _account(self, key: str, time: _Now) -> _Account:
        """The key's account, with what time has ended taken out of it."""
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account()
        self._accounts.move_to_end(key)
        account.catch_up(time)
        return account

    def _charge(self, reservation_id: str, accounts: list[tuple[Rule, _Account]], tokens: int, time: _Now) -> None:
        rules = tuple(rule for rule, _ in accounts)
        self._reservations[reservation_id] = _Reservation(
            rules, tokens, time.day_end, time.month_end, time.now + FORGET_AFTER
        )
        for rule, account in accounts:
            allowance = rule.allowance
            if pace := allowance.requests:
                account.requests_square_at = max(account.requests_square_at, time.now) + pace.cost(1)
            if pace := allowance.tokens:
                account.tokens_square_at = max(account.tokens_square_at, time.now) + pace.cost(tokens)
            if allowance.tokens_per_day is not None:
                account.day_tokens += tokens
            if allowance.tokens_per_month is not None:
                account.month_tokens += tokens
        for rule in leased(rules):
            self._accounts[rule.key].leases[reservation_id] = time.now + self._lease

    def _sweep(self, time: _Now) -> None:
        """Look at the two oldest accounts and reservations; forget what no longer matters."""
        for _ in range(2):
            if self._reservations:
                reservation_id, reservation = next(iter(self._reservations.items()))
                if reservation.forget_at <= time.now:
                    del self._reservations[reservation_id]
            if self._accounts:
                key, account = next(iter(self._accounts.items()))
                account.catch_up(time)
                if account.idle(time.now):
                    del self._accounts[key]
                else:
                    self._accounts.move_to_end(key)
