"""One connection of a client, and how long it may keep us waiting.

| a client that | is ended |
|---|---|
| opens more connections than one address may | at once, 503 |
| sends no whole request head | after gateway.head_seconds: 408 when it had begun, else without a word |
| sends a head of more than MAX_HEAD_BYTES | at once, 431 |
| sends what is not HTTP | at once, 400 |
| takes less of its answer than SLOWEST_BYTES | after gateway.write_seconds, with a reset |

A head that began in the packet in which an earlier request ended has the time of an idle connection, 75 s: aiohttp does
not tell that there is one.

What an answer may pile up for a client that reads nothing is bounded: in the kernel by UNSENT_BYTES, in the process by
the transport's high-water mark and one piece of the answer.

aiohttp's protocol class is extended for this (aiohttp is pinned for that reason).
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

from aiohttp import EMPTY_PAYLOAD, web
from aiohttp.http_exceptions import BadStatusLine, HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestHandler

from gateway.answer import Answer
from gateway.connections.refusals import closing_response, raw_response
from gateway.connections.register import Connections
from gateway.corking import corked
from gateway.errors import BadRequest, ExpectationFailed, GatewayError, HeadTooLarge
from gateway.proxy_protocol import NotAnnouncedError, announcement

MAX_HEAD_BYTES = 64 * 1024  # of request line and fields together
UNSENT_BYTES = 64 * 1024  # what the kernel takes of an answer beyond what is on its way
SLOWEST_BYTES = 16 * 1024  # so much of what waits for it a client must take in gateway.write_seconds
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time


class ClientConnection(RequestHandler):
    """One connection of a client: aiohttp's, with the deadlines that it lacks, and errors in our own form."""

    __slots__ = (
        "_announcing", "_behind_at", "_behind_bytes", "_head_bytes", "_members", "_wire", "address",
        "when_gone",
    )  # fmt: skip

    def __init__(self, manager: web.Server, connections: Connections, **how: Any) -> None:
        super().__init__(manager, **how)
        self._members = connections
        self._wire: asyncio.Transport | None = None
        self._announcing: bytes | None = None  # the beginning of a PROXY header that is not complete
        self._head_bytes = 0
        self._behind_at = 0.0
        self._behind_bytes = 0  # what waited for the client at that time; 0: it was not behind
        self.address = ""  # under which it is counted
        self.when_gone: Callable[[], None] | None = None  # what cannot wait until the request's task is cancelled

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody connected."""
        transport = corked(transport, self._members.cork)
        name = transport.get_extra_info("peername")
        peer = name[0] if isinstance(name, tuple) else ""
        refusal = self._members.enter(self, peer)
        if refusal is not None:
            self._force_close = True
            transport.write(raw_response(refusal))
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
        self._tell_that_it_is_gone()
        self._members.leave(self)
        self._wire = None
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """The client leaves, as most do: the transport closes, and when many do, it may be a while until it is lost."""
        self._tell_that_it_is_gone()

    def _tell_that_it_is_gone(self) -> None:
        if self.when_gone is not None:
            do, self.when_gone = self.when_gone, None
            do()

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
            self.logger.info("a connection from the proxy %s is closed: %s", self.peername, error)
            self._members.ended("not_http")
            self.abort()
            return b""
        self._announcing = data if found is None else None
        if found is None:
            return b""
        if found.address is not None:
            self._cache["peername"] = found.address  # where aiohttp keeps the other end: it is who the proxy says
            if refusal := self._members.count(self, found.address):
                self.end(refusal)
                return b""
        return data[found.size :]

    # -- what aiohttp calls

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on, where reading was paused: aiohttp calls this after each body, and it parses and polls anew."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

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
        exc.__traceback__ = None  # it holds the call of data_received, which holds the exception
        if isinstance(exc, LineTooLong) or "Too many" in exc.message:
            error: GatewayError = HeadTooLarge("The request's head has too many fields, or one that is too long.")
            self._members.ended("head_too_large")
        else:
            what = "request line" if isinstance(exc, BadStatusLine) else "request"
            error = BadRequest(f"This is not an HTTP/1.1 {what} that can be read.")
            self._members.ended("not_http")
        self.logger.info("not HTTP from %s: %s", request.remote, " ".join(exc.message.split())[:200])
        return closing_response(error)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; returns it, and whether the client has left.

        An exception here was raised by aiohttp before our middleware: for `Expect`, no other.
        """
        if type(resp) is Answer and not self._upgraded:  # it needs none of the steps of aiohttp's own
            try:
                if resp.send(request):
                    await request.writer.drain()
            except ConnectionError:
                return resp, True
            return resp, False
        if isinstance(resp, web.HTTPException):
            resp = closing_response(ExpectationFailed("The only expectation that is met is 100-continue."))
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
                self._wire.write(raw_response(error))
            self.force_close()

    def abort(self) -> None:
        """Close at once with a reset; what was not sent is thrown away, in the kernel, too."""
        if self._wire is not None:
            wire = self._wire.get_extra_info("socket")
            if wire is not None:  # otherwise the kernel goes on offering it to a reader who has no room
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._wire.abort()


def whole_body(request: web.Request) -> bytes | None:
    """Take the body of a request, if all of it is there; None: it is still coming."""
    content = request.content
    if content is EMPTY_PAYLOAD:
        return b""
    if not content.is_eof():
        return None
    pieces = content._buffer  # noqa: SLF001 - aiohttp's way to it are five calls
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    pieces.clear()
    return body
