"""Usage: who used what on which day, read from the record into SQL, in batches off the request path.

The record (JSONL) is the only source: what a worker wrote there is counted, however it died and however long SQL was
away. How far a file is counted stands in the same transaction as the sums, so nothing is counted twice, whoever reads:
each worker does, and whoever comes first has done it for all. A file is known by its first line, which is unique: it
may be rotated, renamed, or begin anew under its name.
"""

import asyncio
import datetime as dt
import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO
from zoneinfo import ZoneInfo

import msgspec

from gateway.store import Store, StoreError
from gateway.store.usage import UsageKey, UsageSum

_log = logging.getLogger("gatehouse.usage")

READ_SECONDS = 1.0  # between two looks at the record
BATCH_BYTES = 2 * 1024 * 1024  # in one transaction: some 5,000 lines
BUFFER_BYTES = 64 * 1024
PURGE_SECONDS = 86_400.0
_MINUTE = len("2026-11-22T11:36")


class _Line(msgspec.Struct):
    """What counts of a line."""

    ts: str
    subject: str | None = None
    team: str | None = None
    model: str | None = None
    outcome: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


_decode = msgspec.json.Decoder(_Line).decode


class UsageBook:
    """Keeps the sums up to date."""

    def __init__(self, store: Store, record: Path, keep_files: int, time_zone: str) -> None:
        """`record` is the file that is written now; NAME.1 … NAME.`keep_files` are older ones."""
        self._store = store
        self._files = [record.with_name(f"{record.name}.{number}") for number in range(keep_files, 0, -1)] + [record]
        self._zone: dt.tzinfo = dt.UTC if time_zone == "UTC" else ZoneInfo(time_zone)
        self._seen: dict[Path, tuple[int, int, int]] = {}  # inode, size, time of change when all of it was counted
        self._away = False

    async def run(self) -> None:
        """Read on until cancelled; while SQL is away, try on."""
        purged_at = asyncio.get_running_loop().time()
        while True:
            await self.catch_up_or_say_why()
            await asyncio.sleep(READ_SECONDS)
            if asyncio.get_running_loop().time() - purged_at > PURGE_SECONDS:
                purged_at = asyncio.get_running_loop().time()
                try:
                    await self._store.usage.purge(dt.datetime.now(dt.UTC).timestamp())
                except StoreError as error:
                    _log.info("usage: old positions stay: %s", error)

    async def catch_up_or_say_why(self) -> None:
        """Count what is new; a database or a disk that is away is logged once, and nothing is lost."""
        try:
            await self.catch_up()
        except (StoreError, OSError) as error:
            if not self._away:
                _log.warning("usage cannot be counted now; it stays in the record: %s", error)
            self._away = True
        else:
            if self._away:
                _log.warning("usage is counted again, all of it")
            self._away = False

    async def catch_up(self) -> None:
        """Count everything that the record holds and that is not counted. Raises StoreError or OSError."""
        for path in await asyncio.to_thread(self._changed):
            while await self._count(path):
                pass

    def _changed(self) -> list[Path]:
        return [path for path in self._files if self._seen.get(path) != (mark := _mark(path)) and mark is not None]

    async def _count(self, path: Path) -> bool:
        """Count one batch of a file; whether there is more. What is written meanwhile waits for the next look."""
        mark, name = await asyncio.to_thread(lambda: (_mark(path), _identity(path)))
        if mark is None or name is None:
            return False
        start = await self._store.usage.position(name)
        batch = await asyncio.to_thread(self._read, path, name, start)
        if batch is None:  # it was rotated under our hands
            return True
        end, sums, more = batch
        if end > start and not await self._store.usage.add(name, start, end, sums):  # another worker was faster
            return True
        if not more:
            self._seen[path] = mark
        return more

    def _read(self, path: Path, name: str, start: int) -> tuple[int, dict[UsageKey, UsageSum], bool] | None:
        """The sums of the whole lines from `start` on, where they end, and whether there are more behind them."""
        with path.open("rb", buffering=BUFFER_BYTES) as file:
            if _name(file.readline(BATCH_BYTES)) != name:
                return None
            file.seek(start)
            lines = _WholeLines(file)
            found = sums(lines, self._zone)
        return start + lines.size, found, lines.size >= BATCH_BYTES


class _WholeLines:
    """The next lines of a file, of BATCH_BYTES or a little more; `size` is how many bytes were read of them.

    One after the other: each of the threads that may read would keep the memory that a batch once took.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        while self.size < BATCH_BYTES and (line := self._file.readline(BATCH_BYTES)).endswith(b"\n"):
            self.size += len(line)
            yield line


def sums(lines: Iterable[bytes], zone: dt.tzinfo) -> dict[UsageKey, UsageSum]:
    """Add up lines of the record; those that are no inference request of somebody's, or damaged, count nothing."""
    found: dict[UsageKey, UsageSum] = defaultdict(UsageSum)
    for raw in lines:
        try:
            line = _decode(raw)
            if line.subject is None or line.model is None:
                continue
            # the day of its minute is its day; lines of the same minute come by the thousand
            minute = f"{line.ts[:_MINUTE]}Z" if line.ts.endswith("Z") else line.ts
            total = found[_key(minute, zone, line.subject, line.team, line.model)]
        except (msgspec.MsgspecError, ValueError):
            if raw.strip():
                _log.warning("usage: a line of the record is damaged and counts nothing")
            continue
        if line.outcome == "rejected":
            total.rejected += 1
        else:
            total.requests += 1
        total.prompt_tokens += line.prompt_tokens
        total.cached_tokens += line.cached_tokens
        total.completion_tokens += line.completion_tokens
        total.reasoning_tokens += line.reasoning_tokens
    return dict(found)


@lru_cache(maxsize=1024)
def _key(time: str, zone: dt.tzinfo, subject: str, team: str | None, model: str) -> UsageKey:
    return UsageKey(_day(time, zone), subject, team or "", model)


@lru_cache(maxsize=16)
def _day(time: str, zone: dt.tzinfo) -> str:
    return dt.datetime.fromisoformat(time).astimezone(zone).date().isoformat()


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does; None: there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _identity(path: Path) -> str | None:
    """What a file is known by, whatever its name; None while its first line is not complete."""
    try:
        with path.open("rb") as file:
            return _name(file.readline(BATCH_BYTES))
    except FileNotFoundError:
        return None


def _name(first_line: bytes) -> str | None:
    return hashlib.sha256(first_line).hexdigest() if first_line.endswith(b"\n") else None
