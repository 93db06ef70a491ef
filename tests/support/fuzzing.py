"""Bytes that nobody has thought of: mutations of the attack corpus, thrown at a listener.

    mutator = Mutator(seeds, seed=1)
    found = await fuzz(connect, mutator, seconds=30)
    assert not found.server_errors

The mutations are those of radamsa's kind: bits, spans, lines, numbers and whole requests are changed, repeated, exchanged
and put together; half of the time the length is set right again, so that what is behind the framing is reached, too.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from tests.support.wire import Wire

ANSWER_SECONDS = 0.25
# by design: more people are signing in at once than passwords can be hashed
BY_DESIGN = (b'"code":"login_busy"',)
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_NUMBER = re.compile(rb"\d+")
_LENGTH = re.compile(rb"(?i)content-length: *\d+")
_WORDS = (
    b"\r\n", b"\n", b"\r", b"\0", b"\t", b" ", b":", b";", b",", b"%00", b"%2f", b"..", b"//", b"\\", b"\xff", b"\xc0\xaf",
    b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\r\n\r\n", b"0\r\n\r\n", b"ffffffffffffffff", b"-1", b"1e400", b"NaN",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 0\r\n", b"Connection: close\r\n", b"Connection: Upgrade\r\n",
    b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"Host: evil\r\n", b"HTTP/1.0", b"HTTP/2.0", b"HEAD", b"OPTIONS",
    b'"', b"{", b"}", b"[", b"]", b"null", b"true", b"\\ud800", b"\\u0000", b'"stream":true,', b'"n":9,', b'"x":{"url":"http://x"},',
    b"[" * 200, b'{"a":' * 100, b"A" * 5000, b"9" * 400,
)  # fmt: skip


class Mutator:
    """An endless supply of changed requests; the same seed gives the same ones."""

    def __init__(self, seeds: Sequence[bytes], seed: int, most_bytes: int = 200_000) -> None:
        self._seeds = [each for each in seeds if len(each) <= most_bytes]
        self._random = random.Random(seed)
        self._most = most_bytes

    def next(self) -> bytes:
        """One of them."""
        pick = self._random
        data = pick.choice(self._seeds)
        for _ in range(pick.choice((1, 1, 2, 3, 6))):
            data = pick.choice(_CHANGES)(data, self)[: self._most]
        return _with_length(data) if pick.random() < 0.5 else data

    def span(self, data: bytes) -> tuple[int, int]:
        """A part of it, mostly a short one."""
        start = self._random.randrange(len(data) + 1)
        return start, min(len(data), start + self._random.choice((0, 1, 2, 4, 16, 64, 1024)))

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return data
        at = self._random.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << self._random.randrange(8))]) + data[at + 1 :]

    def _drop(self, data: bytes) -> bytes:
        start, end = self.span(data)
        return data[:start] + data[end:]

    def _repeat(self, data: bytes) -> bytes:
        start, end = self.span(data)
        return data[:end] + data[start:end] * self._random.choice((1, 2, 8, 200)) + data[end:]

    def _insert(self, data: bytes) -> bytes:
        at = self._random.randrange(len(data) + 1)
        return data[:at] + self._random.choice(_WORDS) + data[at:]

    def _number(self, data: bytes) -> bytes:
        found = list(_NUMBER.finditer(data))
        if not found:
            return data
        match = self._random.choice(found)
        value = self._random.choice(
            (b"0", b"-1", b"1", b"256", b"65536", b"4294967296", b"18446744073709551616", b"1e9")
        )
        return data[: match.start()] + value + data[match.end() :]

    def _splice(self, data: bytes) -> bytes:
        other = self._random.choice(self._seeds)
        return data[: self._random.randrange(len(data) + 1)] + other[self._random.randrange(len(other) + 1) :]

    def _behind(self, data: bytes) -> bytes:
        return data + self._random.choice(self._seeds)

    def _lines(self, data: bytes) -> bytes:
        head, end, body = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        first, second = (self._random.randrange(len(lines)) for _ in range(2))
        lines[first], lines[second] = lines[second], lines[first]
        if self._random.random() < 0.3:
            lines.insert(first, lines[second])
        return b"\r\n".join(lines) + end + body

    def _cut(self, data: bytes) -> bytes:
        return data[: self._random.randrange(len(data) + 1)]


_CHANGES: tuple[Callable[[bytes, Mutator], bytes], ...] = tuple(
    lambda data, mutator, change=change: change(mutator, data)  # type: ignore[misc]
    for change in (
        Mutator._flip, Mutator._drop, Mutator._repeat, Mutator._insert, Mutator._insert, Mutator._number, Mutator._splice,
        Mutator._behind, Mutator._lines, Mutator._cut,
    )
)  # fmt: skip


def _with_length(data: bytes) -> bytes:
    head, end, body = data.partition(b"\r\n\r\n")
    return _LENGTH.sub(b"Content-Length: %d" % len(body), head, count=1) + end + body


@dataclass
class Found:
    """What came of it."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    server_errors: list[tuple[bytes, bytes]] = field(default_factory=list)  # what was sent, what came
    refused: int = 0  # connections that could not be made

    def add(self, data: bytes, received: bytes) -> None:
        """Count one connection."""
        self.sent += 1
        statuses = [int(each) for each in _STATUS.findall(received)]
        self.statuses.update(statuses)
        if any(each >= 500 for each in statuses) and not any(known in received for known in BY_DESIGN):
            self.server_errors.append((data, received))


async def fuzz(
    connect: Callable[[], Awaitable[Wire]], mutator: Mutator, *, seconds: float, parallel: int = 16
) -> Found:
    """Send mutations, each on a connection of its own, for so long."""
    found, ends = Found(), time.monotonic() + seconds

    async def go_on() -> None:
        while time.monotonic() < ends:
            data = mutator.next()
            try:
                wire = await connect()
            except OSError:
                found.refused += 1
                continue
            wire.send(data)
            await wire.something(ANSWER_SECONDS)
            wire.abort()
            found.add(data, bytes(wire.received))

    async with asyncio.TaskGroup() as group:
        for _ in range(parallel):
            group.create_task(go_on())
    return found
