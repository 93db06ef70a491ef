"""Chat completions and completions: token ids in every chunk on request, `{"error":…}` frames, `[DONE]` at the end.

The gateway asks vLLM for token ids (`return_token_ids`), which it counts, and for the usage chunk at the end, and takes
from the stream what the client did not ask for. The cuts are made on bytes: inside a JSON string a quotation mark is
always escaped, so that `"token_ids":[` can only be the field itself.
"""

import re
from typing import Any

import msgspec

from gateway.context import Usage
from gateway.usage import StreamMeter

_USAGE = re.compile(rb',"usage":\{[^{}]*+(?:\{[^{}]*+\}[^{}]*+)*\}')
_TOKEN_IDS = re.compile(rb'("(?:prompt_)?token_ids":)\[[0-9,]*+\]')
_OUTPUT_END = re.compile(  # of a chat's chunk and of a completion's
    rb'"finish_reason":null,(?:"stop_reason":null,"prompt_token_ids":null,)?"token_ids":\[([0-9][0-9,]*+)\]\}\]\}\n\n'
)
_WITHOUT_IDS = b"null}]}\n\n"
_EMPTY = b'"delta":{},"logprobs":null,'
_EMPTY_CHUNK = _EMPTY + b'"finish_reason":null,"token_ids":['
_EVENT = re.compile(rb"(?:(?!\r?\n)[^\n]*+\n)*\r?\n")  # lines to an empty one
_ERROR = b'data: {"error"'
_ABORTED = b'"finish_reason":"abort"'
_TERMINAL = b'"finish_reason":"'  # a chunk that ends its choice; in all others it is null
_GOES_ON = b'"finish_reason":null'
_CHUNK = b'data: {"id":'  # an error has no id
_FINGERPRINT = re.compile(rb',"system_fingerprint":"[^"]*"')
_DONE = re.compile(rb"(?:^|(?<=\n))data: \[DONE\]")  # at the start of a line: a text may contain it, but no line feed
_NULL = msgspec.Raw(b"null")


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


class _Function(msgspec.Struct):
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None  # its older name
    tool_calls: list[_ToolCall] = []


class _Choice(msgspec.Struct):
    index: int = 0
    text: str | None = None
    delta: _Delta | None = None
    token_ids: msgspec.Raw = _NULL
    prompt_token_ids: msgspec.Raw = _NULL  # of completions

    def said(self) -> str:
        """All text in it."""
        if self.delta is None:
            return self.text or ""
        calls = (call.function.arguments or "" for call in self.delta.tool_calls if call.function is not None)
        texts = self.delta.reasoning, self.delta.reasoning_content, self.delta.content
        return "".join(text or "" for text in texts) + "".join(calls)


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    prompt_token_ids: msgspec.Raw = _NULL  # of chats


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


class _ErrorDetail(msgspec.Struct):
    message: str = ""


class _ErrorFrame(msgspec.Struct):
    error: _ErrorDetail | str


_chunk_decoder = msgspec.json.Decoder(_Chunk)
_answer_decoder = msgspec.json.Decoder(_Answer)
_error_decoder = msgspec.json.Decoder(_ErrorFrame)


def answer_usage(body: bytes) -> Usage | None:
    """Usage of an answer in one piece (also of embeddings, rerank and score); None where it carries none.

    The engine puts it at the end, behind what may be long. From the last such name on, the answer is an object of its
    own only if that name is the answer's: if another's, the whole is read.
    """
    usage = _usage_of(b"{" + body[body.rfind(b'"usage"') :]) or _usage_of(body)
    return usage.to_usage() if usage else None


def _usage_of(answer: bytes) -> _Usage | None:
    try:
        return _answer_decoder.decode(answer).usage
    except msgspec.MsgspecError:
        return None


class OpenAIMeter(StreamMeter):
    """Meter of a chat or completions stream.

    `show_usage`: the client asked for the final usage chunk; `show_running_usage`: for usage in every chunk as well;
    `show_token_ids`: for token ids, or they were not asked for at all.
    `choices_per_prompt`: `n`; choice i belongs to prompt i // n, which is how several prompts are told apart.
    """

    def __init__(
        self,
        *,
        show_usage: bool,
        show_running_usage: bool,
        show_token_ids: bool,
        choices: int,
        choices_per_prompt: int,
    ) -> None:
        super().__init__()
        self._show_usage = show_usage
        self._show_running_usage = show_running_usage
        self._show_token_ids = show_token_ids
        self._prompts = max(1, choices // choices_per_prompt)
        self._choices_per_prompt = choices_per_prompt
        self._prompt_tokens: dict[int, int] = {}  # by prompt
        self._completion_tokens: dict[int, int] = {}  # by choice, where the engine tells running usage
        self._reasoning_tokens: dict[int, int] = {}
        self._text: list[str] = []  # of an engine that tells neither
        self._held: list[bytes] = []  # chunks that end a choice, until the fingerprint for them is known
        self._aborted = False

    @property
    def exact(self) -> bool:
        """Token ids and running usage are exact, but for prompts of which no chunk has come yet."""
        return self.finished or (len(self._prompt_tokens) == self._prompts and not self._text)

    def unmetered(self) -> list[str]:
        """All text of an engine that knows neither token ids nor running usage, until its own figure is here."""
        return self._text

    def end(self) -> bytes:
        """Return what was kept back when the engine's answer is over."""
        return self._release() + super().end()

    def _events(self, events: bytes) -> bytes:
        if events.find(b"\n") == len(events) - 2:  # one event, as nearly always
            return self._event(events)
        return b"".join([self._event(event) for event in _EVENT.findall(events) if self.error is None])

    def _event(self, event: bytes) -> bytes:
        if self.started and (ids := _ids_of_mere_output(event)):
            self.usage.completion_tokens += ids[1].count(b",") + 1
            if self._show_token_ids:
                return event
            if event.endswith(_EMPTY, 0, ids.start()):
                return b""
            return event[: ids.start(1) - 1] + _WITHOUT_IDS
        if _ERROR in event:
            return self._release() + self._cut_at_error(event)
        if b"data: {" in event:
            self.started = True
        if _ABORTED in event:
            self._aborted = True
        if b"[DONE]" in event and (done := _DONE.search(event)):
            return self._release() + self._end_of_stream(event, done.start())
        return self._chunk(event, _chunk_of(event))

    def _chunk(self, event: bytes, chunk: _Chunk) -> bytes:
        """Count a chunk; return it as the client asked for it.

        The usage chunk goes; the fingerprint in it belongs, without usage, into the chunks that end a choice. So those
        are held back until the usage chunk, which vLLM sends in the same breath as the last of them.
        """
        self._count(chunk)
        if chunk.usage is not None and not chunk.choices:
            found = _FINGERPRINT.search(event)
            return event if self._show_usage else self._release(found[0] if found else b"")
        if chunk.usage is not None and not self._show_running_usage:
            event = _USAGE.sub(b"", event)
        if not self._show_token_ids:
            if _EMPTY_CHUNK in event:
                return b""
            event = _TOKEN_IDS.sub(rb"\1null", event)
        if _TERMINAL in event and not self._show_usage:
            self._held.append(event)
            return b""
        return event

    def _count(self, chunk: _Chunk) -> None:
        if chunk.usage is not None:
            self._text.clear()
            if not chunk.choices:
                self.usage = chunk.usage.to_usage()
        for choice in chunk.choices:
            if chunk.usage is not None:
                self._count_usage(choice, chunk.usage.to_usage())
            else:
                self._count_ids(choice, _length(chunk.prompt_token_ids) or _length(choice.prompt_token_ids))

    def _count_usage(self, choice: _Choice, usage: Usage) -> None:
        """Each chunk's usage is its own choice's, the sum is ours to make."""
        self._completion_tokens[choice.index] = usage.completion_tokens
        self._reasoning_tokens[choice.index] = usage.reasoning_tokens
        self.usage.completion_tokens = sum(self._completion_tokens.values())
        self.usage.reasoning_tokens = sum(self._reasoning_tokens.values())
        self._note_prompt(choice, usage.prompt_tokens)

    def _count_ids(self, choice: _Choice, prompt_tokens: int) -> None:
        self.usage.completion_tokens += _length(choice.token_ids)
        if prompt_tokens:
            self._note_prompt(choice, prompt_tokens)
        if bytes(choice.token_ids) == b"null" and (text := choice.said()):
            self._text.append(text)

    def _note_prompt(self, choice: _Choice, tokens: int) -> None:
        self._prompt_tokens[choice.index // self._choices_per_prompt] = tokens
        self.usage.prompt_tokens = sum(self._prompt_tokens.values())

    def _release(self, fingerprint: bytes = b"") -> bytes:
        held, self._held = self._held, []
        return b"".join(_stamped(event, fingerprint) for event in held)

    def _cut_at_error(self, event: bytes) -> bytes:
        """Keep what came before the engine's error frame; what it sends after it (`[DONE]`) would be a lie."""
        at = event.index(_ERROR)
        line = event[at + len(b"data: ") :].split(b"\n", 1)[0]
        try:
            error = _error_decoder.decode(line).error
            self.error = error if isinstance(error, str) else error.message
        except msgspec.MsgspecError:
            self.error = "an error frame that cannot be read"
        return event[:at]

    def _end_of_stream(self, event: bytes, at: int) -> bytes:
        """Tell an end from an abort: vLLM ends the streams it aborts on SIGTERM with `[DONE]` too."""
        if self._aborted:
            self.error = "the engine was stopped"
            return event[:at]
        self.finished = True
        return event


def _ids_of_mere_output(event: bytes) -> re.Match[bytes] | None:
    """Find the token ids at the end of a chunk that begins and ends nothing; None for whatever else came.

    Nearly all chunks are such. To search them for what others may hold would take most of the time that they take.
    """
    at = event.rfind(_GOES_ON)
    return _OUTPUT_END.fullmatch(event, at) if at >= 0 and event.startswith(_CHUNK) else None


def _length(ids: msgspec.Raw) -> int:
    """How many numbers are in a list; 0 for null."""
    text = bytes(ids)
    return text.count(b",") + 1 if len(text) > len(b"[]") and text.startswith(b"[") else 0


def _stamped(event: bytes, fingerprint: bytes) -> bytes:
    """Add a field at the end of a chunk's object."""
    end = event.rfind(b"}")
    return event[:end] + fingerprint + event[end:]


def _chunk_of(event: bytes) -> _Chunk:
    if event.startswith(b"data: {"):
        try:
            return _chunk_decoder.decode(event[len(b"data: ") :])
        except msgspec.MsgspecError:
            pass
    return _Chunk()


def metered_options(stream_options: dict[str, Any] | None, *, running_usage: bool) -> dict[str, Any]:
    """Return the `stream_options` that make vLLM report usage at the end, or in every chunk; other options kept."""
    return {**(stream_options or {}), "include_usage": True, "continuous_usage_stats": running_usage}
