"""Pure: how fast the engine's waiting line moves, and when those who were sent away were told to come again.

Times are seconds of `time.monotonic()`.
"""

import heapq
import math

MEMORY_SECONDS = 15.0  # the speed is that of about so long


class Speed:
    """How many requests leave the line in a second, learned from the engine's own counter of first tokens.

    That counter sees the requests of every gateway, and none of those that gave up while they waited. Only time in
    which somebody waited counts: an engine with free places is as fast as requests come, which says nothing about it.
    """

    def __init__(self) -> None:
        self._started = self._passed = 0.0  # both fade away
        self._last: tuple[float, float, int] | None = None

    def learn(self, now: float, started: float, waiting: int) -> None:
        """Take in what the engine said: first tokens ever, and how many wait."""
        last, self._last = self._last, (now, started, waiting)
        if last is None or not (last[2] and waiting) or started < last[1]:  # smaller: it is another engine
            return
        passed = now - last[0]
        fading = math.exp(-passed / MEMORY_SECONDS)
        self._started = self._started * fading + started - last[1]
        self._passed = self._passed * fading + passed

    def seconds(self, requests: int) -> float | None:
        """How long it takes until so many have left the line; None as long as none was seen to."""
        return requests * self._passed / self._started if self._started else None

    @property
    def watched(self) -> float:
        """For how long it was seen whether any left the line; at most about MEMORY_SECONDS."""
        return self._passed


class Promises:
    """Who was told to come again and is not due yet: they come before whoever is sent away now."""

    def __init__(self) -> None:
        self._due: dict[int, list[float]] = {}  # by priority

    def add(self, due: float, priority: int) -> None:
        """Note that somebody was told to come again at `due`."""
        heapq.heappush(self._due.setdefault(priority, []), due)

    def ahead(self, now: float, priority: int) -> int:
        """How many will come that go before, or as early as, a plan of this priority."""
        for due in self._due.values():
            while due and due[0] <= now:
                heapq.heappop(due)
        return sum(len(due) for its, due in self._due.items() if its <= priority)
