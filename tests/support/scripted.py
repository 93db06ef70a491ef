"""An engine that sends exactly the bytes it is told to, cut where it is told to, and records what it got."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field


@dataclass
class Script:
    """One answer: raw bytes in pieces; `then` what happens to the connection."""

    pieces: Iterable[bytes]
    close: bool = False
    abort: bool = False
    hang: bool = False


@dataclass
class ScriptedEngine:
    """`answer(head, body)` decides; `received` is what came."""

    url: str = ""
    answer: Callable[[bytes, bytes], Script] = lambda _head, _body: Script([])
    received: list[tuple[bytes, bytes]] = field(default_factory=list)
    connections: int = 0
    open: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"content-length:")
                    ),
                    0,
                )
                body = await reader.readexactly(length)
                if head.startswith((b"GET /health ", b"GET /metrics ")):
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    continue
                self.received.append((head, body))
                script = self.answer(head, body)
                for piece in script.pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if script.hang:
                    await reader.read()  # until the gateway leaves
                    return
                if script.abort:
                    writer.transport.abort()
                    return
                if script.close:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@contextlib.asynccontextmanager
async def scripted_engine(send_bytes: int | None = None) -> AsyncIterator[ScriptedEngine]:
    """Listen on a free port until the end. `send_bytes` bounds what the kernel takes of an answer nobody reads."""
    engine = ScriptedEngine()
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(engine.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    if send_bytes is not None:  # connections have what their listener has
        server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
    engine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield engine
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def http_answer(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    """An answer with Content-Length."""
    lines = [f"HTTP/1.1 {status}", *fields, f"content-length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def chunked(
    pieces: list[bytes], *fields: str, status: str = "200 OK", end: bytes = b"0\r\n\r\n", extension: str = ""
) -> bytes:
    """An answer in the chunked coding; each piece one chunk."""
    lines = [f"HTTP/1.1 {status}", *fields, "transfer-encoding: chunked"]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    return head + b"".join(f"{len(p):x}{extension}\r\n".encode() + p + b"\r\n" for p in pieces if p) + end
