"""The Responses API: usage only in `response.completed` and its kin, no `[DONE]`, sequence numbers.

vLLM cuts the connection without any event when its engine dies (vllm facts, "HTTP").
"""

import msgspec

from gateway.context import Usage
from gateway.dialects.events import payloads
from gateway.usage import StreamMeter

_LAST = {"response.completed", "response.incomplete", "response.failed"}


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None

    def to_usage(self) -> Usage:
        inputs, outputs = self.input_tokens_details, self.output_tokens_details
        return Usage(
            prompt_tokens=self.input_tokens,
            completion_tokens=self.output_tokens,
            cached_tokens=(inputs.cached_tokens or 0) if inputs else 0,
            reasoning_tokens=(outputs.reasoning_tokens or 0) if outputs else 0,
        )


class _Response(msgspec.Struct):
    id: str = ""
    usage: _Usage | None = None


class _Event(msgspec.Struct):
    type: str = ""
    sequence_number: int = 0
    delta: str | None = None
    message: str | None = None
    response: _Response | None = None


_event_decoder = msgspec.json.Decoder(_Event)
_response_decoder = msgspec.json.Decoder(_Response)


def answer_usage(body: bytes) -> Usage | None:
    """Usage of an answer in one piece; None where it carries none."""
    try:
        usage = _response_decoder.decode(body).usage
    except msgspec.MsgspecError:
        return None
    return usage.to_usage() if usage else None


def response_id(body: bytes) -> str | None:
    """Id of an answer in one piece, by which its owner may fetch it again."""
    try:
        return _response_decoder.decode(body).id or None
    except msgspec.MsgspecError:
        return None


class ResponsesMeter(StreamMeter):
    """Meter of a Responses stream. Until the last event its usage is unknown, only the text is."""

    def __init__(self) -> None:
        super().__init__()
        self.response_id: str | None = None
        self._text: list[str] = []

    @property
    def exact(self) -> bool:
        """Only the last event has the figures."""
        return self.finished

    def unmetered(self) -> list[str]:
        """Everything generated so far, until the engine's own figure is here."""
        return [] if self.finished else self._text

    def _events(self, events: bytes) -> bytes:
        for end, payload in payloads(events):
            try:
                event = _event_decoder.decode(payload)
            except msgspec.MsgspecError:
                continue
            self.sequence_number = event.sequence_number + 1
            if event.delta is not None:
                self.started = True
                self._text.append(event.delta)
            elif event.type in _LAST:
                self._finish(event)
            elif event.type == "error":
                self.error = event.message or "an error without a message"
                return events[: events.rfind(b"event:", 0, end)]
            elif event.response is not None:
                self.response_id = event.response.id or None
        return events

    def _finish(self, event: _Event) -> None:
        self.started = self.finished = True
        if event.response is not None and event.response.usage is not None:
            self.usage = event.response.usage.to_usage()
