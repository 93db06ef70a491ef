"""The engine's waiting line: how long it is, who is let in, and what those who wait are told.

The line is vLLM's own, which goes by priority. Here it is only kept from growing without bounds: beyond
`gateway.max_waiting` requests are refused, those of the plans that come last first, with the time after which there
should be room. How long the line is vLLM says (`vllm:num_requests_waiting`); while somebody waits, what was sent since
it was asked, and has not ended, is added. Nobody is refused on an old answer: before that it is asked again.
"""

import asyncio
import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from gateway.context import Exchange
from gateway.engine import Engine
from gateway.errors import Unavailable
from gateway.line import Promises, Speed
from gateway.upstream import UpstreamClosed

FRESH_SECONDS = 0.1  # an answer of vLLM's that is no older decides about refusals
ANSWER_SECONDS = 0.1  # longest wait for one
ASK_SECONDS = 0.5  # between two questions while requests run
LONGEST_WAIT = 60.0  # openai-python takes no longer Retry-After than that
_SAMPLE = rb"^vllm:%s(?:\{[^}\n]*\})? ([0-9.e+]+)$"
_WAITING = re.compile(_SAMPLE % b"num_requests_waiting", re.MULTILINE)
_STARTED = re.compile(_SAMPLE % b"time_to_first_token_seconds_count", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request stands in the line: how many go before it, and in how many seconds it should be its turn.

    None: the line has not moved yet since it is there.
    """

    ahead: int
    eta_seconds: float | None


class _Sent(msgspec.Struct, frozen=True):
    exchange: Exchange
    turn: tuple[int, int]  # priority, then order of arrival: vLLM's own order


class Admission:
    """Lets requests in, or raises Unavailable. `priorities` are those of the plans: lower ones go first."""

    def __init__(self, engine: Engine, most: int | None, priorities: Iterable[int]) -> None:
        """`most` may wait in all; None: as many as like."""
        self._engine = engine
        self._most = most
        self.rank(priorities)
        self._sent: dict[int, _Sent] = {}  # by id of the exchange: sent or about to be, not ended
        self._arrived = 0
        self._asked_at = -math.inf
        self._waiting = 0  # as vLLM said
        self._known = 0  # the arrivals that are in that figure
        self._sent_since = 0  # of those that came after them, how many have not ended
        self._speed = Speed()
        self._promises = Promises()
        self._asking: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def rank(self, priorities: Iterable[int]) -> None:
        """Take over the plans' priorities."""
        self._ranks = sorted(set(priorities)) or [0]
        self._rooms: dict[int, int] = {}

    @property
    def waiting(self) -> int:
        """How many wait, as far as is known. While the engine is full, whoever was sent since waits, too."""
        return self._waiting + self._sent_since if self._waiting else 0

    def has_room(self, plan_priority: int) -> bool:
        """Whether it is known that `admit` would let in a request of a plan of this priority."""
        return self._most is None or self._waiting + self._sent_since < self.room(plan_priority)

    async def admit(self, plan_priority: int) -> None:
        """Raise Unavailable (503) if the line is too long for a plan of this priority."""
        if self.has_room(plan_priority):
            return
        room = self.room(plan_priority)
        if time.monotonic() - self._asked_at > FRESH_SECONDS:
            await self._ask()
        surplus = self.waiting - room
        if surplus >= 0:
            wait = self._come_again(surplus, plan_priority)
            raise Unavailable(
                f"{self.waiting} requests are waiting for the engine already. Please try again in {wait} s.",
                code="engine_overloaded",
                headers={"Retry-After": str(wait)},
            )

    def room(self, plan_priority: int) -> int:
        """How long the line may be for a plan: all of `most` for the first, evenly less for each that comes after."""
        if self._most is None:
            return 1 << 62
        known = self._rooms.get(plan_priority)
        if known is None:
            after = sum(rank < plan_priority for rank in self._ranks)
            known = self._rooms[plan_priority] = max(1, self._most * (len(self._ranks) - after) // len(self._ranks))
        return known

    def _come_again(self, surplus: int, plan_priority: int) -> int:
        """Whole seconds after which there should be room, also for those who were told the same before."""
        now = time.monotonic()
        wait = self._speed.seconds(surplus + 1 + self._promises.ahead(now, plan_priority))
        if wait is None:  # it has not moved for so long: look again after as long
            wait = self._speed.watched
        elif wait < LONGEST_WAIT:
            self._promises.add(now + wait, plan_priority)
        return math.ceil(min(LONGEST_WAIT, max(1.0, wait)))

    def enter(self, exchange: Exchange, priority: int) -> Place | None:
        """Note a request that is about to be sent; returns its place in the line, None: it is served at once."""
        self._arrived += 1
        self._sent[id(exchange)] = _Sent(exchange, (priority, self._arrived))
        self._sent_since += 1
        self._wake.set()
        return self.place(exchange) if self._waiting else None

    def place(self, exchange: Exchange) -> Place | None:
        """Where a request stands now; None: it is being served, or was never sent, or has ended.

        An estimate: of what other gateways have sent only the number is known. They are taken to be as far ahead in
        their order as this request is in this gateway's.
        """
        sent, waiting = self._sent.get(id(exchange)), self.waiting
        if sent is None or not waiting or exchange.first_token_at is not None:
            return None
        turns = [other.turn for other in self._sent.values() if other.exchange.first_token_at is None]
        ahead = sum(turn < sent.turn for turn in turns)
        if len(turns) >= waiting:  # those who come first are served already: their first token is on its way
            ahead -= len(turns) - waiting
        else:
            ahead = ahead * waiting // len(turns)
        return None if ahead < 0 else Place(ahead, self._speed.seconds(ahead + 1))

    def leave(self, exchange: Exchange) -> None:
        """Note that a request has ended; what never entered is ignored."""
        sent = self._sent.pop(id(exchange), None)
        if sent is not None and sent.turn[1] > self._known:
            self._sent_since -= 1

    async def watch(self) -> None:
        """Ask vLLM while requests run, until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(ASK_SECONDS)
            if self._sent:
                await self._ask()
            else:
                self._wake.clear()
                self._waiting = 0

    async def _ask(self) -> None:
        """Ask how many wait; who asks meanwhile shares the answer. Where there is none, the guess stands."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._read())
        await asyncio.wait({self._asking}, timeout=ANSWER_SECONDS)

    async def _read(self) -> None:
        arrived = self._arrived
        try:
            answer = await self._engine.metrics()
        except UpstreamClosed:
            answer = b""
        finally:
            self._asking = None
        self._asked_at = time.monotonic()
        if (waiting := _sum(_WAITING, answer)) is not None:
            self._waiting = int(waiting)
            self._known = arrived
            self._sent_since = sum(sent.turn[1] > arrived for sent in self._sent.values())
            self._speed.learn(self._asked_at, _sum(_STARTED, answer) or 0.0, self._waiting)


def _sum(pattern: re.Pattern[bytes], answer: bytes) -> float | None:
    """The sum over all engines behind one address (data parallel ones), None where the metric is not there."""
    found = pattern.findall(answer)
    return sum(map(float, found)) if found else None
