"""Reads the record (docs/log.md) for people: the newest lines over all its files, and those that come."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

Line = dict[str, Any]
_FOLLOW_SECONDS = 0.2
_BLOCK = 1 << 16


class Record:
    """`path` and its rotated elders, NAME.1 the youngest of them. A file that is not there is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _opened(path)
        self._read = os.fstat(self._file.fileno()).st_size if self._file else 0

    def newest(self, count: int, wanted: Callable[[Line], bool]) -> list[Line]:
        """The last lines that are wanted, oldest first; reads no further back than it must."""
        found: list[Line] = []
        for line in self._backwards():
            if wanted(line):
                found.append(line)
                if len(found) == count:
                    break
        return found[::-1]

    def follow(self) -> Iterator[Line]:
        """The lines that come after what `newest` could see, for ever; through rotation and deletion."""
        part = b""
        while True:
            data = self._more()
            *whole, part = (part + data).split(b"\n")
            yield from (line for text in whole if (line := _parsed(text)) is not None)
            if not data and not self._next_file():
                time.sleep(_FOLLOW_SECONDS)

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def _more(self) -> bytes:
        if self._file is None:
            return b""
        if os.fstat(self._file.fileno()).st_size < self._read:  # cut, as copytruncate does
            self._read = 0
        self._file.seek(self._read)
        data = self._file.read(_BLOCK)
        self._read += len(data)
        return data

    def _next_file(self) -> bool:
        """Go on to the file that bears the name now, if that is another one."""
        fresh = _opened(self._path)
        if fresh is None:
            return False
        if self._file is not None and os.path.sameopenfile(fresh.fileno(), self._file.fileno()):
            fresh.close()
            return False
        self.close()
        self._file, self._read = fresh, 0
        return True

    def _backwards(self) -> Iterator[Line]:
        if self._file is not None:
            yield from _lines_backwards(self._file, self._read)
        number = 1
        while (elder := _opened(self._path.with_name(f"{self._path.name}.{number}"))) is not None:
            with elder:
                yield from _lines_backwards(elder, os.fstat(elder.fileno()).st_size)
            number += 1


def _opened(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _lines_backwards(file: BinaryIO, size: int) -> Iterator[Line]:
    """The lines of the first `size` bytes, last first; what is no whole line is passed over."""
    rest = b""  # the end of a line whose beginning lies further ahead
    while size > 0:
        start = max(0, size - _BLOCK)
        file.seek(start)
        first, *others = (file.read(size - start) + rest).split(b"\n")
        for text in reversed(others):
            if (line := _parsed(text)) is not None:
                yield line
        rest, size = first, start
    if (line := _parsed(rest)) is not None:
        yield line


def _parsed(text: bytes) -> Line | None:
    try:
        line = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return line if isinstance(line, dict) and (is_request(line) or "message" in line) else None


def is_request(line: Line) -> bool:
    """Whether a line is a request's; the others are messages."""
    return "request_id" in line
