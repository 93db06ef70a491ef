"""The process's own messages: stdlib logging, set up in one place, into the record."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from gateway.config import LoggingSettings
from gateway.logs.message import Message
from gateway.logs.outlet import Outlet
from gateway.logs.writer import RecordWriter

STDOUT, STDERR = 1, 2


class _IntoRecord(logging.Handler):
    """Queues messages for the record."""

    def __init__(self, writer: RecordWriter, source: str, *, told_elsewhere: str | None) -> None:
        super().__init__()
        self._writer = writer
        self._source = source
        self._told_elsewhere = told_elsewhere

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = Message.of(record, self._source)
        except Exception:  # noqa: BLE001 - a message that cannot be formatted; stdlib's way is to say so on stderr
            self.handleError(record)
            return
        told = record.levelno < logging.WARNING and record.name.partition(".")[0] == self._told_elsewhere
        self._writer.put(message, shown=not told)


@contextlib.contextmanager
def process_log(
    settings: LoggingSettings, state_dir: Path, source: str, *, told_elsewhere: str | None = None
) -> Iterator[None]:
    """Send the messages of this process to the record's file and stream; replaces what was set up before.

    The stream is stdout, where the requests are, or stderr, where `logging.stdout` is off. What a logger below
    `told_elsewhere` says, and is no warning, is for the file only.
    """
    outlet = Outlet(STDOUT if settings.stdout else STDERR)
    writer = RecordWriter(settings, state_dir, on_drop=lambda _sink, _count: None, outlet=outlet, what="messages")
    handler = _IntoRecord(writer, source, told_elsewhere=told_elsewhere)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # its notes on how it was set up help nobody
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
    writer.start()
    try:
        yield
    finally:
        logging.basicConfig(handlers=[logging.StreamHandler()], level=settings.level.upper(), force=True)
        writer.finish()
