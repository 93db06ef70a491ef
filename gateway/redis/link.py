"""One connection to Redis, shared by all who have something to ask.

Commands that come within one turn of the event loop leave in one write, and answers are matched to them in their
order: that makes a call several times cheaper than redis-py's own (bench/limits). redis-py dials, encrypts and
authenticates; then its connection's transport is given to the small protocol below.

A call waits for `timeout` and no longer. An answer that is late is the end of the connection, for it would be taken
for the answer to the next question; all who wait are told at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Self, cast

import hiredis

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

    from gateway.redis.address import Address

SECOND_LOOK = 0.002  # a busy event loop may be late itself: it reads once more before it gives up
_NOTHING = object()


class RedisAway(Exception):
    """Redis did not do it, or not in time. Whether it was done nevertheless is unknown.

    `redirected`: another one would, and the next connection leads there.
    """

    def __init__(self, message: str, *, redirected: bool = False) -> None:
        super().__init__(message)
        self.redirected = redirected


class Link:
    """Asks Redis. `on_lost(reason)` is called once for each connection that broke."""

    def __init__(self, address: Address, timeout: float, on_lost: Callable[[str], None]) -> None:
        """`timeout` is in seconds, for each call; dialling has its own deadline."""
        self._address = address
        self.timeout = timeout
        self._on_lost = on_lost
        self._session: _Session | None = None

    @classmethod
    def to(cls, url: str, timeout: float, on_lost: Callable[[str], None]) -> Self:
        """A link to the Redis at a URL. Raises ValueError."""
        # redis-py takes 10 MB and a fifth of a start: for those who have a Redis
        from gateway.redis.address import Address  # noqa: PLC0415

        return cls(Address(url), timeout, on_lost)

    @property
    def open(self) -> bool:
        """Whether there is a connection."""
        return self._session is not None

    async def connect(self) -> None:
        """Dial, unless there is a connection. Raises RedisAway."""
        if self._session is not None:
            return
        try:
            connection = await self._address.dial()
        except (OSError, TimeoutError) as error:
            raise RedisAway(f"no connection: {error}") from None
        self._session = _Session(connection, self.timeout, self._lost)

    def call(self, *command: bytes | str | int) -> Awaitable[Any]:
        """Send a command; the reply is an int, bytes, a list, None or a hiredis.ReplyError. Raises RedisAway."""
        return self.send(hiredis.pack_command(command))  # type: ignore[arg-type]

    def send(self, *command: bytes) -> Awaitable[Any]:
        """The same, of a command as it goes over the wire, in one piece or several."""
        if self._session is None:
            raise RedisAway("no connection")
        return self._session.ask(command)

    def refused(self, reply: object) -> RedisAway:
        """An error reply means: not here, not now. The connection is given up: the next one may lead elsewhere."""
        text = str(reply)
        redirected = self._address.redirect(text)
        self.close(text)
        return RedisAway(text, redirected=redirected)

    def close(self, reason: str = "closed") -> None:
        """End the connection; who still waits is told."""
        if self._session is not None:
            self._session.end(reason)

    async def aclose(self) -> None:
        """End the connection and wait until its socket is closed."""
        session = self._session
        self.close()
        if session is not None:
            await session.closed.wait()

    def _lost(self, reason: str) -> None:
        self._session = None
        self._on_lost(reason)


class _Session(asyncio.Protocol):
    """One connection from its first command to its end."""

    def __init__(self, connection: AbstractConnection, timeout: float, on_end: Callable[[str], None]) -> None:
        self._connection = connection  # kept: it closes its transport when it is forgotten
        self._timeout = timeout
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._outgoing: list[bytes] = []
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()  # deadline, answer
        self._timer: asyncio.TimerHandle | None = None
        self._looked_twice = False
        self._ended = False
        self.closed = asyncio.Event()
        # redis-py has no public way to its transport
        self._transport = cast("asyncio.Transport", connection._writer.transport)  # type: ignore[union-attr]  # noqa: SLF001
        self._transport.set_protocol(self)
        self._transport.resume_reading()  # the stream reader may have paused it

    def ask(self, command: Iterable[bytes]) -> asyncio.Future[Any]:
        """Send with the next batch; the future is its answer."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        deadline = self._loop.time() + self._timeout
        self._waiting.append((deadline, answer))
        if not self._outgoing:
            self._loop.call_soon(self._send)
        self._outgoing += command
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._check)
        return answer

    def _send(self) -> None:
        batch, self._outgoing = b"".join(self._outgoing), []
        if batch and not self._ended:
            self._transport.write(batch)

    def data_received(self, data: bytes) -> None:
        """Give each answer to who has waited longest."""
        self._reader.feed(data)
        self._looked_twice = False
        try:
            while (reply := self._reader.gets()) is not _NOTHING:
                _, answer = self._waiting.popleft()
                if not answer.done():
                    answer.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self.end(f"not an answer of Redis: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side has closed."""
        self.closed.set()
        self.end(f"connection lost: {exc or 'closed by the server'}")

    def _check(self) -> None:
        """Whether an answer is overdue."""
        self._timer = None
        if not self._waiting:
            return
        deadline = self._waiting[0][0]
        if deadline > self._loop.time():
            self._timer = self._loop.call_at(deadline, self._check)
        elif not self._looked_twice:
            self._looked_twice = True
            self._timer = self._loop.call_later(SECOND_LOOK, self._check)
        else:
            self.end(f"no answer within {self._timeout * 1000:g} ms")

    def end(self, reason: str) -> None:
        """Close, and tell all who wait."""
        if self._ended:
            return
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        with contextlib.suppress(AttributeError):
            self._connection._writer = self._connection._reader = None  # noqa: SLF001 - else it warns that it was not closed
        waiting, self._waiting = self._waiting, deque()
        for _, answer in waiting:
            if not answer.done():
                answer.set_exception(RedisAway(reason))
        self._on_end(reason)
