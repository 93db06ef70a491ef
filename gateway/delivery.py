"""The client's side of one streamed answer: nothing is sent before there is something to send.

A stream ends in good order (`finish`), or with an error event and a closed connection (`fail`), never in between: the
end of the chunked coding is what tells a client that the answer is whole.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from aiohttp import web

from gateway.answer import Answer
from gateway.connections.client import ClientConnection
from gateway.context import Api, Exchange
from gateway.corking import uncorked
from gateway.errors import GatewayError, stream_error

# A browser that learns of the broken connection together with the last event throws the event away: Chromium did so
# in 3 of 30 tries without a pause, in none of 30 with 5 ms or more.
LINGER_SECONDS = 0.05
BEHIND_BYTES = 64 * 1024  # a client that has left so much untaken is waited for; asyncio's own high-water mark


class ClientGone(Exception):
    """The client closed the connection, or reads nothing any more."""


class Recipient(Protocol):
    """Who gets a streamed answer. `response` is None as long as nothing of it was given out: until then, and only
    then, the request may be sent to another engine, and an error may be raised in place of an answer.
    """

    @property
    def response(self) -> web.StreamResponse | None:
        """The answer as far as it has begun."""
        ...

    def when_gone(self, do: Callable[[], None] | None) -> None:
        """What is to be done the moment it is gone, before its task is cancelled; None: nothing any more."""
        ...

    def offer(self, data: bytes, fields: str) -> bool:
        """Take whole events if that needs no waiting. `fields`: lines of the answer's head. False: took nothing."""
        ...

    async def write(self, data: bytes, fields: str) -> None:
        """Take them, waiting if need be. Raises ClientGone."""
        ...

    async def finish(self, data: bytes, fields: str) -> None:
        """Take the last events: the answer is whole. Raises ClientGone."""
        ...

    async def fail(self, error: GatewayError, sequence_number: int) -> None:
        """The answer broke off, with this error."""
        ...

    def drop(self) -> None:
        """Cut, and throw away what was not taken yet."""
        ...

    def cut(self) -> None:
        """There will be no more."""
        ...


class Delivery:
    """The client's side of one stream: nothing is sent before there is something to send."""

    def __init__(self, request: web.Request, exchange: Exchange, api: Api) -> None:
        self._request = request
        self._transport = request.transport
        self._connection = request.protocol
        self._exchange = exchange
        self._api = api
        self.response: Answer | None = None

    def when_gone(self, do: Callable[[], None] | None) -> None:
        """Do this when the client closes the connection."""
        if isinstance(self._connection, ClientConnection):  # under a plain runner there is no such moment
            self._connection.when_gone = do

    def offer(self, data: bytes, fields: str) -> bool:
        """Send bytes if the client keeps up; False, and nothing is sent, if it does not, or is gone."""
        transport = self._transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() > BEHIND_BYTES:
            return False
        self._send(transport, data, fields)
        return True

    async def write(self, data: bytes, fields: str) -> None:
        """Send bytes, as soon as the client has taken what came before. Raises ClientGone."""
        if self.offer(data, fields):
            return
        await self._drain()
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ClientGone("the client closed the connection")
        self._send(transport, data, fields)

    def _send(self, transport: asyncio.Transport, data: bytes, fields: str) -> None:
        """Send them in the coding of the answer; before the first ones its head."""
        self._exchange.bytes_out += len(data)
        response, head = self.response, b""
        if response is None:
            transport = self._transport = uncorked(transport)  # a chunk waits for nothing, not even for its like
            response, head = self._begin(fields)
        transport.write(b"%b%x\r\n%b\r\n" % (head, len(data), data) if response.chunked_coding else head + data)

    def _begin(self, fields: str) -> tuple[Answer, bytes]:
        """The answer, and its head."""
        if "\ncache-control:" not in f"\n{fields.lower()}":
            fields += "Cache-Control: no-cache\r\n"
        fields += "X-Accel-Buffering: no\r\n"  # nginx must not collect a stream
        response = self.response = Answer(self._exchange, 200, fields)
        self._exchange.status = response.status
        return response, response.begin(self._request)

    async def _drain(self) -> None:
        """Wait until the client has taken what was written, but for the last few KiB. Raises ClientGone."""
        try:
            await self._request.writer.drain()  # a client that reads nothing is ended by gateway/connections
        except ConnectionError as error:
            raise ClientGone("the client closed the connection") from error

    async def finish(self, data: bytes, fields: str) -> None:
        """Send what is left and end the stream in good order. Raises ClientGone."""
        if self.response is None or data:
            await self.write(data, fields)
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ClientGone("the client left before the end")
        if self.response is not None and self.response.chunked_coding:
            transport.write(b"0\r\n\r\n")
        if transport.get_write_buffer_size() > BEHIND_BYTES:
            await self._drain()

    async def fail(self, error: GatewayError, sequence_number: int) -> None:
        """Send the error event of the API and close the connection without the end of the stream."""
        event = stream_error(error, self._api, self._exchange.request_id, sequence_number)
        with contextlib.suppress(ClientGone):
            await self.write(event, "")
            await asyncio.sleep(LINGER_SECONDS)
        self.cut()

    def drop(self) -> None:
        """Cut, and throw away what the client has not taken yet."""
        self.cut()
        transport = self._request.transport
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()

    def cut(self) -> None:
        """Close the connection; what was written before still goes out."""
        if self.response is not None:
            self.response.force_close()
        if self._request.transport is not None:
            self._request.transport.close()
