"""The limiter's interface and its arithmetic, shared by every implementation (in process, Redis).

A rate with a burst is kept as *one* number, the time at which the account is square again ("theoretical arrival time"
of GCRA, ITU-T I.371). What lies between now and then is the backlog; a charge adds to it, time takes from it, and a
request passes if the backlog stays within the rule's depth. Requests and tokens differ only in their depth. A refund
moves the time back, a debt moves it beyond the depth: no second number is needed.

All times are whole microseconds, which Lua's doubles hold exactly, so that two implementations agree to the last digit
and a client that waits exactly as long as it was told is admitted.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

SECOND = 1_000_000  # microseconds
MINUTE = 60 * SECOND
# A reservation that is neither renewed nor settled for so long is forgotten; what it reserved stays charged.
FORGET_AFTER = 10 * MINUTE


class Kind(enum.StrEnum):
    """What a limit counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENT = "concurrent"
    QUOTA = "quota"  # a day's budget of tokens
    MONTH = "month"  # a month's


@dataclass(frozen=True, slots=True)
class Pace:
    """So many a minute, `depth` microseconds' worth of them at once."""

    per_minute: int
    depth: int

    @classmethod
    def of_requests(cls, per_minute: int, burst: int) -> "Pace":
        """Requests: at most `burst` at once, then one every 60/per_minute seconds."""
        return cls(per_minute, burst * -(-MINUTE // per_minute))

    @classmethod
    def of_tokens(cls, per_minute: int) -> "Pace":
        """Tokens: a bucket that holds one minute's worth."""
        return cls(per_minute, MINUTE)

    def cost(self, amount: int) -> int:
        """Microseconds of backlog that `amount` adds; rounded up, so that rounding never favours the caller."""
        return -(-amount * MINUTE // self.per_minute)

    def room(self, backlog: int) -> int:
        """The largest amount that one charge could have now."""
        return (self.depth - backlog) * self.per_minute // MINUTE if backlog < self.depth else 0

    def count(self, backlog: int) -> int:
        """How many charges of one could be made now."""
        return (self.depth - backlog) // -(-MINUTE // self.per_minute) if backlog < self.depth else 0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one rule allows; None is unlimited."""

    requests: Pace | None = None
    tokens: Pace | None = None
    concurrent: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None

    @property
    def unlimited(self) -> bool:
        """Whether nothing is limited."""
        return self == _UNLIMITED


_UNLIMITED = Allowance()


class Rule(NamedTuple):
    """An allowance, and the account (`subject:member:alice`, `team:red`, `model:m`, `total`) that it is counted on."""

    key: str
    allowance: Allowance


def leased(rules: Sequence[Rule]) -> list[Rule]:
    """The rules that count leases: those that limit them, and the first, whose count the caller is told."""
    return [rule for rule in rules if rule is rules[0] or rule.allowance.concurrent is not None]


class Rate(msgspec.Struct, frozen=True, gc=False):
    """One limit's state after the call: how many in all, how many left, seconds until none is in use."""

    limit: int
    remaining: int
    reset: float


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """The limit that stands longest in the way.

    `retry_after` seconds later the same request passes, if nobody else calls; None: it can never pass. Of a lease that
    is known of its expiry only, not when its request will end; `floor` is what the other kinds alone demand.
    """

    rule: str
    kind: Kind
    limit: int
    retry_after: float | None
    floor: float = 0.0


class Verdict(msgspec.Struct, frozen=True):
    """The answer to `acquire`. For each kind the state of the tightest rule (fewest left) that limits it, if any does.

    `running` counts the first rule's leases besides this one: how many requests the caller has in flight already.
    """

    refusal: Refusal | None
    running: int
    requests: Rate | None
    tokens: Rate | None
    concurrent: Rate | None
    day: Rate | None
    month: Rate | None = None

    @property
    def allowed(self) -> bool:
        """Whether the request may pass."""
        return self.refusal is None

    @property
    def budget_used(self) -> float:
        """The share of the day's or month's tokens that is taken, of the budget that has most; 0 without any."""
        day = 0.0 if self.day is None else 1 - self.day.remaining / self.day.limit
        return day if self.month is None else max(day, 1 - self.month.remaining / self.month.limit)


class Limiter(Protocol):
    """Counts against rules. Every method is atomic."""

    async def acquire(self, reservation_id: str, rules: Sequence[Rule], tokens: int) -> Verdict:
        """Reserve one request, one lease and `tokens` on all rules, or nothing: a refusal changes nothing.

        An id that holds a reservation already is answered without charging again, so that a call whose answer was lost
        may be repeated. The first rule is the caller's own: its leases are always counted.
        """
        ...

    async def renew(self, reservation_ids: Iterable[str]) -> None:
        """Keep the leases of requests that still run; a lease that ran out comes back. Unknown ids are ignored."""
        ...

    async def settle(self, used: Mapping[str, int]) -> None:
        """End reservations: id → tokens really used. Refunds or charges the difference. Unknown ids are ignored.

        That makes it idempotent: what is settled is unknown from then on.
        """
        ...
