"""One request of the load generator, against an engine that sends exactly what it is told to."""

import json
from collections.abc import AsyncIterator, Callable

import pytest

from gatehouse.bench.client import Answer, Target, ask, session
from tests.support.scripted import Script, chunked, http_answer, scripted_engine

STREAM = "content-type: text/event-stream"


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def chat(**delta: str) -> bytes:
    return event(choices=[{"index": 0, "delta": delta}])


USAGE = event(choices=[], usage={"prompt_tokens": 11, "completion_tokens": 3})
DONE = b"data: [DONE]\n\n"
Send = Callable[[Script], "object"]


@pytest.fixture
async def answer_to() -> AsyncIterator[Callable[[Script], object]]:
    """Asks an engine that answers with this script."""
    async with scripted_engine() as engine, session() as http:

        async def send(script: Script, timeout: float = 30.0) -> Answer:
            engine.answer = lambda _head, _body: script
            return await ask(http, Target("it", engine.url + "/", "a-key"), "/v1/chat/completions", b"{}", timeout)

        send.engine = engine  # type: ignore[attr-defined]
        yield send


async def test_a_whole_answer(answer_to) -> None:
    """Every event with text counts once, whichever field has it; role, usage and [DONE] do not; tokens are the usage's."""
    role = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
    pieces = [role, chat(reasoning="a"), chat(reasoning_content="b"), chat(content="中"), USAGE, DONE]
    answer = await answer_to(Script([chunked(pieces, STREAM)]))
    assert answer.error is None
    assert answer.first is not None
    assert len(answer.gaps) == 2
    assert (answer.prompt_tokens, answer.completion_tokens) == (11, 3)
    assert answer.began <= answer.first <= answer.ended
    assert b"authorization: bearer a-key" in answer_to.engine.received[0][0].lower()
    assert answer_to.engine.received[0][0].startswith(b"POST /v1/chat/completions ")


async def test_completions_and_events_cut_anywhere(answer_to) -> None:
    """The text of /v1/completions counts, too, and neither packets nor CRLF nor comments change what is counted."""
    whole = b": hello\r\n\r\n" + event(choices=[{"text": "x"}]).replace(b"\n", b"\r\n") * 3 + USAGE + DONE
    for size in (1, 7, 50):
        pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
        answer = await answer_to(Script([chunked(pieces, STREAM)]))
        assert answer.error is None
        assert len(answer.gaps) == 2


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (Script([chunked([chat(content="a")], STREAM)]), "cut off"),
        (Script([chunked([chat(content="a")], STREAM, end=b"")], abort=True), "connection: ClientPayloadError"),
        (Script([], abort=True), "connection: ServerDisconnectedError"),
        (Script([chunked([event(error={"message": "died"}), DONE], STREAM)]), "error event: {'message': 'died'}"),
        (
            Script([http_answer(b'{"error": {"code": "rate_limit_exceeded"}}', status="429 Too Many Requests")]),
            "429 rate_limit_exceeded",
        ),
        (Script([http_answer(b"<html>", status="502 Bad Gateway")]), "502"),
        (Script([chunked([b"data: {nonsense\n\n"], STREAM)]), "not an event stream of this API"),
    ],
)
async def test_what_went_wrong_is_named(answer_to, script: Script, error: str) -> None:
    """No failure raises; each is told apart, and none passes for a whole answer."""
    answer = await answer_to(script)
    assert answer.error == error


async def test_a_server_that_says_nothing_is_left(answer_to) -> None:
    """The deadline of a request ends it as `timeout`."""
    assert (await answer_to(Script([], hang=True), 0.05)).error == "timeout"
