"""A copy of the record on stdout, for whoever reads it; and if that one stops reading, nobody here waits."""

import os
import select
import threading
from collections.abc import Iterator, Sequence

PATIENCE_SECONDS = 0.05
_turn = threading.Lock()  # requests and messages have a writer each, and one stream: their lines do not mix
_CHUNK = 4096  # pipe(7): a pipe that polls as writable takes so much without blocking


class Outlet:
    """Writes lines to a file descriptor that it does not own, which may be a pipe, a terminal or a file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._torn = False  # the last line was cut off
        self._closed = False

    def write(self, lines: Sequence[bytes]) -> int:
        """Write lines without blocking; return how many were taken."""
        taken = 0
        with _turn:
            for chunk, count in _chunks(lines):
                if self._closed or not self._put(b"\n" + chunk if self._torn else chunk):
                    break
                taken += count
        return taken

    def _put(self, data: bytes) -> bool:
        """Write one chunk; False if the reader takes no more."""
        for at in range(0, len(data), _CHUNK):
            events = self._poll.poll(PATIENCE_SECONDS * 1000)
            if not events or not events[0][1] & select.POLLOUT:
                self._torn = self._torn or at > 0
                return False
            try:
                os.write(self._fd, data[at : at + _CHUNK])
            except BrokenPipeError:
                self._closed = True
                return False
            except OSError:  # a full disk, where stdout is a file
                return False
        self._torn = False
        return True


def _chunks(lines: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
    """Whole lines, as many at once as a pipe takes; and how many they are. A longer line is a chunk of its own."""
    chunk, count = bytearray(), 0
    for line in lines:
        if count and len(chunk) + len(line) > _CHUNK:
            yield bytes(chunk), count
            chunk, count = bytearray(), 0
        chunk += line
        count += 1
    if count:
        yield bytes(chunk), count
