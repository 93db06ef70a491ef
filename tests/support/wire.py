"""A bare connection: bytes out, answers in, whatever they are; nothing is lost when the other side resets."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from typing import Any

DEADLINE = 60.0


@dataclass
class Answer:
    """One HTTP answer."""

    status: int
    fields: dict[str, str]  # names in lower case; of several the last
    body: bytes


class Wire(asyncio.Protocol):
    """One connection. `await Wire.open(port)`."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.closed = False
        self._news = asyncio.Event()
        self.transport: Any = None

    @classmethod
    async def open(
        cls, port: int, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", source: str | None = None
    ) -> Wire:
        """Connect; with TLS under the name `localhost`."""
        _, wire = await asyncio.get_running_loop().create_connection(
            cls,
            host,
            port,
            ssl=tls,
            server_hostname="localhost" if tls else None,
            local_addr=(source, 0) if source else None,
        )
        return wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._news.set()

    def send(self, data: bytes) -> None:
        """Send; what a closed connection does not take is lost."""
        if not self.closed:
            self.transport.write(data)

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    async def something(self, seconds: float) -> None:
        """Wait until anything has come, or the connection is closed, or so long."""
        if not self.received and not self.closed:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()

    async def answer(self, *, bodiless: bool = False) -> Answer | None:
        """The next answer that is not an interim one; None when the connection closes without one."""
        while True:
            if not await self._until(lambda: b"\r\n\r\n" in self.received):
                return None
            head, _, rest = bytes(self.received).partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            if status >= 200 or status == 101:
                break
            self.received = bytearray(rest)
        del self.received[: len(head) + 4]
        body = b"" if bodiless or status in {101, 204, 304} else await self._body(fields)
        return Answer(status, fields, body)

    async def rest(self) -> bytes:
        """All that comes until the other side closes."""
        await self._until(lambda: False)
        return bytes(self.received)

    async def _body(self, fields: dict[str, str]) -> bytes:
        if fields.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self._line(), 16):
                body += (await self._take(size + 2))[:-2]
            await self._line()
            return body
        if "content-length" in fields:
            return await self._take(int(fields["content-length"]))
        await self._until(lambda: False)
        return await self._take(len(self.received))

    async def _line(self) -> bytes:
        await self._until(lambda: b"\r\n" in self.received)
        return (await self._take(self.received.index(b"\r\n") + 2))[:-2]

    async def _take(self, count: int) -> bytes:
        assert await self._until(lambda: len(self.received) >= count), "the answer was cut"
        taken = bytes(self.received[:count])
        del self.received[:count]
        return taken

    async def _until(self, done: Any) -> bool:
        """Wait until `done()`, or until nothing more can come; whether it is done."""
        async with asyncio.timeout(DEADLINE):
            while not done() and not self.closed:
                self._news.clear()
                await self._news.wait()
        return bool(done())
