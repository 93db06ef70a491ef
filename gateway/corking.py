"""Writes that leave together: requests and whole answers of a turn of the event loop go out at its end, in one go.

A write to a socket wakes the process at its other end, and where that sleeps on a core of its own, waking it costs as
much as the write. One turn serves many connections with the same few processes at their ends, the engine and nginx, and
each is asleep again by the next write if that comes only after the work for the next request or chunk. Held back until
that work is done and then written one right after the other, the first wakes them and the rest finds them awake. Where
an engine's step gives many streams a chunk each, this saves nothing, and the chunks would wait: they are not held back.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

MOST_HELD = 64  # writes; the first of more would wait longer for the last than waking is worth
LARGE_BYTES = 16 * 1024  # a write of so many takes long enough by itself


class Cork:
    """Holds back the writes of one turn of the event loop."""

    def __init__(self) -> None:
        self._held: list[tuple[asyncio.Transport, bytes]] = []
        self._is_scheduled = False

    def hold(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write `data`, after all that is held already, before the event loop waits again."""
        held = self._held
        held.append((transport, data))
        if len(held) >= MOST_HELD or len(data) >= LARGE_BYTES:
            self.release()
        elif not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_scheduled = False
        self.release()

    def release(self) -> None:
        """Write all that is held, but for connections that were lost meanwhile."""
        held, self._held = self._held, []
        for transport, data in held:
            if not transport.is_closing():
                transport.write(data)


class _CorkedTransport:
    """A transport whose writes a cork holds back; what ends it comes after them."""

    __slots__ = ("below", "cork", "get_write_buffer_size", "is_closing")

    def __init__(self, transport: asyncio.Transport, cork: Cork) -> None:
        self.below = transport
        self.cork = cork
        # asked for several times a request: without a call of ours between. What is held is no sign of a slow reader
        self.is_closing = transport.is_closing
        self.get_write_buffer_size = transport.get_write_buffer_size

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)

    def write(self, data: bytes) -> None:
        self.cork.hold(self.below, data)

    def writelines(self, list_of_data: Iterable[bytes]) -> None:
        self.cork.hold(self.below, b"".join(list_of_data))

    def write_eof(self) -> None:
        self.cork.release()
        self.below.write_eof()

    def close(self) -> None:
        self.cork.release()
        self.below.close()

    def abort(self) -> None:
        self.cork.release()
        self.below.abort()


def corked(transport: asyncio.BaseTransport, cork: Cork) -> asyncio.Transport:
    """The transport, but for writes, which `cork` holds back."""
    return cast("asyncio.Transport", _CorkedTransport(cast("asyncio.Transport", transport), cork))


def uncorked(transport: asyncio.Transport) -> asyncio.Transport:
    """The transport below one that is corked, now that all that was held is written: its writes leave at once."""
    if not isinstance(transport, _CorkedTransport):
        return transport
    transport.cork.release()
    return transport.below
