"""The engine's output: pumped to a rotating file, its last lines kept, each line handed on."""

import asyncio
import contextlib
import logging
import os
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)
engine_log = logging.getLogger("engine")  # what the engine itself says

_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 16
_LEVELS = {"WARNING": logging.WARNING, "ERROR": logging.ERROR, "CRITICAL": logging.CRITICAL}
_LEVEL = re.compile(rf"\b({'|'.join(_LEVELS)})\b")
_SHOWN = 300  # characters of a line that is passed on; the file has all of it
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class LogFile:
    """A file that is rotated at a size. A full disk costs the log, not the engine: a pump that stops would block it."""

    def __init__(self, path: Path, max_bytes: int, count: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._count = count
        self._failed = False

    def write(self, data: bytes) -> None:
        """Append; errors are logged once, until writing works again."""
        try:
            with open(self._path, "ab", opener=_private) as file:
                size = file.tell() + len(data)
                file.write(data)
            if size > self._max_bytes:
                self._rotate()
        except OSError as error:
            if not self._failed:
                log.warning("the engine's log %s cannot be written: %s", self._path, error)
            self._failed = True
        else:
            self._failed = False

    def _rotate(self) -> None:
        for number in range(self._count, 0, -1):
            newer = self._path.with_name(f"{self._path.name}.{number - 1}") if number > 1 else self._path
            with contextlib.suppress(FileNotFoundError):
                newer.replace(self._path.with_name(f"{self._path.name}.{number}"))


def _plain(line: bytes) -> str:
    return _ANSI.sub("", line.decode(errors="replace"))


def _pass_on(line: str) -> None:
    """Into our own log, at the level that vLLM gives it, shortened; what is no warning only for who debugs."""
    found = _LEVEL.search(line, 0, 80)
    level = _LEVELS[found[1]] if found else logging.DEBUG
    engine_log.log(level, "%s", line if len(line) <= _SHOWN else line[:_SHOWN] + "…")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Output:
    """Reads one pipe. `tail` holds the last lines; `on_line` gets every line and every step of a progress bar."""

    def __init__(self, file: LogFile, on_line: Callable[[str], None], tail_lines: int = 200) -> None:
        self.tail: deque[str] = deque(maxlen=tail_lines)
        self._file = file
        self._on_line = on_line
        self._rest = b""
        self._fd: int | None = None
        self._ended = asyncio.Event()

    def attach(self, fd: int) -> None:
        """Start to read this descriptor, which is closed at its end."""
        os.set_blocking(fd, False)
        self._fd = fd
        asyncio.get_running_loop().add_reader(fd, self._readable)

    def _readable(self) -> None:
        if self._fd is None:
            return
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.feed(data)
        else:
            self.close()

    def feed(self, data: bytes) -> None:
        """Take bytes as they come. Progress bars redraw a line with carriage returns: the last drawing counts."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)
        if len(self._rest) > _LONGEST_LINE:
            self._line(self._rest)
            self._rest = b""
        elif b"\r" in self._rest:
            *drawn, self._rest = self._rest.split(b"\r")
            if drawn:
                self._on_line(_plain(drawn[-1]))

    def _line(self, line: bytes) -> None:
        drawings = [text for text in _plain(line).split("\r") if text.strip()]
        for text in drawings:
            self._on_line(text)
        shown = drawings[-1] if drawings else ""
        self._file.write(shown.encode() + b"\n")
        if shown:
            self.tail.append(shown)
            _pass_on(shown)

    async def ended(self, timeout: float) -> None:  # noqa: ASYNC109 - a deadline by contract, not an error
        """Wait until the pipe's other end is closed by all who held it, at most so many seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), timeout)

    def close(self) -> None:
        """Stop reading."""
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None
            if self._rest:
                self._line(self._rest)
                self._rest = b""
        self._ended.set()
