"""What was asked and answered, kept for the record where `logging.bodies` wants it. Pure; not redacted yet.

Of a stream the text is kept, not its events: a token of it takes some 250 bytes on the wire.
"""

import msgspec


class _Function(msgspec.Struct):
    arguments: str | None = None


class _Call(msgspec.Struct):
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None
    text: str | None = None  # messages, as the next two
    thinking: str | None = None
    partial_json: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    text: str | None = None
    delta: _Delta | None = None


class _Event(msgspec.Struct):
    type: str = ""
    choices: list[_Choice] = []
    delta: _Delta | str | None = None


_decode = msgspec.json.Decoder(_Event).decode
# responses: what the pieces of an event belong to
_KINDS = {"response.reasoning_text.delta": "reasoning", "response.function_call_arguments.delta": "tool call"}
ANSWER = "answer"


class Bodies:
    """Those of one exchange, of each no more than `keep` bytes or characters."""

    __slots__ = ("_keep", "_pieces", "_room", "answer", "answer_is_whole", "request", "request_size")

    def __init__(self, request: bytes, keep: int) -> None:
        self._keep = self._room = keep
        self.request = request[:keep]
        self.request_size = len(request)
        self.answer: bytes | None = None  # one that came in one piece
        self.answer_is_whole = True
        self._pieces: dict[str, list[str]] = {}

    @property
    def weight(self) -> int:
        """Bytes in memory, about."""
        return len(self.request) + len(self.answer or b"") + (self._keep - self._room)

    def answered(self, body: bytes) -> None:
        """Keep an answer in one piece."""
        self.answer = body[: self._keep]
        self.answer_is_whole = len(body) <= self._keep

    def streamed(self, events: bytes) -> None:
        """Keep the text of whole events of a stream."""
        for line in events.splitlines():
            if self.answer_is_whole and line.startswith(b"data: {"):
                self._event(line[len(b"data: ") :])

    @property
    def text(self) -> str:
        """The text of a stream; where there is more than the answer, each part under its name."""
        parts = {name: "".join(pieces) for name, pieces in self._pieces.items()}
        if parts.keys() <= {ANSWER}:
            return parts.get(ANSWER, "")
        return "\n".join(f"[{name}] {text}" for name, text in parts.items())

    def _event(self, data: bytes) -> None:
        try:
            event = _decode(data)
        except msgspec.MsgspecError:
            return
        for choice in event.choices:
            self._add(ANSWER, choice.text, choice.index)
            if choice.delta is not None:
                self._delta(choice.delta, choice.index)
        if isinstance(event.delta, str):
            self._add(_KINDS.get(event.type, ANSWER), event.delta)
        elif event.delta is not None:
            self._delta(event.delta)

    def _delta(self, delta: _Delta, choice: int = 0) -> None:
        self._add("reasoning", delta.reasoning or delta.reasoning_content or delta.thinking, choice)
        self._add(ANSWER, delta.content or delta.text, choice)
        self._add("tool call", delta.partial_json, choice)
        for call in delta.tool_calls or ():
            self._add("tool call", call.function.arguments if call.function else None, choice)

    def _add(self, part: str, text: str | None, choice: int = 0) -> None:
        if not text:
            return
        kept = text[: max(0, self._room)]
        self._room -= len(kept)
        self.answer_is_whole = self.answer_is_whole and len(kept) == len(text)
        self._pieces.setdefault(f"{part} {choice}" if choice else part, []).append(kept)
