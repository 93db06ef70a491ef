"""HTTP/1.1 as uvicorn speaks it: one protocol object a connection, handlers called with the whole request.

vLLM sits behind uvicorn, and some of what a gateway meets is uvicorn's doing, not vLLM's: lower-case header names
in a fixed order, an idle connection closed after five seconds, a client that half-closes gets no answer at all.
Answers are written synchronously by the engine's step, so a step's tokens leave together and a lost connection is
known at once. Nothing here waits for a slow reader: vLLM does not either.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

import httptools

Headers = list[tuple[bytes, bytes]]
Handler = Callable[["Request"], None]

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_LAST_CHUNK = b"0\r\n\r\n"


class Request:
    """One request, complete with its body, and the only way to answer it."""

    def __init__(self, connection: Connection, method: str, target: bytes, headers: Headers) -> None:
        self.method = method
        self.target = target.decode("latin-1")
        self.path = self.target.split("?", 1)[0]
        self.headers = headers
        self.body = b""
        self.extra_headers: Headers = []
        self.on_disconnect: Callable[[], None] | None = None
        self.answered = False
        self.status = 0
        self.connection = connection

    def header(self, name: bytes) -> str | None:
        """The first header called `name` (lower case), or None."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None

    def respond(
        self, status: int, headers: Headers, body: bytes = b"", *, first: Headers | None = None, close: bool = False
    ) -> None:
        """Answer with a body of known length; `first` precede content-length and `headers` follow it, as in uvicorn."""
        fields = [*(first or []), (b"content-length", str(len(body)).encode()), *headers]
        self._head(status, fields, close=close)
        if self.method != "HEAD":
            self.connection.write(body)
        self.connection.finished(self, close=close)

    def stream(self, headers: Headers) -> None:
        """Send a 200's headers; the body follows in `write` calls until `end`."""
        self._head(200, headers, tail=[(b"transfer-encoding", b"chunked")])

    def write(self, data: bytes) -> None:
        """One chunk of a streamed body."""
        self.connection.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """The streamed body is whole."""
        self.connection.write(_LAST_CHUNK)
        self.connection.finished(self, close=False)

    def cut(self, raw: bytes = b"", *, reset: bool = False) -> None:
        """Break the connection without an end: `raw` goes out unframed first; `reset` drops what is unsent."""
        self.connection.write(raw)
        self.connection.cut(reset=reset)

    def _head(self, status: int, fields: Headers, tail: Headers | None = None, *, close: bool = False) -> None:
        self.answered = True
        self.status = status
        lines = [b"HTTP/1.1 %d %b" % (status, _REASONS.get(status, "").encode())]
        fixed = [(b"date", formatdate(usegmt=True).encode()), (b"server", b"uvicorn")]
        closing = [(b"connection", b"close")] if close else []
        for name, value in (*fixed, *fields, *self.extra_headers, *closing, *(tail or ())):
            lines.append(name + b": " + value)
        self.connection.write(b"\r\n".join(lines) + b"\r\n\r\n")


class Connection(asyncio.Protocol):
    """Parses requests from one socket and hands them to `handler` one after the other."""

    def __init__(self, handler: Handler, keep_alive: float, connections: set[Connection]) -> None:
        self._handler = handler
        self._keep_alive = keep_alive
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._current: Request | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._target = b""
        self._headers: Headers = []
        self._body: list[bytes] = []

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        self._watch_idle()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio names it
        """The peer is gone: tell the request in progress, drop those behind it."""
        self._transport = None
        self._connections.discard(self)
        self._stop_idle()
        self._waiting.clear()
        current, self._current = self._current, None
        if current is not None and current.on_disconnect is not None:
            current.on_disconnect()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the methods below."""
        self._stop_idle()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # an Upgrade we do not offer is answered as the plain request it also is
        except httptools.HttpParserError:
            bad = Request(self, "GET", b"/", [])
            bad.respond(
                400,
                [(b"content-type", b"text/plain; charset=utf-8")],
                b"Invalid HTTP request received.",
                close=True,
            )

    # what the parser calls

    def on_message_begin(self) -> None:
        """A request begins."""
        self._target, self._headers, self._body = b"", [], []

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Ask for the body where the client waits to be asked (curl does, above 1 MB)."""
        for name, value in self._headers:
            if name == b"expect" and value.lower() == b"100-continue":
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand the request over, or queue it behind the one in progress."""
        request = Request(self, self._parser.get_method().decode(), self._target, self._headers)
        request.body = b"".join(self._body)
        self._waiting.append((request, self._parser.should_keep_alive()))
        self._next()

    # what requests call

    @property
    def lost(self) -> bool:
        """Nobody is at the other end any more."""
        return self._transport is None

    def write(self, data: bytes) -> None:
        """Send bytes, or drop them when nobody is there."""
        if self._transport is not None and data:
            self._transport.write(data)

    def finished(self, request: Request, *, close: bool) -> None:
        """The answer to `request` is complete."""
        if request is not self._current:
            self._close()
            return
        self._current = None
        if close or not self._reusable:
            self._close()
        elif self._waiting:  # not from here: a long pipeline would pile up on the stack
            asyncio.get_running_loop().call_soon(self._next)
        else:
            self._watch_idle()

    def cut(self, *, reset: bool) -> None:
        """Close in the middle of an answer."""
        if self._transport is not None:
            if reset:
                self._transport.abort()
            else:
                self._transport.close()

    def close_idle(self) -> None:
        """Close unless an answer is in progress."""
        if self._current is None:
            self._close()

    def _next(self) -> None:
        if self._current is not None or not self._waiting or self.lost:
            return
        request, self._reusable = self._waiting.popleft()
        self._current = request
        self._handler(request)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _watch_idle(self) -> None:
        self._stop_idle()
        if self._transport is not None:
            self._idle = asyncio.get_running_loop().call_later(self._keep_alive, self._close)

    def _stop_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
