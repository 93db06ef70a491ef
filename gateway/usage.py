"""Reading an engine's stream without changing it: whole events, tokens, first token, end, error. Pure, no I/O.

`feed(bytes)` takes what the engine sent, in any split, and returns what the client gets. The same bytes give the same
answer and the same figures however they are cut (tests/unit/gateway/test_usage.py proves it with Hypothesis).

Where each protocol keeps its usage, errors and end is in `gateway/dialects/`.
"""

from abc import ABC, abstractmethod

from gateway.context import Usage

MAX_EVENT_BYTES = 8 * 1024 * 1024


class StreamMeter(ABC):
    """One stream being metered. Subclasses say what an event means in their protocol."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.started = False  # the first event that carries generated output has passed
        self.finished = False  # the protocol's own end was seen
        self.error: str | None = None  # the engine's message, when it ended the stream with an error
        self.sequence_number = 0  # of the next event, where the protocol counts them
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the engine, return those for the client: whole events only, the started one is kept back."""
        if self.error is not None:
            return b""
        data = self._rest + data if self._rest else data
        if data.endswith(b"\n\n"):
            self._rest = b""
            return self._events(data)
        end = _last_event_end(data)
        self._rest = data[end:]
        if len(self._rest) > MAX_EVENT_BYTES:
            self.error = f"an event of more than {MAX_EVENT_BYTES} bytes"
        return self._events(data[:end]) if end else b""

    def end(self) -> bytes:
        """Return what was kept back when the engine's answer is over: bytes that are no whole event."""
        rest, self._rest = self._rest, b""
        return b"" if self.error is not None else rest

    @property
    def exact(self) -> bool:
        """Whether `usage` is the engine's own figure for everything it has sent so far."""
        return True

    def unmetered(self) -> list[str]:
        """Return the generated pieces of text that `usage` does not cover yet, where no running figures come."""
        return []

    @abstractmethod
    def _events(self, events: bytes) -> bytes: ...


def _last_event_end(data: bytes) -> int:
    """Offset after the last whole event; events end with an empty line, of LF or CRLF."""
    return max(
        data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0, data.rfind(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 0
    )


class PlainMeter(StreamMeter):
    """A stream of a protocol that is not metered: passes as it is, and the end of the answer is its end."""

    def end(self) -> bytes:
        """Return what was kept back."""
        self.finished = True
        return super().end()

    def _events(self, events: bytes) -> bytes:
        self.started = True
        return events
