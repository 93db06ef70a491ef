"""A message of a process: the gateway's, the launcher's, or what the engine printed, as a line of the record."""

import logging

import msgspec

from gateway.logs.line import clean, local_time, timestamp

LONGEST = 4096
ENGINE = "engine"  # the logger that bears what the engine prints


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """`source` says whose it is: `gateway`, `launcher` or `engine`."""

    ts: str
    level: str
    source: str
    pid: int
    logger: str
    message: str
    exception: str | None = None

    @classmethod
    def of(cls, record: logging.LogRecord, source: str) -> "Message":
        """The message that stdlib logging was given in a process of this source."""
        return cls(
            ts=timestamp(record.created),
            level=record.levelname.lower(),
            source=ENGINE if record.name == ENGINE else source,
            pid=record.process or 0,
            logger=record.name,
            message=clean(record.getMessage(), LONGEST),
            exception=_traceback(record),
        )

    def json(self) -> bytes:
        """The line as the file has it."""
        return _encode(self) + b"\n"

    def shown(self, form: str, record: bytes) -> bytes:
        """As the stream has it; `record` is what the file has."""
        return record if form == "json" else self.console()

    def console(self) -> bytes:
        """The line for people, in the reader's own time; a traceback below it."""
        below = "" if self.exception is None else f"\n{self.exception}"
        return f"{local_time(self.ts)} {self.level:7} {self.logger}: {self.message}{below}\n".encode()


_encode = msgspec.json.Encoder().encode


def _traceback(record: logging.LogRecord) -> str | None:
    """Line by line, for what a caller sent may be in it."""
    if not record.exc_info:
        return None
    text = logging.Formatter().formatException(record.exc_info)
    return "\n".join(clean(line, LONGEST) for line in text.splitlines())
