"""The engine's waiting line: how long it is, who is let in, and what those who wait are told.

The line is vLLM's own, which goes by priority. Here it is only kept from growing without bounds: beyond
`gateway.max_waiting` requests are refused, those of the plans that come last first, with the time after which there
should be room. How long the line is vLLM says (`vllm:num_requests_waiting`); while somebody waits,
what was sent since it was asked is added. Nobody is refused on an old answer: before that it is asked again.
"""

import asyncio
import math
import re
import time
from collections.abc import Iterable

from gateway.context import Exchange
from gateway.engine import Engine
from gateway.errors import Unavailable
from gateway.upstream import UpstreamClosed

FRESH_SECONDS = 0.1  # an answer of vLLM's that is no older decides about refusals
ANSWER_SECONDS = 0.1  # longest wait for one
ASK_SECONDS = 0.5  # between two questions while requests run
RATE_SECONDS = 15.0  # over which the line's speed is smoothed
LONGEST_WAIT = 60.0  # openai-python takes no longer Retry-After than that
_WAITING = re.compile(rb"^vllm:num_requests_waiting(?:\{[^}\n]*\})? ([0-9.e+]+)$", re.MULTILINE)


class Admission:
    """Lets requests in, or raises Unavailable. `priorities` are those of the plans: lower ones go first."""

    def __init__(self, engine: Engine, most: int | None, priorities: Iterable[int]) -> None:
        """`most` may wait in all; None: as many as like."""
        self._engine = engine
        self._most = most
        self.rank(priorities)
        self._pending: dict[int, tuple[Exchange, int]] = {}  # by id: sent or about to be, not ended; priority
        self._asked_at = -math.inf
        self._waiting = 0  # as vLLM said
        self._sent_since = 0
        self._left = 0  # ended since the speed was last looked at
        self._speed = 0.0  # requests that end in a second
        self._asking: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def rank(self, priorities: Iterable[int]) -> None:
        """Take over the plans' priorities."""
        self._ranks = sorted(set(priorities)) or [0]

    @property
    def waiting(self) -> int:
        """How many wait, as far as is known. While the engine is full, whoever was sent since waits, too."""
        return self._waiting + self._sent_since if self._waiting else 0

    async def admit(self, plan_priority: int) -> None:
        """Raise Unavailable (503) if the line is too long for a plan of this priority."""
        if self._most is None:
            return
        room = self.room(plan_priority)
        if self._waiting + self._sent_since < room:
            return
        if time.monotonic() - self._asked_at > FRESH_SECONDS:
            await self._ask()
        surplus = self.waiting - room
        if surplus >= 0:
            wait = self.wait_for(surplus + 1)
            raise Unavailable(
                f"{self.waiting} requests are waiting for the engine already. Please try again in {wait} s.",
                code="engine_overloaded",
                headers={"Retry-After": str(wait)},
            )

    def room(self, plan_priority: int) -> int:
        """How long the line may be for a plan: all of `most` for the first, evenly less for each that comes after."""
        if self._most is None:
            return 1 << 62
        after = sum(rank < plan_priority for rank in self._ranks)
        return max(1, self._most * (len(self._ranks) - after) // len(self._ranks))

    def wait_for(self, requests: int) -> int:
        """Whole seconds in which so many requests have ended, at the speed of late; at least 1."""
        seconds = requests / self._speed if self._speed else requests
        return math.ceil(min(LONGEST_WAIT, max(1.0, seconds)))

    def enter(self, exchange: Exchange, priority: int) -> int:
        """Note a request that is about to be sent; returns its place in the line, 0: it is served at once.

        The place counts what this gateway has sent; others may have sent more.
        """
        place = 0
        if self.waiting:
            ahead = sum(1 for other, its in self._pending.values() if other.first_token_at is None and its <= priority)
            place = 1 + min(ahead, self.waiting)
        self._pending[id(exchange)] = exchange, priority
        self._sent_since += 1
        self._wake.set()
        return place

    def leave(self, exchange: Exchange) -> None:
        """Note that a request has ended; what never entered is ignored."""
        if self._pending.pop(id(exchange), None) is not None:
            self._left += 1

    async def watch(self) -> None:
        """Ask vLLM while requests run, until cancelled."""
        looked_at = time.monotonic()
        while True:
            await self._wake.wait()
            await asyncio.sleep(ASK_SECONDS)
            if self._pending:
                await self._ask()
            else:
                self._wake.clear()
                self._waiting = self._sent_since = 0
            now = time.monotonic()
            passed, looked_at = now - looked_at, now
            weight = 1 - math.exp(-passed / RATE_SECONDS)
            self._speed += (self._left / passed - self._speed) * weight if self._speed else self._left / passed
            self._left = 0

    async def _ask(self) -> None:
        """Ask how many wait; who asks meanwhile shares the answer. Where there is none, the guess stands."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._read())
        await asyncio.wait({self._asking}, timeout=ANSWER_SECONDS)

    async def _read(self) -> None:
        sent = self._sent_since
        try:
            found = _WAITING.search(await self._engine.metrics())
        except UpstreamClosed:
            found = None
        finally:
            self._asking = None
        self._asked_at = time.monotonic()
        if found is not None:
            self._waiting = int(float(found[1]))
            self._sent_since -= sent  # those are in vLLM's figure
