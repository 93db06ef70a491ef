"""What is kept of a run's frames, and what is added when somebody else has to end it."""

import json

import pytest

from gateway.chat.replay import Replay
from gateway.chat.run import complete
from gateway.store.chat_rows import Message, Role, Status


def answer(reasoning: str, content: str) -> Message:
    return Message(
        "m_1", None, Role.ASSISTANT, content, 0.0, reasoning=reasoning, status=Status.INTERRUPTED, finish="interrupted",
        error={"code": "interrupted"}, number=1, chat="c_1", version=2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shown", "stored"),
    [
        (("", ""), ("thought", "text")),
        (("thou", ""), ("thought", "text")),
        (("thought", "te"), ("thought", "text")),
        (("thought", "text"), ("thought", "text")),
        (("", "a\x00b"), ("", "a\ufffdb and more")),  # as the database keeps it
    ],
)
def test_a_run_is_completed(shown: tuple[str, str], stored: tuple[str, str]) -> None:
    """Whatever was shown of an answer: with what is added the frames tell what is stored, once, and end."""
    replay = Replay("m_1")
    for kind, text in zip("rc", shown, strict=True):
        if text:
            replay.add(kind, {"text": text})
    replay.add("usage", {"completion_tokens": 1})
    complete(replay, answer(*stored))
    frames = [json.loads(frame) for frame in replay.after(0)]
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert [frame["t"] for frame in frames[-2:]] == ["error", "end"]
    assert tuple(text.replace("\x00", "\ufffd") for text in replay.texts()) == stored
    assert replay.is_read(len(frames))


def test_what_was_shown_is_not_taken_back() -> None:
    """Where the stored text is another, as after its maker came back, the frames end with what was shown."""
    replay = Replay("m_1")
    replay.add("c", {"text": "something longer"})
    complete(replay, answer("", "something"))
    assert replay.texts() == ("", "something longer")
    assert replay.ended_at is not None
