"""The connections of one worker: how many there may be, in all and from one address, and which of them are over their
time.

When gateway.max_connections are open, one that serves no request makes room, so that connections that only wait cannot
keep others out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

from gateway.config import GatewaySettings
from gateway.corking import Cork
from gateway.errors import GatewayError, RequestTimeout, Unavailable
from gateway.peers import is_trusted, network_of

if TYPE_CHECKING:
    from gateway.connections.client import ClientConnection

SWEEP_SECONDS = 0.5

Reason = Literal["address_limit", "full", "evicted", "head_timeout", "head_too_large", "not_http", "reads_nothing"]
REASONS: tuple[Reason, ...] = get_args(Reason)


class Connections:
    """All connections of the public listener of one worker. `on_ended` is told why one of them was ended here."""

    def __init__(self, settings: GatewaySettings, on_ended: Callable[[Reason], None]) -> None:
        self._settings = settings
        self._on_ended = on_ended
        self.cork = Cork()  # of what is written to them
        self._open: set[ClientConnection] = set()
        self._waiting: dict[ClientConnection, float] = {}  # for a head; since when, the longest first
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: ClientConnection, peer: str) -> GatewayError | None:
        """Admit a connection, or say why not."""
        if len(self._open) >= self._settings.max_connections and not self._evict():
            self._on_ended("full")
            return _too_many("The gateway has as many connections as it may.")
        if refusal := self.count(connection, peer):
            return refusal
        self._open.add(connection)
        self.wait_for_head(connection)
        return None

    def announces(self, peer: str) -> bool:
        """Whether connections from a peer begin with the PROXY protocol; those on a Unix socket do not."""
        settings = self._settings
        return settings.proxy_protocol and is_trusted(peer, settings.trusted_proxies)

    def count(self, connection: ClientConnection, peer: str) -> GatewayError | None:
        """Count a connection for the address that it comes from, by its proxy's word or its own; or say why not."""
        most = self._settings.max_connections_per_address
        if most is not None and peer and not is_trusted(peer, self._settings.trusted_proxies):
            connection.address = network_of(peer)
            if self._addresses[connection.address] >= most:
                connection.address = ""
                self._on_ended("address_limit")
                return _too_many(f"There are {most} connections from your address already.")
            self._addresses[connection.address] += 1
        return None

    def leave(self, connection: ClientConnection) -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)
        if connection.address:
            self._addresses[connection.address] -= 1
            if not self._addresses[connection.address]:
                del self._addresses[connection.address]
            connection.address = ""

    def wait_for_head(self, connection: ClientConnection) -> None:
        """Note that a connection owes the head of a request from now on."""
        self._waiting[connection] = asyncio.get_running_loop().time()

    def is_waited_for(self, connection: ClientConnection) -> bool:
        """Whether a connection owes the head of a request."""
        return connection in self._waiting

    def has_head(self, connection: ClientConnection) -> None:
        """Note that the head is there."""
        self._waiting.pop(connection, None)

    def ended(self, reason: Reason) -> None:
        """Count a connection that was ended here."""
        self._on_ended(reason)

    async def watch(self) -> None:
        """End what is over its time, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep(asyncio.get_running_loop().time())

    def sweep(self, now: float) -> None:
        """End what is over its time at `now`, on the event loop's clock."""
        for connection, since in list(self._waiting.items()):
            if now - since < self._settings.head_seconds:
                break  # those behind it wait for less
            self.has_head(connection)
            if not connection.is_idle:
                continue
            self._on_ended("head_timeout")
            connection.end(
                RequestTimeout(f"The request's head did not arrive within {self._settings.head_seconds:g} s.")
                if connection.has_begun
                else None
            )
        for connection in list(self._open):
            if connection.has_stalled(now, self._settings.write_seconds):
                self._on_ended("reads_nothing")
                connection.abort()

    def _evict(self) -> bool:
        """Make room at the cost of who has sent no request for longest, else of one that was served before."""
        idle = next(iter(self._waiting), None) or next((each for each in self._open if each.is_idle), None)
        if idle is None:
            return False
        self._on_ended("evicted")
        idle.abort()
        self.leave(idle)
        return True


def _too_many(message: str) -> Unavailable:
    return Unavailable(message, code="too_many_connections", headers={"Retry-After": "1"})
