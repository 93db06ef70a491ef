"""One HTTP/2 connection, with nothing hidden: streams side by side, RST_STREAM, GOAWAY as RFC 9113 means it.

async with connection(edge.port, edge.tls_h2, "localhost") as http:
    answer = await http.post("/v1/chat/completions", body, headers)
    async for data in answer: …
    answer.reset()                     # a tab that is closed
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events


class BrokenError(Exception):
    """The stream, or the connection under it, ended before the answer did."""


class Answer:
    """One stream. Iterating gives the body's pieces as they arrive."""

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self._connection, self.id = connection, stream_id
        self._head: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self._pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    async def head(self) -> dict[str, str]:
        """Wait for the header fields; `:status` is among them."""
        return await self._head

    @property
    async def status(self) -> int:
        """The answer's status."""
        return int((await self.head())[":status"])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def read(self) -> bytes:
        """Read all of the body that is to come."""
        return b"".join([piece async for piece in self])

    def reset(self) -> None:
        """Give it up with RST_STREAM, as a browser does for a closed tab."""
        self._connection.h2.reset_stream(self.id, h2.errors.ErrorCodes.CANCEL)
        self._connection.flush()

    def take(self, event: h2.events.Event) -> None:
        """An event of this stream's."""
        match event:
            case h2.events.ResponseReceived():
                self._head.set_result({name.decode(): value.decode() for name, value in event.headers or ()})
            case h2.events.DataReceived():
                self._pieces.put_nowait(event.data or b"")
            case h2.events.StreamEnded():
                self._pieces.put_nowait(None)
            case h2.events.StreamReset():
                self.broken(f"the stream was reset: {event.error_code}")

    def broken(self, why: str) -> None:
        """Nothing more comes."""
        error = BrokenError(why)
        if not self._head.done():
            self._head.set_exception(error)
            self._head.exception()  # nobody may be waiting
        self._pieces.put_nowait(error)


class Connection:
    """One connection and its streams. `goaway`: the server takes no new streams, those that run go on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self.goaway = asyncio.Event()
        self._reader, self._writer, self._authority = reader, writer, authority
        self._streams: dict[int, Answer] = {}
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        """Send what the protocol has to say."""
        self._writer.write(self.h2.data_to_send())

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:  # fmt: skip
        """Send a request; the answer comes later."""
        stream_id = self.h2.get_next_available_stream_id()
        answer = self._streams[stream_id] = Answer(self, stream_id)
        head = {":method": method, ":scheme": "https", ":authority": self._authority, ":path": path}
        fields = [*head.items(), *((name.lower(), value) for name, value in (headers or {}).items())]
        self.h2.send_headers(stream_id, fields, end_stream=not body)
        if body:
            self.h2.send_data(stream_id, body, end_stream=True)
        self.flush()
        return answer

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        """GET."""
        return await self.request("GET", path, headers=headers)

    async def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
        """POST of JSON."""
        kind = {"content-type": "application/json"}
        return await self.request("POST", path, json.dumps(body).encode(), {**kind, **(headers or {})})

    async def receive(self) -> None:
        """Take what comes until the connection ends."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await self._reader.read(65536):
                for event in self.h2.receive_data(data):
                    self._take(event)
                self.flush()
        for answer in self._streams.values():
            answer.broken("the connection was closed")

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaway.set()
            # h2 would call it the end; RFC 9113, section 6.8: streams up to last_stream_id go on
            self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
            return
        if isinstance(event, h2.events.DataReceived):
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        stream_id = getattr(event, "stream_id", None)
        if stream_id in self._streams:
            self._streams[stream_id].take(event)


@contextlib.asynccontextmanager
async def connection(port: int, tls: ssl.SSLContext, domain: str) -> AsyncIterator[Connection]:
    """Connect to a port of loopback as `domain`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=domain)
    try:
        http = Connection(reader, writer, f"{domain}:{port}")
        receiving = asyncio.create_task(http.receive())
        try:
            yield http
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
