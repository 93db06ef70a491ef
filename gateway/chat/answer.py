"""Reading an answer from the events of its stream. Pure: takes whole events, as the relay gives them out."""

from typing import Literal, NamedTuple

import msgspec

Kind = Literal["r", "c"]


class Delta(NamedTuple):
    """A piece of the reasoning (`r`) or of the answer (`c`)."""

    kind: Kind
    text: str


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None  # vLLM's name for it up to 0.11, and still that of others


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


_decoder = msgspec.json.Decoder(_Chunk)


class Answer:
    """An answer as far as it has come."""

    def __init__(self) -> None:
        self.finish: str | None = None
        self._content: list[str] = []
        self._reasoning: list[str] = []

    def feed(self, events: bytes) -> list[Delta]:
        """Take events; return what they add. What is no chunk adds nothing."""
        deltas = []
        for line in events.split(b"\n"):
            if not line.startswith(b"data:"):
                continue
            try:
                chunk = _decoder.decode(line[5:])
            except msgspec.MsgspecError:  # [DONE], or an event of another kind
                continue
            for choice in chunk.choices[:1]:
                self.finish = choice.finish_reason or self.finish
                if thought := choice.delta.reasoning or choice.delta.reasoning_content:
                    deltas.append(Delta("r", thought))
                    self._reasoning.append(thought)
                if choice.delta.content:
                    deltas.append(Delta("c", choice.delta.content))
                    self._content.append(choice.delta.content)
        return deltas

    @property
    def content(self) -> str:
        """The answer's text."""
        return _joined(self._content)

    @property
    def reasoning(self) -> str:
        """The reasoning before it."""
        return _joined(self._reasoning)


def _joined(parts: list[str]) -> str:
    parts[:] = ["".join(parts)]
    return parts[0]
