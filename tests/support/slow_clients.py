"""Clients that mean harm by doing almost nothing: heads that never end, answers that nobody reads."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass, field

RECEIVE_BYTES = 4096  # what a stalled reader's kernel takes unread, at least (it doubles it)
FIRST, LAST = 2, 9  # of 127.0.0.N: addresses that attackers come from


@dataclass
class Ended:
    """How long each connection was let live, in seconds, and what it was told."""

    seconds: list[float] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)


def _socket(number: int, receive: int | None = None) -> socket.socket:
    wire = socket.socket()
    if receive is not None:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    wire.setblocking(False)
    wire.bind((f"127.0.0.{FIRST + number % (LAST - FIRST + 1)}", 0))
    return wire


async def slow_loris(port: int, number: int, ended: Ended, every: float = 2.0) -> None:
    """Send a head byte by byte until the other side has enough of it."""
    loop = asyncio.get_running_loop()
    with _socket(number) as wire:
        await loop.sock_connect(wire, ("127.0.0.1", port))
        start = time.monotonic()
        reading = asyncio.create_task(_rest(wire))
        try:
            await loop.sock_sendall(wire, b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            while not reading.done():
                await asyncio.wait({reading}, timeout=every)
                await loop.sock_sendall(wire, b"x")
        except OSError:
            pass
        finally:
            reading.cancel()
        ended.seconds.append(time.monotonic() - start)
        with contextlib.suppress(asyncio.CancelledError):
            ended.answers.append(await reading)


async def stalled_reader(port: int, number: int, request: bytes, ended: Ended) -> None:
    """Ask for much, read nothing, and wait until the other side has enough of it."""
    loop = asyncio.get_running_loop()
    with _socket(number, RECEIVE_BYTES) as wire:
        await loop.sock_connect(wire, ("127.0.0.1", port))
        start = time.monotonic()
        await loop.sock_sendall(wire, request)
        while not _is_reset(wire):
            await asyncio.sleep(0.5)
        ended.seconds.append(time.monotonic() - start)


async def _rest(wire: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(OSError):
        while part := await asyncio.get_running_loop().sock_recv(wire, 4096):
            data += part
    return data


def _is_reset(wire: socket.socket) -> bool:
    """Whether the other side has ended the connection, without reading what is there."""
    return wire.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0 or _state(wire) not in {1, 4, 5}


def _state(wire: socket.socket) -> int:
    """TCP_INFO's first byte: 1 is ESTABLISHED, 4 and 5 FIN_WAIT, 7 CLOSE, 8 CLOSE_WAIT."""
    return wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
