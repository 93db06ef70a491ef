"""An answer of the engine on its way to the client, head and body written to the transport in one go.

aiohttp's own responses build and write the same in several steps, which take more CPU time than all that the gateway
does with a chunk. aiohttp still reads requests, keeps connections and knows when a client has left.
"""

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.http_writer import _serialize_headers
from aiohttp.web_request import BaseRequest
from multidict import CIMultiDict

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_BODILESS = frozenset({204, 304})  # RFC 9110, sections 15.3.5 and 15.4.5


class Answer(web.StreamResponse):
    """`prepare` writes it, which aiohttp calls when the handler returns; `begin` before that starts a stream."""

    def __init__(self, status: int, headers: CIMultiDict[str], more: str = "", body: bytes = b"") -> None:
        """`more`: further lines of the head, each with its line break, made here: nothing a client said is in them."""
        super().__init__(status=status)
        self._headers = headers
        self._more = more
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
        if self.chunked_coding:
            self._headers["Transfer-Encoding"] = "chunked"
        else:
            self.force_close()
        head = self._head(request)
        self._headers = CIMultiDict()  # a stream would keep them to its end: 3 KB, which nobody asks for
        self._more = ""
        return head

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Write head and body, unless a stream was begun. Raises ConnectionError."""
        if self._begun:
            return None
        if self.status not in _BODILESS:
            self._headers["Content-Length"] = str(len(self.body))
        data = self._head(request) + self.body
        if request.transport is None or request.transport.is_closing():
            raise ConnectionResetError("the client closed the connection")
        request.transport.write(data)
        if request.transport.get_write_buffer_size():
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: it is all written."""

    def _head(self, request: BaseRequest) -> bytes:
        self._begun = True
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        headers = self._headers
        headers["Date"] = _date(int(time.time()))
        if not self._keep_alive:
            headers["Connection"] = "close"
        elif request.version == HttpVersion10:
            headers.setdefault("Connection", "keep-alive")
        version, status = request.version, self.status
        line = f"HTTP/{version.major}.{version.minor} {status} {_REASONS.get(status, '')}"
        data = _serialize_headers(line, headers)  # ValueError for a field with a line break in it
        if self._more:
            data = b"%b%b\r\n" % (data[:-2], self._more.encode("ascii"))
        request.writer.output_size += len(data)  # from here on aiohttp answers nothing of its own
        return data


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
