"""A limiter beside a slow, obvious model of it, driven by Hypothesis; for every implementation of `Limiter`.

The model keeps backlogs that it lets run off step by step, plain sets of leases, and a list of all that was admitted.
"""

import datetime as dt
from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.limits.limiter import FORGET_AFTER, MINUTE, SECOND, Allowance, Kind, Limiter, Pace, Rule, Verdict

LEASE = 30
DAY = 24 * 3600 * SECOND
OWN = Allowance(Pace.of_requests(60, 5), Pace.of_tokens(6000), 3, 9_000, 8_000)
PLAIN = Allowance(None, None, None, None)
TEAM = Allowance(Pace.of_requests(7, 7), None, 4, None)
TOTAL = Allowance(None, Pace.of_tokens(7777), None, 10_000, 12_000)
RULES = {
    "alice": (Rule("subject:alice", OWN), Rule("team:red", TEAM), Rule("total", TOTAL)),
    "bob": (Rule("subject:bob", OWN), Rule("team:red", TEAM), Rule("total", TOTAL)),
    "carol": (Rule("subject:carol", OWN), Rule("total", TOTAL)),
    "root": (Rule("subject:root", PLAIN),),
}
ALLOWANCES = {rule.key: rule.allowance for rules in RULES.values() for rule in rules}


class Clock:
    """Time that the test moves; microseconds, monotonic and wall in step."""

    def __init__(self, now: int = 1000 * DAY + 23 * 3600 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        """Now."""
        return self.now


def month_of(now: int) -> int:
    """A number for each month, in UTC."""
    date = dt.datetime.fromtimestamp(now // SECOND, dt.UTC)
    return date.year * 12 + date.month


def finish(coroutine):
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


@dataclass
class Book:
    """The model's account."""

    request_backlog: int = 0
    token_backlog: int = 0
    day: int = 0
    day_tokens: int = 0
    month: int = 0
    month_tokens: int = 0
    leases: dict[str, int] = field(default_factory=dict)


@dataclass
class Entry:
    """One admitted request: what it reserved, what it used, when."""

    who: str
    tokens: int
    at: int
    touched: int
    used: int
    settled_at: int = -1

    @property
    def day(self) -> int:
        """The day it was admitted on."""
        return self.at // DAY

    @property
    def month(self) -> int:
        """The month it was admitted in."""
        return month_of(self.at)


class LimiterMachine(RuleBasedStateMachine):
    """Acquire, settle, renew and time in any order; after each step limiter and model agree."""

    def make(self, clock: Clock) -> Limiter:
        """The implementation under test; days end at midnight UTC."""
        raise NotImplementedError

    def call(self, coroutine):
        """Run one of the limiter's methods."""
        return finish(coroutine)

    @initialize(day=st.sampled_from([1000, 1003]))
    def begin(self, day: int) -> None:
        """An empty limiter and an empty model, three minutes before a day's end, which may be a month's (1972-09-30)."""
        self.clock = Clock((day + 1) * DAY - 3 * MINUTE)
        self.limiter = self.make(self.clock)
        self.books = {key: Book(day=day, month=month_of(self.clock.now)) for key in ALLOWANCES}
        self.held: dict[str, Entry] = {}
        self.count = 0
        self.log: dict[str, Entry] = {}
        self.last_refused: tuple[str, int, Verdict] | None = None

    def pass_time(self, step: int) -> None:
        """Let `step` microseconds pass."""
        self.clock.now += step
        for book in self.books.values():
            book.request_backlog = max(0, book.request_backlog - step)
            book.token_backlog = max(0, book.token_backlog - step)
            if book.day != self.clock.now // DAY:
                book.day, book.day_tokens = self.clock.now // DAY, 0
            if book.month != month_of(self.clock.now):
                book.month, book.month_tokens = month_of(self.clock.now), 0
            book.leases = {key: expiry for key, expiry in book.leases.items() if expiry > self.clock.now}
        now = self.clock.now
        self.held = {key: held for key, held in self.held.items() if now - held.touched < FORGET_AFTER}

    def expected(self, who: str, tokens: int) -> bool:
        """Whether the model admits it."""
        for each in RULES[who]:
            book, allowance = self.books[each.key], each.allowance
            if allowance.requests and book.request_backlog + allowance.requests.cost(1) > allowance.requests.depth:
                return False
            if allowance.tokens and book.token_backlog + allowance.tokens.cost(tokens) > allowance.tokens.depth:
                return False
            if allowance.concurrent is not None and len(book.leases) >= allowance.concurrent:
                return False
            if allowance.tokens_per_day is not None and book.day_tokens + tokens > allowance.tokens_per_day:
                return False
            if allowance.tokens_per_month is not None and book.month_tokens + tokens > allowance.tokens_per_month:
                return False
        return True

    def check_rates(self, who: str, verdict: Verdict) -> None:
        """The rates are those of the tightest rule."""
        books = [(self.books[each.key], each.allowance) for each in RULES[who]]
        left = [
            (allow.requests.depth - book.request_backlog) // allow.requests.cost(1)
            for book, allow in books
            if allow.requests
        ]
        assert (verdict.requests.remaining if verdict.requests else None) == min(left, default=None)
        left = [allow.tokens.room(book.token_backlog) for book, allow in books if allow.tokens]
        assert (verdict.tokens.remaining if verdict.tokens else None) == min(left, default=None)
        left = [max(0, allow.concurrent - len(book.leases)) for book, allow in books if allow.concurrent is not None]
        assert (verdict.concurrent.remaining if verdict.concurrent else None) == min(left, default=None)
        left = [max(0, allow.tokens_per_day - book.day_tokens) for book, allow in books if allow.tokens_per_day]
        assert (verdict.day.remaining if verdict.day else None) == min(left, default=None)
        left = [max(0, allow.tokens_per_month - book.month_tokens) for book, allow in books if allow.tokens_per_month]
        assert (verdict.month.remaining if verdict.month else None) == min(left, default=None)

    @rule(who=st.sampled_from(sorted(RULES)), tokens=st.integers(0, 2500) | st.integers(0, 60_000))
    def acquire(self, who: str, tokens: int) -> None:
        """Limiter and model decide alike."""
        self.count += 1
        reservation = f"r{self.count}"
        expected = self.expected(who, tokens)
        own = self.books[RULES[who][0].key]
        assert self.call(self.try_acquire(reservation, who, tokens)) is expected
        assert self.verdict.running == len(own.leases) - (reservation in own.leases)
        self.check_rates(who, self.verdict)
        self.last_refused = None if expected else (who, tokens, self.verdict)

    async def try_acquire(self, reservation: str, who: str, tokens: int) -> bool:
        """Acquire, and enter it into the model's books if it was admitted."""
        self.verdict = await self.limiter.acquire(reservation, RULES[who], tokens)
        if self.verdict.allowed:
            self.book(reservation, who, tokens)
        return self.verdict.allowed

    def book(self, reservation: str, who: str, tokens: int) -> None:
        """Charge the model."""
        now = self.clock.now
        self.held[reservation] = self.log[reservation] = Entry(who, tokens, now, now, used=tokens)
        for each in RULES[who]:
            book, allowance = self.books[each.key], each.allowance
            if allowance.requests:
                book.request_backlog += allowance.requests.cost(1)
            if allowance.tokens:
                book.token_backlog += allowance.tokens.cost(tokens)
            if allowance.tokens_per_day:
                book.day_tokens += tokens
            if allowance.tokens_per_month:
                book.month_tokens += tokens
            book.leases[reservation] = self.clock.now + LEASE * SECOND

    @rule(who=st.sampled_from(["alice", "bob", "carol"]), surplus=st.integers(0, 1))
    def acquire_what_is_left(self, who: str, surplus: int) -> None:
        """The last token that a limit leaves is given, and none beyond it."""
        left = []
        for each in RULES[who]:
            book, allowance = self.books[each.key], each.allowance
            if allowance.tokens:
                left.append(allowance.tokens.room(book.token_backlog))
            if allowance.tokens_per_day:
                left.append(max(0, allowance.tokens_per_day - book.day_tokens))
            if allowance.tokens_per_month:
                left.append(max(0, allowance.tokens_per_month - book.month_tokens))
        self.acquire(who, min(left) + surplus)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), tokens=st.integers(0, 2500))
    def acquire_again(self, data, tokens: int) -> None:
        """A repeated acquire of an id that holds is answered and charges nothing."""
        reservation = data.draw(st.sampled_from(sorted(self.held)))
        who = self.held[reservation].who
        verdict = self.call(self.limiter.acquire(reservation, RULES[who], tokens))
        assert verdict.allowed
        leases = self.books[RULES[who][0].key].leases
        assert verdict.running == len(leases) - (reservation in leases)
        self.check_rates(who, verdict)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), tokens=st.integers(0, 3000), twice=st.booleans())
    def settle(self, data, tokens: int, twice: bool) -> None:
        """Settling twice is settling once."""
        reservation = data.draw(st.sampled_from(sorted(self.held)))
        held = self.held.pop(reservation)
        for _ in range(1 + twice):
            self.call(self.limiter.settle({reservation: tokens}))
        held.used, held.settled_at = tokens, self.clock.now
        self.last_refused = None
        for each in RULES[held.who]:
            book, allowance = self.books[each.key], each.allowance
            book.leases.pop(reservation, None)
            if pace := allowance.tokens:
                book.token_backlog = max(0, book.token_backlog + pace.cost(tokens) - pace.cost(held.tokens))
            if allowance.tokens_per_day and held.day == book.day:
                book.day_tokens += tokens - held.tokens
            if allowance.tokens_per_month and held.month == book.month:
                book.month_tokens += tokens - held.tokens

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def renew(self, data) -> None:
        """Renewed leases last anew; unknown ids do no harm."""
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.held)), unique=True))
        self.call(self.limiter.renew([*chosen, "unknown"]))
        self.last_refused = None
        for reservation in chosen:
            self.held[reservation].touched = self.clock.now
            for each in RULES[self.held[reservation].who]:
                self.books[each.key].leases[reservation] = self.clock.now + LEASE * SECOND

    @rule(step=st.integers(0, 3 * SECOND) | st.integers(0, 3 * MINUTE))
    def wait(self, step: int) -> None:
        """Time passes."""
        self.pass_time(step)
        self.last_refused = None

    @precondition(lambda self: self.last_refused)
    @rule()
    def wait_as_told(self) -> None:
        """One microsecond too early is refused, exactly as told is admitted; what can never pass says so."""
        who, tokens, verdict = self.last_refused
        self.last_refused = None
        refusal = verdict.refusal
        if refusal.retry_after is None:
            assert refusal.kind is Kind.TOKENS
            assert any(
                (a.tokens and a.tokens.cost(tokens) > a.tokens.depth)
                or (a.tokens_per_day and tokens > a.tokens_per_day)
                or (a.tokens_per_month and tokens > a.tokens_per_month)
                for a in (each.allowance for each in RULES[who])
            )
            return
        wait = round(refusal.retry_after * SECOND)
        assert wait > 0
        assert refusal.floor <= refusal.retry_after
        self.pass_time(wait - 1)
        self.count += 1
        assert not self.call(self.try_acquire(f"r{self.count}", who, tokens))
        self.pass_time(1)
        assert self.call(self.try_acquire(f"r{self.count}", who, tokens))

    @invariant()
    def never_over(self) -> None:
        """In no window is more used than a rule allows, but for refunds of what was in flight when it began, and debt."""
        for key, allowance in ALLOWANCES.items():
            entries = [one for one in self.log.values() if any(key == each.key for each in RULES[one.who])][-12:]
            for first, begin in enumerate(entries):
                for last in range(first, len(entries)):
                    inside, window = entries[first : last + 1], entries[last].at - begin.at
                    if pace := allowance.requests:
                        assert len(inside) * pace.cost(1) <= pace.depth + window
                    if pace := allowance.tokens:
                        carried = sum(
                            max(0, pace.cost(one.tokens) - pace.cost(one.used))
                            for one in self.log.values()
                            if one.at <= begin.at <= one.settled_at
                        )
                        debt = sum(max(0, pace.cost(one.used) - pace.cost(one.tokens)) for one in inside)
                        assert sum(pace.cost(one.used) for one in inside) <= pace.depth + window + carried + debt
