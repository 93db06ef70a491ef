"""Connections of clients: how many there may be, and how long each may keep us waiting.

| a client that | is ended |
|---|---|
| opens more connections than one address may | at once, 503 |
| sends no whole request head | after gateway.head_seconds: 408 when it had begun, else without a word |
| sends a head of more than MAX_HEAD_BYTES | at once, 431 |
| sends what is not HTTP | at once, 400 |
| takes less of its answer than SLOWEST_BYTES | after gateway.write_seconds, with a reset |

A head that began in the packet in which an earlier request ended has the time of an idle connection, 75 s: aiohttp does
not tell that there is one.

When gateway.max_connections are open, one that serves no request makes room, so that connections that only wait cannot
keep others out. What an answer may pile up for a client that reads nothing is bounded: in the kernel by UNSENT_BYTES,
in the process by the transport's high-water mark and one piece of the answer.

aiohttp has deadlines for idle connections only; so this extends its protocol class (aiohttp is pinned for that reason).
"""

import asyncio
import ipaddress
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, cast

from aiohttp import web
from aiohttp.http_exceptions import BadStatusLine, HttpProcessingError, LineTooLong
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestHandler

from gateway.config import GatewaySettings
from gateway.context import Api
from gateway.errors import (
    BadRequest,
    ExpectationFailed,
    GatewayError,
    HeadTooLarge,
    RequestTimeout,
    Unavailable,
    error_body,
)
from gateway.peers import is_trusted
from gateway.proxy_protocol import NotAnnouncedError, announcement

MAX_HEAD_BYTES = 64 * 1024  # of request line and fields together
UNSENT_BYTES = 64 * 1024  # what the kernel takes of an answer beyond what is on its way
SLOWEST_BYTES = 16 * 1024  # so much of what waits for it a client must take in gateway.write_seconds
SWEEP_SECONDS = 0.5
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time

Reason = Literal["address_limit", "full", "evicted", "head_timeout", "head_too_large", "not_http", "reads_nothing"]
REASONS: tuple[Reason, ...] = (
    "address_limit", "full", "evicted", "head_timeout", "head_too_large", "not_http", "reads_nothing",
)  # fmt: skip


class Connections:
    """All connections of the public listener of one worker. `on_ended` is told why one of them was ended here."""

    def __init__(self, settings: GatewaySettings, on_ended: Callable[[Reason], None]) -> None:
        self._settings = settings
        self._on_ended = on_ended
        self._open: set[ClientConnection] = set()
        self._waiting: dict[ClientConnection, float] = {}  # for a head; since when, the longest first
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: "ClientConnection", peer: str) -> GatewayError | None:
        """Admit a connection, or say why not."""
        if len(self._open) >= self._settings.max_connections and not self._evict():
            self._on_ended("full")
            return _too_many("The gateway has as many connections as it may.")
        if refusal := self._count(connection, peer):
            return refusal
        self._open.add(connection)
        self.wait_for_head(connection)
        return None

    def announces(self, peer: str) -> bool:
        """Whether connections from a peer begin with the PROXY protocol; those on a Unix socket do not."""
        settings = self._settings
        return settings.proxy_protocol and is_trusted(peer, settings.trusted_proxies)

    def announced(self, connection: "ClientConnection", address: str) -> GatewayError | None:
        """Count a connection for whom its proxy says it is, or say why not."""
        return self._count(connection, address)

    def _count(self, connection: "ClientConnection", peer: str) -> GatewayError | None:
        most = self._settings.max_connections_per_address
        if most is not None and peer and not is_trusted(peer, self._settings.trusted_proxies):
            connection.address = _network(peer)
            if self._addresses[connection.address] >= most:
                connection.address = ""
                self._on_ended("address_limit")
                return _too_many(f"There are {most} connections from your address already.")
            self._addresses[connection.address] += 1
        return None

    def leave(self, connection: "ClientConnection") -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)
        if connection.address:
            self._addresses[connection.address] -= 1
            if not self._addresses[connection.address]:
                del self._addresses[connection.address]
            connection.address = ""

    def wait_for_head(self, connection: "ClientConnection") -> None:
        """Note that a connection owes the head of a request from now on."""
        self._waiting[connection] = asyncio.get_running_loop().time()

    def is_waited_for(self, connection: "ClientConnection") -> bool:
        """Whether a connection owes the head of a request."""
        return connection in self._waiting

    def has_head(self, connection: "ClientConnection") -> None:
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


class ClientConnection(RequestHandler):
    """One connection of a client: aiohttp's, with the deadlines that it lacks, and errors in our own form."""

    __slots__ = (
        "_announcing", "_behind_at", "_behind_bytes", "_head_bytes", "_members", "_source", "_wire", "address",
    )  # fmt: skip

    def __init__(self, manager: web.Server, connections: Connections, **how: Any) -> None:
        super().__init__(manager, **how)
        self._members = connections
        self._wire: asyncio.Transport | None = None
        self._announcing: bytes | None = None  # the beginning of a PROXY header that is not complete
        self._source: str | None = None  # whose connection the proxy says it is
        self._head_bytes = 0
        self._behind_at = 0.0
        self._behind_bytes = 0  # what waited for the client at that time; 0: it was not behind
        self.address = ""  # under which it is counted

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody connected."""
        transport = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        peer = name[0] if isinstance(name, tuple) else ""
        refusal = self._members.enter(self, peer)
        if refusal is not None:
            self._force_close = True
            transport.write(_raw(refusal))
            transport.close()
            return
        self._wire = transport
        if self._members.announces(peer):
            self._announcing = b""
        wire = transport.get_extra_info("socket")
        if wire is not None and wire.family != socket.AF_UNIX:
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is closed."""
        self._members.leave(self)
        self._wire = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and see whether a head has begun, is complete, or has grown too long."""
        if self._announcing is not None and not (data := self._after_announcement(self._announcing + data)):
            return
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._head_bytes = 0
            self._members.has_head(self)
        elif data and self.is_idle:
            if not self._members.is_waited_for(self):
                self._members.wait_for_head(self)
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self._force_close:
                self._members.ended("head_too_large")
                self.end(HeadTooLarge(f"The request's head is too large: at most {MAX_HEAD_BYTES} bytes are allowed."))

    def _after_announcement(self, data: bytes) -> bytes:
        """Read the PROXY header; what follows it, once it is complete."""
        try:
            found = announcement(data)
        except NotAnnouncedError as error:
            self.logger.info("a connection from the proxy %s is closed: %s", super().peername, error)
            self._members.ended("not_http")
            self.abort()
            return b""
        self._announcing = data if found is None else None
        if found is None:
            return b""
        self._source = found.address
        if found.address is not None and (refusal := self._members.announced(self, found.address)):
            self.end(refusal)
            return b""
        return data[found.size :]

    # -- what aiohttp calls

    @property
    def peername(self) -> Any:
        """The other end: for a connection that a proxy announced, who is behind it."""
        return self._source or super().peername

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP, in the API's form; the connection is closed after it."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        if isinstance(exc, LineTooLong) or "Too many" in exc.message:
            error: GatewayError = HeadTooLarge("The request's head has too many fields, or one that is too long.")
            self._members.ended("head_too_large")
        else:
            what = "request line" if isinstance(exc, BadStatusLine) else "request"
            error = BadRequest(f"This is not an HTTP/1.1 {what} that can be read.")
            self._members.ended("not_http")
        self.logger.info("not HTTP from %s: %s", request.remote, " ".join(exc.message.split())[:200])
        return _closing(error)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; an exception here was raised by aiohttp before our middleware: for `Expect`, no other."""
        if isinstance(resp, web.HTTPException):
            resp = _closing(ExpectationFailed("The only expectation that is met is 100-continue."))
        return await super().finish_response(request, resp, start_time)

    # -- what Connections asks

    @property
    def has_begun(self) -> bool:
        """Whether a part of a head has come."""
        return self._head_bytes > 0

    @property
    def is_idle(self) -> bool:
        """Whether no request is being served, or about to be."""
        return self._waiter is not None and not self._waiter.done()

    def has_stalled(self, now: float, seconds: float) -> bool:
        """Whether the client has taken too little of what waits for it, for so long."""
        waiting = self._wire.get_write_buffer_size() if self._wire is not None else 0
        # while an answer is still being written to and flows, its size says nothing about the reader
        if not waiting or self._wire is None or not (self._paused or self._wire.is_closing() or self.is_idle):
            self._behind_bytes = 0
        elif (
            not self._behind_bytes - SLOWEST_BYTES < waiting <= self._behind_bytes
        ):  # took some; or took all, and has more
            self._behind_at, self._behind_bytes = now, waiting
        return bool(self._behind_bytes) and now - self._behind_at >= seconds

    def end(self, error: GatewayError | None) -> None:
        """Close, with an answer where there is an error to tell."""
        if self._wire is not None and not self._wire.is_closing():
            if error is not None:
                self._wire.write(_raw(error))
            self.force_close()

    def abort(self) -> None:
        """Close at once with a reset; what was not sent is thrown away, in the kernel, too."""
        if self._wire is not None:
            wire = self._wire.get_extra_info("socket")
            if wire is not None:  # otherwise the kernel goes on offering it to a reader who has no room
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._wire.abort()


Serve = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


class ClientRunner(web.AppRunner):
    """aiohttp's, for a listener whose connections are watched.

    `serve` is called with each request and with the application's own way of handling it.
    """

    __slots__ = ("_connections", "_serve")

    def __init__(self, app: web.Application, connections: Connections, serve: Serve, **how: Any) -> None:
        super().__init__(app, **how)
        self._connections = connections
        self._serve = serve

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handle = cast("Handler", made.request_handler)
        made.request_handler = lambda request: self._serve(cast("web.Request", request), handle)
        return _Server(self._connections, made)


class _Server(web.Server):
    """Makes our connections where aiohttp would make its own."""

    def __init__(self, connections: Connections, made: web.Server) -> None:
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,  # noqa: SLF001 - there is no other way to its settings
        )
        self._members = connections

    def __call__(self) -> RequestHandler:
        return ClientConnection(self, self._members, loop=self._loop, **self._kwargs)


def _network(peer: str) -> str:
    """What counts as one address: an IPv4 address, or an IPv6 network of 64 bits, which is what one customer gets."""
    address = ipaddress.ip_address(peer.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((address, 64), strict=False))
    return peer


def _too_many(message: str) -> Unavailable:
    return Unavailable(message, code="too_many_connections", headers={"Retry-After": "1"})


def _closing(error: GatewayError) -> web.Response:
    """An error for a request that our application never saw; the connection is closed after it."""
    headers = {"Server": "gatehouse", "Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}
    response = web.Response(status=error.status, headers=headers, body=error_body(error, Api.OTHER, ""))
    response.force_close()
    return response


def _raw(error: GatewayError) -> bytes:
    """An error for a connection that has no request."""
    body = error_body(error, Api.OTHER, "")
    fields: Iterable[tuple[str, str]] = (
        ("Server", "gatehouse"),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
        *error.headers.items(),
    )
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {error.status} {error.reason}\r\n{lines}\r\n".encode("latin-1") + body
