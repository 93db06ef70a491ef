"""A file of lines that outlives what happens to log files: rotation by us or by logrotate, deletion, a full disk.

Several processes may write the same file: each batch is written under flock(2), to the file that now bears the name.
"""

import contextlib
import fcntl
import os
import time
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

LOCK_SECONDS = 1.0  # others hold the lock for one write
WRITE_BYTES = 1024 * 1024  # at once, about: what waits for a full disk is not copied as a whole at each try


class LogFile:
    """Appends whole lines; used from one thread."""

    def __init__(self, path: Path, *, max_bytes: int, keep: int) -> None:
        """The file is rotated before it would exceed `max_bytes`; `keep` old ones are kept as NAME.1 … NAME.keep."""
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._fd = -1

    def append(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Write lines (each with its newline). Returns how many are in the file, and what stopped the rest.

        No half line stays behind: what a full disk cut off is cut back to the last whole line.
        """
        done = 0
        while done < len(lines):
            try:
                size = self._lock()
                if size and size + len(lines[done]) > self._max_bytes:
                    self._rotate()
                    continue
                written, error = self._write(lines[done:], size)
                done += written
            except OSError as problem:
                error = problem
            finally:
                self._unlock()
            if error is not None:
                self.close()
                return done, error
        return done, None

    def close(self) -> None:
        """Close the file; the next append opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lock(self) -> int:
        """Open and lock the file that bears the name now, and return its size."""
        while True:
            if self._fd < 0:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._flock()
            ours = os.fstat(self._fd)
            with contextlib.suppress(FileNotFoundError):
                theirs = self._path.stat()
                if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino):
                    return ours.st_size
            self.close()

    def _flock(self) -> None:
        """Wait for the lock, but not for ever: its holder may have been stopped. Raises BlockingIOError."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(LOCK_SECONDS / 100)

    def _unlock(self) -> None:
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _write(self, lines: Sequence[bytes], size: int) -> tuple[int, OSError | None]:
        """Write as many lines as fit below max_bytes and WRITE_BYTES, at least one."""
        ends = list(accumulate(map(len, lines)))
        count = bisect_right(ends, min(self._max_bytes - size, WRITE_BYTES)) or 1
        batch = memoryview(b"".join(lines[:count]))
        written = 0
        try:
            while written < len(batch):
                written += os.write(self._fd, batch[written:])
        except OSError as error:
            whole = bisect_right(ends, written)
            with contextlib.suppress(OSError):  # not every file can be cut: a device
                os.ftruncate(self._fd, size + (ends[whole - 1] if whole else 0))
            return whole, error.with_traceback(None)  # which would keep the batch in memory
        return count, None

    def _rotate(self) -> None:
        """NAME.4 → NAME.5, … NAME → NAME.1; the next `_lock` makes a new NAME."""
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._old(number).replace(self._old(number + 1))
        self._path.replace(self._old(1))

    def _old(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
