"""The limiter that all workers share: the books are in Redis, kept by one script (acquire.lua), one call each.

The script is called by its hash, and sent as a whole where Redis does not know it: the first time, after a restart, a
failover or a SCRIPT FLUSH. SCRIPT LOAD, which some providers forbid, is not needed. What it is asked, and how accounts
stand, goes over the wire as MessagePack, which neither side reads or writes piece by piece.
"""

import hashlib
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hiredis
import msgspec

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
PACKED_RULES = 4096  # callers' rules that are kept as they go over the wire
_LARGEST = 1 << 62  # number in MessagePack: beyond all that is counted, or is to come


class _Answer(msgspec.Struct, array_like=True, gc=False):
    """What acquire returns."""

    holds: bool
    running: int  # leases of the first rule
    moment: Moment
    standings: list[Standing]


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
        self._patience = round((link.timeout + GIVEN_UP_SECONDS) * SECOND)
        prefix = f"{{{namespace}:limits:{LAYOUT}}}".encode()
        sha1 = hashlib.sha1(script).hexdigest()  # noqa: S324 - EVALSHA's own
        self._by_hash = _command(b"EVALSHA", sha1.encode(), b"1", prefix)
        self._whole = _command(b"EVAL", script, b"1", prefix)
        self._rules: dict[int, tuple[Sequence[Rule], msgspec.Raw]] = {}  # by id: the rules are kept, so it stays theirs
        self._probes: deque[str] = deque(maxlen=8)  # that were not settled yet

    def acquire(self, reservation_id: str, rules: Sequence[Rule], tokens: int) -> Coroutine[Any, Any, Verdict]:
        """See Limiter.acquire."""
        return self._acquire(reservation_id, rules, tokens, self._lease, FORGET_AFTER, force=False)

    async def enter(self, reservation_id: str, rules: Sequence[Rule], tokens: int) -> None:
        """Charge a request that runs already, whatever the limits say. Repeating it changes nothing."""
        await self._acquire(reservation_id, rules, tokens, self._lease, FORGET_AFTER, force=True)

    async def book(self, entry_id: str, rules: Sequence[Rule], tokens: int) -> None:
        """Charge what has been used already. Repeating it within a day changes nothing."""
        await self._acquire(entry_id, rules, tokens, 0, 24 * 3600 * SECOND, force=True)

    async def probe(self) -> None:
        """Raise RedisAway unless it counts. As a real request, it fails on a full memory and on a replica, too."""
        self._ahead = None
        name = f"probe-{uuid.uuid4().hex}"
        self._probes.append(name)
        await self.acquire(name, (Rule("probe", Allowance()),), 0)
        await self.settle(dict.fromkeys(self._probes, 0))  # earlier ones may have been entered without an answer
        self._probes.clear()

    async def _acquire(
        self, reservation_id: str, rules: Sequence[Rule], tokens: int, lease: int, forget_after: int, *, force: bool
    ) -> Verdict:
        asked = self._clock()
        if self._ahead is None:
            now, valid_until = self._wall(), _LARGEST
        else:
            now = asked + self._ahead
            valid_until = now + self._patience
        days, months = self._calendar.near(now)
        reply = await self._run(
            _ACQUIRE,
            (reservation_id, tokens, lease, forget_after, force, valid_until, days, months, self._packed(rules)),
        )
        answer = _decode(reply)
        least = answer.moment.now - self._clock()
        # it may have lain here for long: the server is ahead by so much at least, and what was known may be nearer
        if self._ahead is None or not least <= self._ahead <= answer.moment.now - asked:
            self._ahead = least
        standings = answer.standings
        refused = None if answer.holds else refusal(rules, standings, tokens, answer.moment)
        return verdict(refused, answer.running, rules, standings, answer.moment)

    def _packed(self, rules: Sequence[Rule]) -> msgspec.Raw:
        """Rules as they go over the wire. The same ones come again and again."""
        known = self._rules.get(id(rules))
        if known is None:
            if len(self._rules) >= PACKED_RULES:
                self._rules.clear()
            packed = msgspec.Raw(_encode([(rule.key, *_wire(rule.allowance)) for rule in rules]))
            known = self._rules[id(rules)] = rules, packed
        return known[1]

    async def renew(self, reservation_ids: Iterable[str]) -> None:
        """See Limiter.renew."""
        await self.unknown_of(reservation_ids)

    async def unknown_of(self, reservation_ids: Iterable[str]) -> list[str]:
        """Renew, and return those of the ids that are unknown."""
        ids, unknown = list(reservation_ids), []
        for at in range(0, len(ids), MOST_AT_ONCE):
            some = await self._run(_RENEW, (self._lease, FORGET_AFTER, ids[at : at + MOST_AT_ONCE]))
            unknown += [each.decode() for each in some]
        return unknown

    async def settle(self, used: Mapping[str, int]) -> None:
        """See Limiter.settle."""
        ended = list(used.items())
        for at in range(0, len(ended), MOST_AT_ONCE):
            await self._run(_SETTLE, (ended[at : at + MOST_AT_ONCE],))

    async def _run(self, operation: bytes, arguments: tuple[Any, ...]) -> Any:
        """Have the script do an operation."""
        packed = _encode(arguments)
        command = b"%b$%d\r\n%b\r\n" % (operation, len(packed), packed)
        reply = await self._link.send(self._by_hash, command)
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("NOSCRIPT"):
                reply = await self._link.send(self._whole, command)
            if isinstance(reply, hiredis.ReplyError):
                raise self._link.refused(reply)
        return reply


def _command(*parts: bytes) -> bytes:
    """How a call of the script begins: two parts are to follow, the operation and its arguments."""
    return b"*%d\r\n" % (len(parts) + 2) + b"".join(map(_bulk, parts))


def _bulk(part: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(part), part)


_ACQUIRE, _RENEW, _SETTLE = map(_bulk, (b"acquire", b"renew", b"settle"))
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Answer).decode


def _wire(allowance: Allowance) -> list[int | bool]:
    """An allowance as the script reads it; False is unlimited."""
    requests, tokens = allowance.requests, allowance.tokens
    numbers = (
        *((requests.cost(1), requests.depth) if requests else (None, None)),
        *((tokens.per_minute, tokens.depth) if tokens else (None, None)),
        *(allowance.concurrent, allowance.tokens_per_day, allowance.tokens_per_month),
    )
    return [False if number is None else min(number, _LARGEST) for number in numbers]
