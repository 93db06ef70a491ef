"""Chat completions and completions: usage in every chunk on request, `{"error":…}` frames, `[DONE]` at the end.

The gateway always asks vLLM for running usage (`stream_options.continuous_usage_stats`) and takes from the stream what
the client did not ask for. The cuts are made on bytes: inside a JSON string a quotation mark is always escaped, so that
`,"usage":{` can only be the field itself.
"""

import re
from typing import Any

import msgspec

from gateway.context import Usage
from gateway.usage import StreamMeter

_USAGE = re.compile(rb',"usage":(\{[^{}]*+(?:\{[^{}]*+\}[^{}]*+)*+\})')  # possessive: three times as fast
_USAGE_FIELD = b',"usage":{'
_USAGE_AT_END = re.compile(_USAGE.pattern.replace(rb"[^{}]", rb"[^{}\n]") + rb"\}\n\n")
_EVENT_ENDS = re.compile(rb"(?<=\n\n)|(?<=\r\n\r\n)")
_ERROR = b'data: {"error"'
_USAGE_ONLY = b'"choices":[]'
_ABORTED = b'"finish_reason":"abort"'
_TERMINAL = b'"finish_reason":"'  # a chunk that ends its choice; in all others it is null
_GOES_ON = b'"finish_reason":null'
_CHUNK = b'data: {"id":'  # an error has no id
_FINGERPRINT = re.compile(rb',"system_fingerprint":"[^"]*"')
_DONE = re.compile(rb"(?:^|(?<=\n))data: \[DONE\]")  # at the start of a line: a text may contain it, but no line feed


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None

    def to_usage(self) -> Usage:
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens or 0,
            cached_tokens=(prompt.cached_tokens or 0) if prompt else 0,
            reasoning_tokens=(completion.reasoning_tokens or 0) if completion else 0,
        )


class _Choice(msgspec.Struct):
    index: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


class _ErrorDetail(msgspec.Struct):
    message: str = ""


class _ErrorFrame(msgspec.Struct):
    error: _ErrorDetail | str


_usage_decoder = msgspec.json.Decoder(_Usage)
_chunk_decoder = msgspec.json.Decoder(_Chunk)
_answer_decoder = msgspec.json.Decoder(_Answer)
_error_decoder = msgspec.json.Decoder(_ErrorFrame)


def answer_usage(body: bytes) -> Usage | None:
    """Usage of an answer in one piece (also of embeddings, rerank and score); None where it carries none."""
    try:
        usage = _answer_decoder.decode(body).usage
    except msgspec.MsgspecError:
        return None
    return usage.to_usage() if usage else None


class OpenAIMeter(StreamMeter):
    """Meter of a chat or completions stream.

    `show_usage`: the client asked for the final usage chunk; `show_running_usage`: for usage in every chunk as well.
    `choices_per_prompt`: `n`; choice i belongs to prompt i // n, which is how several prompts are told apart.
    """

    def __init__(self, *, show_usage: bool, show_running_usage: bool, choices: int, choices_per_prompt: int) -> None:
        super().__init__()
        self._show_usage = show_usage
        self._show_running_usage = show_running_usage
        self._choices = choices
        self._choices_per_prompt = choices_per_prompt
        self._last_usage: bytes | None = None  # parsed when asked for: most chunks' figures are never looked at
        self._by_choice: dict[int, _Usage] = {}
        self._held: list[bytes] = []  # chunks that end a choice, until the fingerprint for them is known
        self._aborted = False

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        if self._last_usage is not None:
            self._total = _usage_decoder.decode(self._last_usage).to_usage()
            self._last_usage = None
        return self._total

    @usage.setter
    def usage(self, value: Usage) -> None:
        self._total = value

    @property
    def exact(self) -> bool:
        """Running usage is exact, but for prompts of which no chunk has come yet."""
        prompts = max(1, self._choices // self._choices_per_prompt)
        if not self.started:
            return False
        return self.finished or prompts == 1 or len({i // self._choices_per_prompt for i in self._by_choice}) == prompts

    def _events(self, events: bytes) -> bytes:
        if self.started and self._choices == 1 and (usage := _usage_of_mere_output(events)):
            self._last_usage = usage[1]
            return events if self._show_running_usage else events[: usage.start()] + b"}\n\n"
        if _ERROR in events:
            events = self._cut_at_error(events)
        if not self.started and b"data: {" in events:
            self.started = True
        ends = _TERMINAL in events
        if ends and _ABORTED in events:
            self._aborted = True
        if b"[DONE]" in events and (done := _DONE.search(events)):
            events = self._end_of_stream(events, done.start())
        if self._choices > 1:
            self._meter_choices(events)
        if self._show_usage:
            return self._with_usage(events)
        if ends or self._held or _USAGE_ONLY in events or self.finished:
            return self._last_events(events)
        return self._without_usage(events)

    def _cut_at_error(self, events: bytes) -> bytes:
        """Keep what came before the engine's error frame; what it sends after it (`[DONE]`) would be a lie."""
        at = events.index(_ERROR)
        line = events[at + len(b"data: ") :].split(b"\n", 1)[0]
        try:
            error = _error_decoder.decode(line).error
            self.error = error if isinstance(error, str) else error.message
        except msgspec.MsgspecError:
            self.error = "an error frame that cannot be read"
        return events[:at]

    def _end_of_stream(self, events: bytes, at: int) -> bytes:
        """Tell an end from an abort: vLLM ends the streams it aborts on SIGTERM with `[DONE]` too."""
        if self._aborted:
            self.error = "the engine was stopped"
            return events[:at]
        self.finished = True
        return events

    def _without_usage(self, events: bytes) -> bytes:
        parts = _USAGE.split(events)
        if len(parts) == 1:
            return events
        if self._choices == 1 or _USAGE_ONLY in events:
            self._last_usage = parts[-2]
        return b"".join(parts[::2])

    def _with_usage(self, events: bytes) -> bytes:
        """The client asked for the usage chunk, and perhaps for running usage."""
        if self._show_running_usage:
            self._without_usage(events)  # to read it
            return events
        if _USAGE_ONLY not in events:
            return self._without_usage(events)
        found = _USAGE.findall(events)
        self._last_usage = found[-1]
        return b"".join(e if _USAGE_ONLY in e else _USAGE.sub(b"", e) for e in _EVENT_ENDS.split(events))

    def _last_events(self, events: bytes) -> bytes:
        """The usage chunk goes; the fingerprint in it belongs, without usage, into the chunks that end a choice.

        So those are held back until the usage chunk, which vLLM sends in the same breath as the last of them.
        """
        out = []
        for event in _EVENT_ENDS.split(events):
            plain = self._without_usage(event)
            if _USAGE_ONLY in event:
                found = _FINGERPRINT.search(event)
                out += [_stamped(held, found[0] if found else b"") for held in self._held]
                self._held = []
            elif _TERMINAL in event:
                self._held.append(plain)
            else:
                if _DONE.match(event):
                    out += self._held
                    self._held = []
                out.append(plain)
        if self.error is not None:
            out += self._held
            self._held = []
        return b"".join(out)

    def end(self) -> bytes:
        """Return what was kept back when the engine's answer is over."""
        held, self._held = self._held, []
        return b"".join(held) + super().end()

    def _meter_choices(self, events: bytes) -> None:
        """Several choices: each chunk's usage is its own choice's, the sum is ours to make."""
        for event in _EVENT_ENDS.split(events):
            chunk = _chunk_of(event)
            if chunk is not None and chunk.usage is not None:
                for choice in chunk.choices:
                    self._by_choice[choice.index] = chunk.usage
        prompts: dict[int, int] = {}
        for index, usage in self._by_choice.items():
            prompts[index // self._choices_per_prompt] = usage.prompt_tokens
        self._total = Usage(
            prompt_tokens=sum(prompts.values()),
            completion_tokens=sum(usage.completion_tokens or 0 for usage in self._by_choice.values()),
        )


def _usage_of_mere_output(events: bytes) -> re.Match[bytes] | None:
    """Find the usage at the end of a single chunk that ends nothing; None for whatever else came, or came with it.

    Nearly all chunks are such. To search them for what others may hold would take most of the time that they take.
    """
    at = events.find(_USAGE_FIELD)
    if at < 0 or not events.startswith(_CHUNK) or events.rfind(_GOES_ON, 0, at) < 0 or events.find(b"\n", 0, at) >= 0:
        return None
    return _USAGE_AT_END.fullmatch(events, at)


def _stamped(event: bytes, fingerprint: bytes) -> bytes:
    """Add a field at the end of a chunk's object."""
    end = event.rfind(b"}")
    return event[:end] + fingerprint + event[end:]


def _chunk_of(event: bytes) -> _Chunk | None:
    if not event.startswith(b"data: {"):
        return None
    try:
        return _chunk_decoder.decode(event[len(b"data: ") :])
    except msgspec.MsgspecError:
        return None


def running_usage(stream_options: dict[str, Any] | None) -> dict[str, Any]:
    """Return the `stream_options` that make vLLM report usage in every chunk, other options kept."""
    return {**(stream_options or {}), "include_usage": True, "continuous_usage_stats": True}
