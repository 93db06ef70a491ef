"""The process's own messages: stdlib logging, set up in one place, in the form of the record."""

import datetime as dt
import logging

import msgspec

from gateway.config import LoggingSettings
from gateway.logs.line import clean, redact, timestamp


class _JsonFormatter(logging.Formatter):
    """The process's messages in the form of the record: one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "ts": timestamp(record.created),
            "level": record.levelname.lower(),
            "source": record.name,
            "message": clean(record.getMessage(), 4096),
        }
        if record.exc_info:
            fields["exception"] = redact(self.formatException(record.exc_info))
        return msgspec.json.encode(fields).decode()


class _ConsoleFormatter(logging.Formatter):
    """The process's messages for people."""

    def format(self, record: logging.LogRecord) -> str:
        when = dt.datetime.fromtimestamp(record.created)  # noqa: DTZ006 - the reader's own time
        line = f"{when:%H:%M:%S} {record.levelname.lower():7} {record.name}: {clean(record.getMessage(), 4096)}"
        if record.exc_info:
            line += "\n" + redact(self.formatException(record.exc_info))
        return line


def setup_process_logging(settings: LoggingSettings) -> None:
    """Send the messages of this process to stderr, in the record's form; replaces what was set up before."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if settings.format == "json" else _ConsoleFormatter())
    logging.getLogger("alembic").setLevel(logging.WARNING)  # its notes on how it was set up help nobody
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
