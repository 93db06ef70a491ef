"""Requests that have ended, until they are counted and logged: many at once, not each between two answers.

What counts a request and makes its line is as much code as a processor forgets while it answers others; one after the
other they are quicker: 0.92 of all that a request takes (docs/performance.md).
"""

import asyncio
import logging
from collections.abc import Callable

from gateway.context import Exchange

log = logging.getLogger("gatehouse.settlement")

GATHER_SECONDS = 0.02


class Ended:
    """Of one worker; used from its event loop's thread."""

    def __init__(self, record: Callable[[Exchange], None]) -> None:
        """`record` counts and logs one request."""
        self._record = record
        self._waiting: list[Exchange] = []

    def add(self, exchange: Exchange) -> None:
        """Take over a request that has ended, and record it within GATHER_SECONDS."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self.record)
        self._waiting.append(exchange)

    def record(self) -> None:
        """Record all that have ended by now. Never raises."""
        waiting, self._waiting = self._waiting, []
        for exchange in waiting:
            try:
                self._record(exchange)
            except Exception:
                log.exception("%s: the record of this request is incomplete", exchange.request_id)
