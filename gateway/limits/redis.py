"""The limiter that all workers share: the books are in Redis, kept by one script (acquire.lua), one call each.

The script is called by its hash, and sent as a whole where Redis does not know it: the first time, after a restart, a
failover or a SCRIPT FLUSH. SCRIPT LOAD, which some providers forbid, is not needed.
"""

import hashlib
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import hiredis

from gateway.limits.calendar import Calendar
from gateway.limits.limiter import FORGET_AFTER, SECOND, Allowance, Rule, Verdict
from gateway.limits.memory import monotonic, wall
from gateway.limits.standing import Moment, Standing, refusal, verdict
from gateway.redis import Link

SCRIPT = Path(__file__).with_name("acquire.lua").read_bytes()
LAYOUT = 1  # of the keys; acquire.lua has it
MOST_AT_ONCE = 256  # reservations in one renew or settle: Redis does nothing else meanwhile, for about 3 ms
# Redis may get to a request after its caller has given up (it was stopped, the network held it back). So long after the
# link's timeout it refuses such a request; settlements of what is in doubt are not sent before.
GIVEN_UP_SECONDS = 0.05
PACKED_RULES = 4096  # kept as they go over the wire
_SCRIPT_PARTS = 4  # of each command, before the operation
_ACQUIRE_PARTS, _RULE_PARTS, _SETTLE_PARTS = (
    13,
    8,
    7,
)  # of an operation and its arguments but for the rules, each of them
_NOW = 2  # where acquire's reply has the server's time
_FIRST_ACCOUNT, _ACCOUNT_FIELDS = 5, 7  # where the accounts begin in it, and what each has


class RedisLimiter:
    """Implements `Limiter` over a link that others open and close. Every method raises RedisAway; see there."""

    def __init__(
        self,
        link: Link,
        *,
        lease: float,
        time_zone: str,
        namespace: str = "gatehouse",
        clock: Callable[[], int] = monotonic,
        wall: Callable[[], int] = wall,
        script: bytes = SCRIPT,
    ) -> None:
        """`lease` is in seconds. `wall` only says which days are near; what counts is the server's clock.

        `clock` measures how far the server's has moved since it last answered.
        """
        self._link = link
        self._lease = round(lease * SECOND)
        self._calendar = Calendar(time_zone)
        self._wall = wall
        self._clock = clock
        self._ahead: int | None = None  # the server's clock less ours, as far as we know
        self._prefix = f"{{{namespace}:limits:{LAYOUT}}}"
        self._patience = round((link.timeout + GIVEN_UP_SECONDS) * SECOND)
        sha1 = hashlib.sha1(script).hexdigest()  # noqa: S324 - EVALSHA's own
        self._by_hash = _bulks(("EVALSHA", sha1, 1, self._prefix))
        self._whole = _bulks(("EVAL", script.decode(), 1, self._prefix))
        self._reserving = _bulks((self._lease, FORGET_AFTER, 0))
        self._days = self._months = (0, 0, 0)
        self._packed_periods = ""  # those days and months
        self._rules: dict[str, tuple[Allowance, str]] = {}
        self._probes: deque[str] = deque(maxlen=8)  # that were not settled yet

    def acquire(self, reservation_id: str, rules: Sequence[Rule], tokens: int) -> Coroutine[Any, Any, Verdict]:
        """See Limiter.acquire."""
        return self._acquire(reservation_id, rules, tokens, self._reserving)

    async def enter(self, reservation_id: str, rules: Sequence[Rule], tokens: int) -> None:
        """Charge a request that runs already, whatever the limits say. Repeating it changes nothing."""
        await self._acquire(reservation_id, rules, tokens, _bulks((self._lease, FORGET_AFTER, 1)))

    async def book(self, entry_id: str, rules: Sequence[Rule], tokens: int) -> None:
        """Charge what has been used already. Repeating it within a day changes nothing."""
        await self._acquire(entry_id, rules, tokens, _bulks((0, 24 * 3600 * SECOND, 1)))

    async def probe(self) -> None:
        """Raise RedisAway unless it counts. As a real request, it fails on a full memory and on a replica, too."""
        self._ahead = None
        name = f"probe-{uuid.uuid4().hex}"
        self._probes.append(name)
        await self.acquire(name, (Rule("probe", Allowance()),), 0)
        await self.settle(dict.fromkeys(self._probes, 0))  # earlier ones may have been entered without an answer
        self._probes.clear()

    async def _acquire(self, reservation_id: str, rules: Sequence[Rule], tokens: int, how: str) -> Verdict:
        """`how`, as it goes over the wire: microseconds of the lease, those until it is forgotten, whether by force."""
        valid_until = "" if self._ahead is None else self._clock() + self._ahead + self._patience
        count = _SCRIPT_PARTS + _ACQUIRE_PARTS + _RULE_PARTS * len(rules)
        command = (
            f"{_ACQUIRE}{_bulk(reservation_id)}{_bulk(tokens)}{how}{_bulk(valid_until)}{self._periods()}"
            f"{''.join([self._packed(rule) for rule in rules])}"
        )
        reply = await self._link.send(f"*{count}\r\n{self._by_hash}{command}".encode())
        if isinstance(reply, hiredis.ReplyError):
            reply = await self._without_hash(reply, f"*{count}\r\n{self._whole}{command}")
        self._ahead = reply[_NOW] - self._clock()
        return _read(reply, rules, tokens)

    def _packed(self, rule: Rule) -> str:
        """A rule as it goes over the wire. The same ones come again and again, and packing takes hiredis its time."""
        known = self._rules.get(rule.key)
        if known is None or known[0] is not rule.allowance:
            if len(self._rules) >= PACKED_RULES:
                self._rules.clear()
            known = self._rules[rule.key] = rule.allowance, _bulks((rule.key, *_wire(rule.allowance)))
        return known[1]

    async def renew(self, reservation_ids: Iterable[str]) -> None:
        """See Limiter.renew."""
        await self.unknown_of(reservation_ids)

    async def unknown_of(self, reservation_ids: Iterable[str]) -> list[str]:
        """Renew, and return those of the ids that are unknown."""
        unknown: list[str] = []
        for some in _chunks(reservation_ids, MOST_AT_ONCE):
            renew = _bulks(("renew", self._lease, FORGET_AFTER, *some))
            unknown += [each.decode() for each in await self._call(3 + len(some), renew)]
        return unknown

    async def settle(self, used: Mapping[str, int]) -> None:
        """See Limiter.settle."""
        for some in _chunks(used.items(), MOST_AT_ONCE):
            each = "".join([f"{_bulk(reservation_id)}{_bulk(tokens)}" for reservation_id, tokens in some])
            await self._call(_SETTLE_PARTS + 2 * len(some), f"{_SETTLE}{self._periods()}{each}")

    def _periods(self) -> str:
        """The days and months that are near, as they go over the wire."""
        now = self._wall()
        days, months = self._calendar.days(now), self._calendar.months(now)
        if days is not self._days or months is not self._months:
            self._days, self._months, self._packed_periods = days, months, _bulks(days + months)
        return self._packed_periods

    async def _call(self, parts: int, command: str) -> Any:
        """Run the script: an operation and its arguments, so many, as they go over the wire."""
        count = _SCRIPT_PARTS + parts
        reply = await self._link.send(f"*{count}\r\n{self._by_hash}{command}".encode())
        if isinstance(reply, hiredis.ReplyError):
            return await self._without_hash(reply, f"*{count}\r\n{self._whole}{command}")
        return reply

    async def _without_hash(self, error: hiredis.ReplyError, command: str) -> Any:
        """Redis refused a call by the script's hash: send the script, if that is what it lacks."""
        reply = await self._link.send(command.encode()) if str(error).startswith("NOSCRIPT") else error
        if isinstance(reply, hiredis.ReplyError):
            raise self._link.refused(reply)
        return reply


def _bulk(part: str | int) -> str:
    """An ASCII argument of a command in Redis' protocol."""
    text = str(part)
    return f"${len(text)}\r\n{text}\r\n"


def _bulks(parts: Sequence[str | int]) -> str:
    """Some arguments of a command."""
    return "".join(f"${len(text.encode())}\r\n{text}\r\n" for text in map(str, parts))


_ACQUIRE, _SETTLE = _bulk("acquire"), _bulk("settle")


def _wire(allowance: Allowance) -> tuple[str | int, ...]:
    """An allowance as the script reads it; '' is unlimited."""
    requests, tokens = allowance.requests, allowance.tokens
    return (
        *((requests.cost(1), requests.depth) if requests else ("", "")),
        *((tokens.per_minute, tokens.depth) if tokens else ("", "")),
        *(
            "" if limit is None else limit
            for limit in (allowance.concurrent, allowance.tokens_per_day, allowance.tokens_per_month)
        ),
    )


def _read(reply: list[int], rules: Sequence[Rule], tokens: int) -> Verdict:
    allowed, running, now, day_end, month_end = reply[:_FIRST_ACCOUNT]
    moment = Moment(now, day_end - now, month_end - now)
    standings, at = [], _FIRST_ACCOUNT
    for rule in rules:
        standings.append(Standing(rule, *reply[at : at + _ACCOUNT_FIELDS]))
        at += _ACCOUNT_FIELDS
    return verdict(None if allowed else refusal(standings, tokens, moment), running, standings, moment)


def _chunks(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
