"""HTTP/1.1 to the engine: a connection that is its own asyncio.Protocol, and a small pool of idle ones.

Why not aiohttp's client: most of a request's CPU time would be spent in it. This does less: one request at a time, a
body that is already in memory, no redirects, cookies, proxies or content codings.

Two kinds of trouble, kept apart because they are handled differently:
`UpstreamClosed` - the engine went away or spoke no HTTP; `UpstreamTimeout` - it is there and says nothing.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

import httptools

from gateway.corking import Cork, corked

HIGH_WATER = 64 * 1024  # unread bytes at which the engine is told to wait; it then blocks in its own write
# What the kernel takes of an answer that is not read; it doubles it. Left alone it grows to 6 MB, for each client that
# reads nothing: measured, 5.7 MB of a stream were taken off the engine.
RECEIVE_BYTES = 128 * 1024
MAX_HEADER_BYTES = 64 * 1024
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_BODILESS = frozenset({204, 304})

Headers = list[tuple[bytes, bytes]]


class UpstreamClosed(Exception):
    """The connection could not be made, ended too early, or carried what is not HTTP."""


class StaleConnection(UpstreamClosed):
    """A connection that had been idle was closed instead of answered: the engine had never read the request."""


class UpstreamTimeout(Exception):
    """The engine said nothing until the deadline."""


class Head(NamedTuple):
    """Status and header fields of an answer, in the order they came, duplicates kept."""

    status: int
    headers: Headers


class Connection(asyncio.Protocol):
    """One connection: `send`, then `head`, then `read` until b"". Whoever holds it must `release` or `abort` it."""

    def __init__(self, on_idle: Callable[["Connection"], None], cork: Cork) -> None:
        self._on_idle = on_idle
        self._cork = cork
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Callable[[bytes], bool] | None = None
        self._patience: float | None = None  # seconds between two pieces of the body
        self._failure: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._deadline = float("inf")
        self._busy = False
        self.idle_since = 0.0  # 0: it has not served a request yet
        self._body: list[bytes] = []
        self.on_body = self._body.append  # called by the parser, with body bytes free of the chunked coding
        self._start_message()

    def _start_message(self) -> None:
        self._headers: Headers = []
        self._header_bytes = 0
        self._head: Head | None = None
        self._patience = None
        self._complete = False
        self._until_close = False
        self._keep_alive = False
        self._paused = False
        self._refused = False  # by the sink

    # -- what the relay calls ------------------------------------------------------------------------------------

    def send(self, head: bytes, body: bytes) -> None:
        """Write a whole request. Raises UpstreamClosed when the connection is already gone."""
        if self._failure is not None or self._transport is None or self._transport.is_closing():
            raise self._failure or UpstreamClosed("the engine closed the connection")
        self._busy = True
        self._transport.writelines((head, body))

    def expect_each_within(self, seconds: float) -> None:
        """From now on, expect each piece of the body no later than so long after the one before."""
        self._patience = seconds
        self.expect_by(seconds)

    def expect_by(self, seconds: float) -> None:
        """Set the deadline of whatever is awaited next. Cheap: a timer that fires earlier is left to look again."""
        self._deadline = self._loop.time() + seconds
        if self._timer is None or self._deadline < self._timer_at:
            self._arm_timer()

    def _arm_timer(self) -> None:
        self._stop_timer()
        self._timer_at = self._deadline
        self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_deadline(self) -> None:
        self._timer = None
        if not self._busy:
            return
        if self._loop.time() < self._deadline:  # it was moved meanwhile
            self._arm_timer()
        elif self._waiter is not None and not self._waiter.done():
            self._fail(UpstreamTimeout("the engine did not answer in time"))

    async def ask(self, head: bytes, body: bytes, seconds: float) -> Head:
        """Send a whole request and wait for the head of its answer, no longer than `seconds`.

        Raises UpstreamClosed, UpstreamTimeout, and StaleConnection where another connection may do.
        """
        self.expect_by(seconds)
        try:
            self.send(head, body)
            while (answer := self._head) is None:
                await self._news()
        except UpstreamClosed as error:
            if self.idle_since:
                raise StaleConnection(str(error)) from error
            raise
        return answer

    async def head(self) -> Head:
        """Wait for status and headers."""
        while self._head is None:
            await self._news()
        return self._head

    async def read(self) -> bytes:
        """Return all body bytes that have arrived, waiting for the first; b"" at the end of a whole answer."""
        while not self._body:
            if self._complete:
                return b""
            await self._news()
        return self._take()

    async def read_all(self) -> bytes:
        """Return the rest of the body, waiting for its end."""
        parts = [self._take()] if self._body else []
        while not self._complete:
            await self._news()
            if self._body:
                parts.append(self._take())
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def pump(self, sink: Callable[[bytes], bool]) -> None:
        """Give body bytes to `sink` the moment they arrive, until it returns False or the answer is whole.

        `sink` runs inside the callback that received the bytes: no task is woken for them.
        """
        while self._body or not self._complete:
            if not self._body:
                self._sink = sink
                try:
                    await self._news()
                finally:
                    self._sink = None
            elif not sink(self._take()):
                return
            if self._refused:
                self._refused = False
                return

    def _take(self) -> bytes:
        data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        if self._patience is not None:
            self._deadline = self._loop.time() + self._patience
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    @property
    def drained(self) -> bool:
        """Whether the answer is complete and all of it was read."""
        return self._complete and not self._body

    def release(self) -> None:
        """Give the connection back: to the pool after a whole answer on a connection that stays, else close it.

        Its timer stays: the next request's deadline is likely to be a later one.
        """
        if not (self._complete and not self._body and self._keep_alive and self.usable):
            self.abort()
            return
        self._start_message()
        self._busy = False
        self.idle_since = time.monotonic()
        self._on_idle(self)

    def hang_up(self) -> None:
        """Let the engine see that nobody wants its answer, before the event loop turns to anything else.

        `abort` closes only after whatever the loop has to do already; where many clients leave together that is much.
        """
        self._failure = self._failure or UpstreamClosed("the client left")
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def abort(self) -> None:
        """Close at once. The engine sees the disconnect and stops generating (8-54 ms, docs/vllm.md).

        Nobody waits for it any more. What was raised holds the calls that it went through, and so this connection.
        """
        self._stop_timer()
        self._waiter = None
        self._failure = UpstreamClosed("it was closed here")
        if self._transport is not None:
            self._transport.abort()

    @property
    def usable(self) -> bool:
        """Whether an idle connection may take a request."""
        return self._failure is None and self._transport is not None and not self._transport.is_closing()

    def _news(self) -> asyncio.Future[None]:
        """What is done when something has come, or failed."""
        if self._failure is not None:
            raise self._failure
        if self._loop.time() >= self._deadline:
            raise UpstreamTimeout("the engine did not answer in time")
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._failure)

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; asyncio calls this once."""
        self._transport = corked(transport, self._cork)
        self._parser = httptools.HttpResponseParser(self)  # not earlier: uvloop makes connections that are never made
        wire = transport.get_extra_info("socket")
        if wire is not None:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)

    def data_received(self, data: bytes) -> None:
        """Parse what came; the callbacks below collect it."""
        if not self._busy:  # an answer nobody asked for must not become the next caller's
            self._give_up("the engine sent data on an idle connection")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._give_up("the engine tried to switch protocols")
        except httptools.HttpParserError as error:
            self._give_up(f"the engine's answer is not HTTP: {error}")
        if self._sink is not None and self._body:
            try:
                self._refused = not self._sink(self._take())
            except Exception as error:  # noqa: BLE001 - it is raised where the pump is awaited
                self._fail(error)
            if not self._refused and not self._complete and self._failure is None:
                return
            self._sink = None  # what comes before the task runs waits for it
        if not self._complete:
            self._pause_when_full()
        self._wake()

    def _pause_when_full(self) -> None:
        if not self._paused and sum(map(len, self._body)) > HIGH_WATER and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _give_up(self, why: str) -> None:
        self._fail(UpstreamClosed(why))
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End of the connection: the end of an answer only if the answer was delimited by it."""
        self._stop_timer()
        del self._parser  # it holds this connection, and what holds itself stays until the garbage collector comes by
        if self._until_close and exc is None:
            self._complete = True
            self._wake()
        if self._complete:
            self._failure = self._failure or UpstreamClosed("the engine closed the connection")
        else:
            self._fail(UpstreamClosed("the engine closed the connection before its answer was complete"))

    # -- httptools -----------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A second answer to one request: whatever it is, it is not the caller's."""
        if self._complete:
            raise ValueError("more than one answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect one header field (or trailer field; trailers are dropped with the chunked coding)."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise ValueError("the header is too large")  # ends the parse: data_received() gives up
        if self._head is None:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Status line and fields are in. An interim (1xx) answer is skipped."""
        status = self._parser.get_status_code()
        if status < 200:
            return
        self._keep_alive = self._parser.should_keep_alive()  # no connection stays after an answer that ends with it
        self._until_close = not self._keep_alive and status not in _BODILESS and not _is_delimited(self._headers)
        self._head = Head(status, self._headers)

    def on_message_complete(self) -> None:
        """The answer is whole (an interim one only makes room for the real one)."""
        if self._head is None:
            self._headers = []
            self._header_bytes = 0
        else:
            self._complete = True


def _is_delimited(headers: Headers) -> bool:
    return any(name.lower() in _FRAMING for name, _ in headers)


class Pool:
    """Connections to one engine: newest idle first, each used again for at most `keep_alive` seconds of idleness."""

    def __init__(self, *, keep_alive: float, connect_timeout: float) -> None:
        self._keep_alive = keep_alive
        self._connect_timeout = connect_timeout
        self._cork = Cork()
        self._idle: list[Connection] = []
        self._address: tuple[str, int] | None = None
        self._closed = False

    def idle(self, host: str, port: int) -> Connection | None:
        """Return the connection to the engine that has been idle for the shortest time; None: there is none."""
        if self._address != (host, port):
            self.drop_idle()
            self._address = (host, port)
        oldest = time.monotonic() - self._keep_alive
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since >= oldest:
                return connection
            connection.abort()
        return None

    async def connect(self, host: str, port: int) -> Connection:
        """Return a connection to the engine, idle or new. Raises UpstreamClosed, or UpstreamTimeout."""
        return self.idle(host, port) or await self.dial(host, port)

    async def dial(self, host: str, port: int) -> Connection:
        """Return a new connection. Raises UpstreamClosed, or UpstreamTimeout."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(lambda: Connection(self._keep, self._cork), host, port)
        except TimeoutError as error:
            raise UpstreamTimeout(f"no connection to the engine within {self._connect_timeout} s") from error
        except OSError as error:
            raise UpstreamClosed(f"no connection to the engine: {error}") from error
        return connection

    def _keep(self, connection: Connection) -> None:
        if self._closed:
            connection.abort()
        else:
            self._idle.append(connection)

    def drop_idle(self) -> None:
        """Close the connections that nobody uses."""
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    def close(self) -> None:
        """Close the idle connections, and each busy one as soon as it is released."""
        self._closed = True
        self.drop_idle()
