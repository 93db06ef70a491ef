"""The writer of the record: a bounded queue, and one thread that empties it.

What does not fit into the queue, or on the disk, is counted and announced, never waited for.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gateway.config import LoggingSettings
from gateway.context import Exchange
from gateway.logs.bodies import LineWithBodies
from gateway.logs.file import LogFile
from gateway.logs.line import LogLine
from gateway.logs.outlet import Outlet
from gateway.logs.redaction import Redactor
from gateway.timing import Timing

_log = logging.getLogger("gatehouse.logs")

RETRY_SECONDS = 1.0  # between two tries at a file that cannot be written
BODIES_BYTES = 32 * 1024 * 1024  # of prompts and answers that wait
CLOSE_SECONDS = 10.0  # for the last lines, on close


class Line(Protocol):
    """What can stand in the record: a request, or a message."""

    def json(self) -> bytes:
        """As the file has it."""
        ...

    def shown(self, form: str, record: bytes) -> bytes:
        """As the stream has it, in this form; `record` is what `json` gave."""
        ...


class RecordWriter:
    """Takes lines from the event loop, writes them from a thread: to the file, and to a stream if there is one."""

    gather_seconds = 0.02  # one write instead of many

    def __init__(
        self,
        settings: LoggingSettings,
        state_dir: Path,
        *,
        on_drop: Callable[[str, int], None],
        outlet: Outlet | None,
        what: str,
    ) -> None:
        """`what` is written, for people: requests and messages have a writer each.

        `on_drop(sink, lines)` is called, from any thread, for what `queue`, `file` or `stdout` could not take.
        """
        self._what = what
        self._settings = settings
        self._most = settings.queue_lines
        self._file = LogFile(
            settings.file or state_dir / "requests.jsonl", max_bytes=settings.max_bytes, keep=settings.keep_files
        )
        self._on_drop = on_drop
        self._outlet = outlet
        self._queue: deque[tuple[Line, bool, int]] = deque()  # whether the stream shows it; its weight
        self._pending: list[bytes] = []  # lines that the file has not taken yet
        self._weights: list[int] = []  # theirs
        self._entered, self._left = 0, 0  # weight: the one is written by the event loop, the other by the thread
        self._lost = 0  # since the file last could be written
        self._failing = False
        self._overflowing = False
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)

    def start(self) -> None:
        """Start the writer."""
        self._thread.start()

    @property
    def burden(self) -> int:
        """The weight of the lines that wait."""
        return self._entered - self._left

    def put(self, line: Line, *, shown: bool = True, weight: int = 0) -> None:
        """Queue a line; `weight` is what it takes in memory beyond an ordinary one, in bytes. Never waits."""
        if len(self._queue) >= self._most:
            self._refuse()
            return
        self._entered += weight
        self._queue.append((line, shown, weight))
        if not self._wake.is_set():
            self._wake.set()

    def _refuse(self) -> None:
        """Count a line that the queue does not take; the first of them is announced."""
        if not self._overflowing:
            self._overflowing = True
            _log.error(
                "log: %s come faster than they can be written; those that find the queue full are dropped", self._what
            )
        self._on_drop("queue", 1)

    def finish(self) -> None:
        """Write what is queued, then stop. Waits for the disk, but no longer than CLOSE_SECONDS."""
        self._stop.set()
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(RETRY_SECONDS if self._pending else None)
            self._stop.wait(self.gather_seconds)
            self._wake.clear()
            self._overflowing = False
            try:
                self._turn()
            except Exception:  # noqa: BLE001 - whatever it was, the next lines shall be written
                _log.exception("log: lines were lost to an error in the writer, which goes on")
        self._turn()
        if self._pending:
            self._drop("file", len(self._pending))
            _log.error(
                "log: %d lines of %s are lost: the file could not be written before the end",
                len(self._pending),
                self._what,
            )
        self._file.close()

    def _turn(self) -> None:
        """Write all that is there."""
        lines = [self._queue.popleft() for _ in range(len(self._queue))]
        records = [line.json() for line, _, _ in lines]
        if self._outlet:
            form = self._settings.format
            shown = [line.shown(form, record) for record, (line, told, _) in zip(records, lines, strict=True) if told]
            if refused := len(shown) - self._outlet.write(shown):
                self._drop("stdout", refused)
        self._pending += records
        self._weights += [weight for _, _, weight in lines]
        done, error = self._file.append(self._pending)
        self._let_go(done)
        if error is not None and not self._failing:
            self._failing = True
            _log.error(
                "log: %s cannot be written to the file: %s; the newest %d lines wait for it, others will be lost",
                self._what, error, self._settings.queue_lines,
            )  # fmt: skip
        if error is None and self._failing:
            self._failing = False
            _log.warning("log: %s are written to the file again; %d lines were lost", self._what, self._lost)
            self._lost = 0
        surplus = len(self._pending) - self._settings.queue_lines
        if surplus > 0:
            self._let_go(surplus)
            self._lost += surplus
            self._drop("file", surplus)

    def _let_go(self, count: int) -> None:
        """Forget the oldest lines that wait for the file."""
        self._left += sum(self._weights[:count])
        del self._pending[:count], self._weights[:count]

    def _drop(self, sink: str, count: int) -> None:
        with contextlib.suppress(Exception):
            self._on_drop(sink, count)


class RequestLog(RecordWriter):
    """The lines of the requests of one gateway; their copy goes to stdout, if that is asked for."""

    gather_seconds = 0.0  # they are gathered when they come (gateway/ended.py)

    def __init__(
        self, settings: LoggingSettings, state_dir: Path, *, on_drop: Callable[[str, int], None], stdout: int = 1
    ) -> None:
        super().__init__(
            settings, state_dir, on_drop=on_drop, outlet=Outlet(stdout) if settings.stdout else None, what="requests"
        )
        self._redactor = Redactor(settings.bodies) if settings.bodies.enabled else None

    def write(self, exchange: Exchange, timing: Timing | None = None) -> None:
        """Queue the line of a request that has ended; `timing` defaults to an end just now. Never waits.

        Where too much waits for the disk already, a line goes without its bodies, which are counted.
        """
        line = LogLine.of(exchange, timing or Timing.of(exchange))
        bodies = exchange.bodies
        if bodies is None or self._redactor is None:
            self.put(line)
        elif self.burden + bodies.weight > BODIES_BYTES:
            self._drop("bodies", 1)
            self.put(line)
        else:
            with_bodies = LineWithBodies(line, bodies, self._redactor, on_stream=self._settings.bodies.stdout)
            self.put(with_bodies, weight=bodies.weight)

    async def close(self) -> None:
        """Finish, while the event loop turns on."""
        await asyncio.to_thread(self.finish)
