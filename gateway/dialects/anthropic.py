"""The Messages API: prompt tokens in `message_start`, output tokens in `message_delta`, `event: error`, no `[DONE]`."""

import msgspec

from gateway.context import Usage
from gateway.dialects.events import payloads
from gateway.usage import StreamMeter


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Delta(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _Message(msgspec.Struct):
    usage: _Usage | None = None


class _Error(msgspec.Struct):
    message: str = ""


class _Event(msgspec.Struct):
    type: str = ""
    delta: _Delta | None = None
    message: _Message | None = None
    usage: _Usage | None = None
    error: _Error | None = None


_event_decoder = msgspec.json.Decoder(_Event)
_message_decoder = msgspec.json.Decoder(_Message)


def answer_usage(body: bytes) -> Usage | None:
    """Usage of an answer in one piece; None where it carries none."""
    try:
        usage = _message_decoder.decode(body).usage
    except msgspec.MsgspecError:
        return None
    return _merge(Usage(), usage) if usage else None


def _merge(known: Usage, news: _Usage) -> Usage:
    """Later figures replace earlier ones; a figure that is missing leaves the known one."""
    cached = news.cache_read_input_tokens or 0
    # total input = input_tokens + cache_read + cache_creation; ours, like OpenAI's, is the total
    apart = cached + (news.cache_creation_input_tokens or 0)
    return Usage(
        prompt_tokens=known.prompt_tokens if news.input_tokens is None else news.input_tokens + apart,
        completion_tokens=known.completion_tokens if news.output_tokens is None else news.output_tokens,
        cached_tokens=cached or known.cached_tokens,
    )


class MessagesMeter(StreamMeter):
    """Meter of a Messages stream. The prompt is known from the start, the output only at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._text: list[str] = []
        self._output_known = False

    @property
    def exact(self) -> bool:
        """`message_delta` has the output's figure."""
        return self._output_known

    def unmetered(self) -> list[str]:
        """Everything generated so far, until the engine's own figure is here."""
        return [] if self._output_known else self._text

    def _events(self, events: bytes) -> bytes:
        for end, payload in payloads(events):
            try:
                event = _event_decoder.decode(payload)
            except msgspec.MsgspecError:
                continue
            match event.type:
                case "content_block_delta" if event.delta is not None:
                    self.started = True
                    self._text.append(event.delta.text or event.delta.thinking or event.delta.partial_json or "")
                case "message_start" if event.message is not None and event.message.usage is not None:
                    self.usage = _merge(self.usage, event.message.usage)
                case "message_delta" if event.usage is not None:
                    self.started = self._output_known = True
                    self.usage = _merge(self.usage, event.usage)
                case "message_stop":
                    self.finished = True
                case "error":
                    self.error = event.error.message if event.error else "an error without a message"
                    return events[: events.rfind(b"event:", 0, end)]
        return events
