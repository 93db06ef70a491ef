"""An answer read from the events of its stream."""

import json
import random

from gateway.chat.answer import Answer


def event(**delta: str) -> bytes:
    return f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n".encode()


def test_no_text_is_lost_however_many_events_come_in_a_piece() -> None:
    """Events alone, in pairs or all at once give the same text; comments and [DONE] add nothing."""
    words = [f"w{number} " for number in range(50)]
    events = [event(reasoning="thought"), b": still there\n\n", *(event(content=word) for word in words)]
    events.append(b"data: [DONE]\n\n")
    source = random.Random(1)
    for _ in range(20):
        answer, rest = Answer(), list(events)
        while rest:
            count = source.randint(1, 9)
            answer.feed(b"".join(rest[:count]))
            rest = rest[count:]
        assert (answer.reasoning, answer.content) == ("thought", "".join(words))
