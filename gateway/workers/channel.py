"""What parent and worker tell each other, over a socket pair that the worker inherits: a JSON line each.

The end of the channel means that the other one is gone.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec

from gateway.streak import Streak
from gateway.workers.sums import Family

LONGEST = 64 * 1024 * 1024  # bytes of a line; the figures of a busy worker are some hundred KB


class Order(msgspec.Struct, tag=True):
    """Parent to worker.

    `stop`: drain and end. `hurry`: end now. `retire`: a successor serves; end when nobody is left.
    `reload`: take over plans and limits. `health`, `figures`, `requests`: tell them.
    """

    what: Literal["stop", "hurry", "retire", "reload", "health", "figures", "requests"]


class Serving(msgspec.Struct, tag=True):
    """Worker to parent: it accepts connections."""


class Health(msgspec.Struct, tag=True):
    """Worker to parent: its event loop turns, and why it can serve no request now, if so."""

    why_not_ready: list[str]


class Figures(msgspec.Struct, tag=True):
    """Worker to parent: its metrics. The last ones come unasked, when it has recorded its last request."""

    families: list[Family]
    streak: Streak


class Requests(msgspec.Struct, tag=True):
    """Worker to parent: what it serves now, as the admin listener shows it."""

    requests: list[dict[str, Any]]


Answer = Health | Figures | Requests
Message = Order | Serving | Answer
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode


class Channel:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Channel":
        """Take over one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LONGEST))

    def send(self, message: Message) -> None:
        """Send; whether the other one is still there shows in `messages`."""
        self._writer.write(_encode(message) + b"\n")

    async def messages(self) -> AsyncIterator[Message]:
        """What the other end says, until it is gone."""
        try:
            while line := await self._reader.readline():
                yield _decode(line)
        except (ConnectionError, msgspec.MsgspecError):  # it died in the middle of a line
            return

    async def close(self) -> None:
        """Send what is left to be sent, then close."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
