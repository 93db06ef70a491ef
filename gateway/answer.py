"""An answer of the engine on its way to the client, head and body written to the transport in one go.

aiohttp's own responses build and write the same in several steps, which take more CPU time than all that the gateway
does with a chunk. aiohttp still reads requests, keeps connections and knows when a client has left.
"""

import time
from email.utils import formatdate
from functools import lru_cache

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.web_request import BaseRequest

from gateway.context import Api, Exchange
from gateway.headers import fields_in

_MESSAGES = Api.MESSAGES  # enum's members are slow to name
_BODILESS = frozenset({204, 304})  # RFC 9110, sections 15.3.5 and 15.4.5


class Answer(web.StreamResponse):
    """`send` writes it when the handler has returned; `begin` before that starts a stream."""

    def __init__(self, exchange: Exchange, status: int, fields: str, body: bytes = b"") -> None:
        """`fields`: lines of the head, each with its line break, beside the exchange's own."""
        super().__init__(status=status)
        self._exchange = exchange
        self._fields = fields
        self.body = body
        self.chunked_coding = False
        self._begun = False

    @property
    def prepared(self) -> bool:
        """Whether its head was written."""
        return self._begun

    def begin(self, request: BaseRequest) -> bytes:
        """Start a stream: its head. An HTTP/1.0 client gets the end of the connection as the end of the body."""
        self.chunked_coding = request.version >= HttpVersion11
        if not self.chunked_coding:
            self.force_close()
        head = self._head(request, "Transfer-Encoding: chunked\r\n" if self.chunked_coding else "")
        self._fields = ""  # a stream would keep them to its end
        return head

    def send(self, request: BaseRequest) -> bool:
        """Write head and body, unless a stream was begun; returns whether the client must be waited for.

        Raises ConnectionError.
        """
        if self._begun:
            return False
        length = "" if self._status in _BODILESS else f"Content-Length: {len(self.body)}\r\n"
        data = self._head(request, length) + self.body
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client closed the connection")
        transport.write(data)
        return bool(transport.get_write_buffer_size())

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """The same, waiting for the client. Raises ConnectionError."""
        if self.send(request):
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: it is all written."""

    def _head(self, request: BaseRequest, framing: str) -> bytes:
        self._begun = True
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        version, connection = request.version, ""
        if "Connection" in self._exchange.headers:
            pass  # it is said there
        elif not self._keep_alive:
            connection = "Connection: close\r\n"
        elif version == HttpVersion10:
            connection = "Connection: keep-alive\r\n"
        head = (
            f"HTTP/{version.major}.{version.minor} {self._status} {self._reason}\r\n{self._fields}"
            f"{own_lines(self._exchange)}{framing}{_date(int(time.time()))}{connection}\r\n"
        )
        data = head.encode("latin-1")
        request.writer.output_size += len(data)  # from here on aiohttp answers nothing of its own
        return data


def own_lines(exchange: Exchange) -> str:
    """What every answer to a request says, as lines of its head, each with its line break."""
    lines = f"x-request-id: {exchange.request_id}\r\nServer: gatehouse\r\n"  # aiohttp would name itself
    if exchange.api is _MESSAGES:
        lines += f"request-id: {exchange.request_id}\r\n"  # where Anthropic's clients look for it
    for name, value in exchange.headers.items():
        lines += f"{name}: {value}\r\n"
    return lines + exchange.rate_lines


def own_fields(exchange: Exchange) -> dict[str, str]:
    """The same, for an answer of aiohttp's."""
    return fields_in(own_lines(exchange))


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return f"Date: {formatdate(second, usegmt=True)}\r\n"
