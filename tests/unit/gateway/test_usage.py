"""The meters: what a client gets and what is counted, for every protocol, however the bytes are cut."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.context import Api, Usage
from gateway.dialects import answer_usage, error_message
from gateway.dialects.anthropic import MessagesMeter
from gateway.dialects.openai import OpenAIMeter, metered_options
from gateway.dialects.responses import ResponsesMeter, response_id
from gateway.usage import PlainMeter, StreamMeter

# text that looks like what the meters look for, and text that JSON escapes
text = st.text(max_size=12) | st.sampled_from(
    [
        '"choices":[]',
        ',"usage":{"a":1}',
        'data: {"error"',
        "data: [DONE]",
        '"finish_reason":"abort"',
        '"delta":{},"logprobs":null,"finish_reason":null,"token_ids":[1]}]}',
        "\n\n",
        "你好",
        "\\",
    ]
)

# a piece of text and the ids of its tokens: several where vLLM speculates, no text where its parser shows nothing
Piece = tuple[str | None, list[int]]
pieces = st.lists(
    st.tuples(st.none() | text, st.lists(st.integers(0, 201_087), min_size=1, max_size=3)), min_size=1, max_size=8
)


def frame(payload: Any) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def event(payload: dict[str, Any]) -> bytes:
    return f"event: {payload['type']}\n".encode() + frame(payload)


def chunk(
    index: int,
    content: str | None,
    usage: dict[str, Any] | None = None,
    finish: str | None = None,
    *,
    ids: list[int] | None = None,
    prompt: list[int] | None = None,
    chat: bool = True,
) -> bytes:
    """A chunk as vLLM 0.32 writes it; `content` None: tokens that the parser of a chat shows nothing of."""
    choice: dict[str, Any] = {"index": index}
    choice |= {"delta": {} if content is None else {"content": content}} if chat else {"text": content or ""}
    choice |= {"logprobs": None, "finish_reason": finish}
    choice |= {"stop_reason": None} if finish or not chat else {}
    choice |= {} if chat else {"prompt_token_ids": prompt}
    payload: dict[str, Any] = {"id": "chatcmpl-1", "choices": [{**choice, "token_ids": ids}]}
    if usage is not None:
        payload["usage"] = usage
    return frame(payload)


def role_chunk(index: int, usage: dict[str, Any] | None = None, prompt: list[int] | None = None) -> bytes:
    """The first chunk of a chat's choice."""
    choice = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    payload: dict[str, Any] = {"id": "chatcmpl-1", "choices": [choice]}
    if usage is not None:
        payload["usage"] = usage
    return frame({**payload, "prompt_token_ids": prompt, "prompt_text": None})


def usage_of(prompt: int, completion: int, **details: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion, **details}


FINAL = usage_of(7, 3, prompt_tokens_details={"cached_tokens": 4}, completion_tokens_details={"reasoning_tokens": 2})
PROMPT = [200006, 17360, 3, 2, 1, 0, 200008]


def final_chunk(usage: dict[str, Any]) -> bytes:
    return frame({"id": "chatcmpl-1", "choices": [], "usage": usage, "system_fingerprint": "vllm-x"})


def stamped(last: bytes) -> bytes:
    """The chunk that ends a choice; without a usage chunk to follow it carries the fingerprint (vLLM 0.32)."""
    return last[:-3] + b',"system_fingerprint":"vllm-x"}\n\n'


def stream(
    pieces: list[Piece],
    *,
    ids: bool = False,
    running: bool = False,
    final: bool = False,
    choices: int = 1,
    chat: bool = True,
    end: bytes = b"data: [DONE]\n\n",
) -> bytes:
    """What vLLM sends for these pieces, with or without token ids, running usage and the final usage chunk."""
    out = [b": keep-alive\n\n"]
    counts, begun = [0] * choices, [chat] * choices

    def usage(index: int) -> dict[str, Any] | None:
        details = {"completion_tokens_details": [None, {"reasoning_tokens": 0}][counts[index] % 2]}
        return usage_of(7, counts[index], **details) if running else None

    def one(index: int, piece: Piece, finish: str | None = None) -> bytes:
        content, tokens = piece
        counts[index] += len(tokens)
        prompt = None if begun[index] or not ids else PROMPT
        begun[index] = True
        if content is None and chat and finish is None and not ids:
            return b""
        shown = tokens if ids else None
        return chunk(index, content, usage(index), finish, ids=shown, prompt=prompt, chat=chat)

    if chat:
        out += [role_chunk(index, usage(index), PROMPT if ids else None) for index in range(choices)]
    out += [one(i % choices, piece) for i, piece in enumerate(pieces)]
    if end:
        last = [one(index, (None, [2]), "stop") for index in range(choices)]
        out += last if final else map(stamped, last)
    if final:
        out.append(final_chunk({**FINAL, "completion_tokens": sum(counts), "total_tokens": 7 + sum(counts)}))
    return b"".join(out) + end


def tokens_in(pieces: list[Piece]) -> int:
    return sum(len(ids) for _, ids in pieces)


def meter(
    show: bool = False, running: bool = False, ids: bool = False, *, choices: int = 1, per_prompt: int | None = None
) -> OpenAIMeter:
    return OpenAIMeter(
        show_usage=show,
        show_running_usage=running,
        show_token_ids=ids,
        choices=choices,
        choices_per_prompt=per_prompt or choices,
    )


def fed(meter: StreamMeter, data: bytes, cuts: list[int]) -> bytes:
    """Feed `data` cut at these offsets, to the end."""
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    out = b"".join(meter.feed(data[a:b]) for a, b in itertools.pairwise(edges))
    return out + meter.end()


cuts = st.lists(st.integers(min_value=0), max_size=12)


@given(pieces, cuts, st.booleans(), st.booleans(), st.integers(1, 3), st.booleans(), st.booleans())
def test_a_client_gets_exactly_the_stream_it_would_have_got_without_the_gateways_token_ids(
    pieces: list[Piece], cuts: list[int], show: bool, ids: bool, choices: int, chat: bool, forced: bool
) -> None:
    """Byte for byte, at any chunk split: the stream with token ids, filtered, is vLLM's stream as it was asked for; also
    where vLLM puts usage into every chunk unasked (--enable-force-include-usage).
    """
    sent = stream(pieces, ids=True, running=forced, final=True, choices=choices, chat=chat)
    got = fed(metered := meter(show, ids=ids, choices=choices), sent, cuts)
    assert got == stream(pieces, ids=ids, final=show, choices=choices, chat=chat)
    assert metered.finished
    assert metered.exact
    assert metered.error is None
    assert metered.unmetered() == []
    assert metered.usage == Usage(7, tokens_in(pieces) + choices, 4, 2)


@given(pieces, cuts, st.sampled_from([(False, False), (True, False), (True, True)]), st.integers(1, 3), st.booleans())
def test_a_client_gets_exactly_the_stream_it_would_have_got_without_the_gateways_running_usage(
    pieces: list[Piece], cuts: list[int], shown: tuple[bool, bool], choices: int, chat: bool
) -> None:
    """Likewise where running usage is asked for in place of token ids, which the client may have asked for itself."""
    show, running = shown
    sent = stream(pieces, running=True, final=True, choices=choices, chat=chat)
    got = fed(metered := meter(show, running, ids=True, choices=choices), sent, cuts)
    assert got == stream(pieces, running=running, final=show, choices=choices, chat=chat)
    assert metered.finished
    assert metered.exact
    assert metered.usage == Usage(7, tokens_in(pieces) + choices, 4, 2)


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"id":"1","choices":[{"finish_reason":null,"token_ids":[1]}]}',
        b'data: {"id":"1","choices":[{"finish_reason":null,"token_ids":[1,2,3]}]}',
        b'data: {"id":"1","choices":[{"finish_reason":null,"token_ids":[]}]}',
        b'data: {"id":"1","choices":[{"delta":{},"logprobs":null,"finish_reason":null,"token_ids":[1]}]}',
        b'data: {"id":"1","choices":[{"delta":{},"logprobs":{"content":[]},"finish_reason":null,"token_ids":[1]}]}',
        b'data: {"id":"1","choices":[{"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":[1]}]}',
        b'data: {"id":"1","choices":[{"finish_reason":null,"stop_reason":null,"prompt_token_ids":[1],"token_ids":[2]}]}',
        b'data: {"id":"1","choices":[{"finish_reason":"stop","stop_reason":null,"token_ids":[1]}]}',
        b'data: {"id":"1","choices":[{"finish_reason":null,"token_ids":[1]}],"usage":{"completion_tokens":2}}',
        b'data: {"id":"1","choices":[{"finish_reason":null,"token_ids":[1]}],"usage":null}',
        b'data: {"id":"1","choices":[{"finish_reason":null}],"usage":{"completion_tokens":2}}',
        b'data: {"id":"1","choices":[{"finish_reason":null}],"usage":{"completion_tokens":2,"d":{"a":1}}}',
        b'data: {"id":"1","choices":[{"finish_reason":null}],"usage":{"completion_tokens":2},"x":{"a":1}}',
        b'data: {"id":"1","choices":[],"usage":{"completion_tokens":2}}',
        b'data: {"id":"1","choices":[{"finish_reason":null,"token_ids":[1]}]}\ndata: [DONE]',
        b'data: {"error":{"message":"x"},"id":"1","finish_reason":null,"token_ids":[1]}]}',
        b': {"id":"1","choices":[{"finish_reason":null,"token_ids":[1]}]}',
    ],
)
@pytest.mark.parametrize("shown", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("ids", [False, True])
def test_an_event_is_read_alone_as_it_is_in_company(event: bytes, shown: tuple[bool, bool], ids: bool) -> None:
    """Whatever its form: what comes in one piece with others is read as what comes alone."""
    comment = b": alive\n\n"
    alone, together = meter(*shown, ids), meter(*shown, ids)
    for each in (alone, together):
        each.feed(role_chunk(0, prompt=PROMPT))
    got = comment + alone.feed(event + b"\n\n") + alone.end()
    assert got == together.feed(comment + event + b"\n\n") + together.end()
    assert (alone.usage, alone.error, alone.finished) == (together.usage, together.error, together.finished)


@given(pieces, cuts, st.integers(1, 3), st.booleans(), st.booleans())
def test_every_token_that_was_sent_is_counted_when_a_stream_is_cut(
    pieces: list[Piece], cuts: list[int], choices: int, chat: bool, ids: bool
) -> None:
    """Cut after any number of whole events, the sum is that of the chunks that came, of all choices: with token ids
    those of which nothing was shown, too.
    """
    if not ids:
        pieces = [("a", tokens) for _, tokens in pieces]
    metered = meter(choices=choices)
    fed(metered, stream(pieces, ids=ids, running=not ids, choices=choices, chat=chat, end=b""), cuts)
    assert not metered.finished
    assert metered.exact
    assert metered.unmetered() == []
    assert metered.usage == Usage(7, tokens_in(pieces))


@pytest.mark.parametrize("ids", [True, False])
def test_a_choice_of_another_prompt_adds_that_prompts_tokens(ids: bool) -> None:
    """Several prompts in one completions request: each is counted once, and the figure is exact once all have spoken."""

    def first(index: int, prompt: int, tokens: int) -> bytes:
        if ids:
            return chunk(index, "a", ids=[1] * tokens, prompt=[1] * prompt, chat=False)
        return chunk(index, "a", usage_of(prompt, tokens), chat=False)

    metered = meter(choices=4, per_prompt=2)
    metered.feed(first(0, 5, 1) + first(1, 5, 2))
    assert not metered.exact
    metered.feed(first(3, 6, 1))
    assert metered.exact
    assert metered.usage == Usage(11, 4)


def test_reasoning_is_known_from_running_usage() -> None:
    """Of a stream that is cut; token ids do not tell it."""
    metered = meter(True, True, choices=2)
    for index, thought in enumerate([2, 3]):
        metered.feed(chunk(index, "a", usage_of(7, 9, completion_tokens_details={"reasoning_tokens": thought})))
    assert metered.usage == Usage(7, 18, 0, 5)


@given(cuts)
def test_an_engine_that_dies_ends_the_stream_without_done(cuts: list[int]) -> None:
    """The error frame and the `[DONE]` that vLLM sends after it (recorded) never reach the client; what came before does."""
    pieces: list[Piece] = [("a", [1]), (None, [2]), ("b", [3])]
    death = frame({"error": {"message": "EngineCore encountered an issue.", "code": 500}}) + b"data: [DONE]\n\n"
    got = fed(metered := meter(), stream(pieces, ids=True, end=b"") + death, cuts)
    assert got == stream(pieces, end=b"")
    assert metered.error == "EngineCore encountered an issue."
    assert not metered.finished
    assert metered.usage == Usage(7, 3)


@given(cuts)
def test_a_stream_that_the_engine_aborts_is_no_whole_answer(cuts: list[int]) -> None:
    """On SIGTERM vLLM ends streams with finish_reason "abort" and `[DONE]` (recorded): the `[DONE]` is held back."""
    last = chunk(0, "x", finish="abort", ids=[])
    got = fed(metered := meter(), role_chunk(0, prompt=PROMPT) + last + b"data: [DONE]\n\n", cuts)
    assert got == role_chunk(0) + chunk(0, "x", finish="abort")
    assert metered.error == "the engine was stopped"
    assert metered.usage == Usage(7, 0)


@pytest.mark.parametrize("line", [b'data: {"error": "text"}', b'data: {"error": [}'])
def test_an_error_frame_of_any_form_ends_the_stream(line: bytes) -> None:
    """Also one whose error is a string or broken JSON."""
    metered = meter()
    assert metered.feed(line + b"\n\n") == b""
    assert metered.error


def test_garbage_between_events_passes_and_is_not_counted() -> None:
    """A meter never alters or fails on what it does not know."""
    metered = meter(choices=2)
    garbage = b"data: {not json}\n\nretry: 5\n\n"
    assert metered.feed(garbage) == garbage
    assert metered.usage == Usage()


def test_ends_of_choices_wait_for_the_fingerprint() -> None:
    """Of several choices, one that ends early is told so at the end, when the fingerprint that belongs there is known."""
    metered = meter(choices=2)
    assert metered.feed(chunk(0, "", finish="stop", ids=[2])) == b""
    assert metered.feed(chunk(1, "b", ids=[1])) == chunk(1, "b")
    assert metered.feed(final_chunk(FINAL)) == stamped(chunk(0, "", finish="stop"))
    assert metered.feed(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"


@pytest.mark.parametrize("fingerprint", [b"", b',"system_fingerprint":null'])
def test_an_engine_without_a_fingerprint(fingerprint: bytes) -> None:
    """Older vLLM, or --fingerprint-mode none: nothing is made up."""
    metered = meter()
    last = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}' + fingerprint + b"}\n\n"
    assert metered.feed(chunk(0, "", finish="stop", ids=[2]) + last) == chunk(0, "", finish="stop")


def test_an_end_that_no_usage_chunk_follows_is_not_lost() -> None:
    """Whatever the engine does next: `[DONE]`, an error, the end of the connection."""
    stop, bare = chunk(0, "", finish="stop", ids=[2]), chunk(0, "", finish="stop")
    done = b"data: [DONE]\n\n"
    assert meter().feed(stop + done) == bare + done
    assert meter().feed(stop + frame({"error": "x"})) == bare
    metered = meter()
    assert metered.feed(stop) == b""
    assert metered.end() == bare


@given(pieces, cuts, st.booleans(), st.booleans())
def test_an_engine_that_tells_no_figures_leaves_the_text_to_count(
    pieces: list[Piece], cuts: list[int], chat: bool, final: bool
) -> None:
    """One that knows neither token ids nor running usage: its stream passes as it is, and until its own figure comes at
    the end, what is known is the text.
    """
    sent = stream(pieces, final=final, chat=chat, end=b"data: [DONE]\n\n" if final else b"")
    assert fed(metered := meter(True), sent, cuts) == sent
    assert metered.exact == final
    assert "".join(metered.unmetered()) == ("" if final else "".join(content or "" for content, _ in pieces))
    assert metered.usage == (Usage(7, tokens_in(pieces) + 1, 4, 2) if final else Usage())


def test_a_prompt_that_is_known_makes_no_output_exact() -> None:
    """There were vLLMs that told the prompt's ids, and none of what a reasoning model answers (vllm#28246)."""
    metered = meter()
    metered.feed(role_chunk(0, prompt=PROMPT))
    assert metered.exact
    metered.feed(chunk(0, "a") + chunk(0, "b"))
    assert not metered.exact
    assert metered.unmetered() == ["a", "b"]
    assert metered.usage == Usage(7)


def test_all_that_was_said_is_text_to_count() -> None:
    """Reasoning under both its names, and the arguments of tool calls."""
    metered = meter()
    for delta in (
        {"role": "assistant"}, {"reasoning": "a"}, {"reasoning_content": "b"}, {"content": "c", "tool_calls": []},
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "d"}}, {"index": 1}]},
    ):  # fmt: skip
        metered.feed(frame({"id": "1", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))
    assert "".join(metered.unmetered()) == "abcd"


def test_an_event_without_end_is_an_error_and_not_a_memory_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept back is bounded."""
    monkeypatch.setattr("gateway.usage.MAX_EVENT_BYTES", 1000)
    metered = meter()
    assert metered.feed(b"data: " + b"x" * 1001) == b""
    assert metered.error
    assert metered.end() == b""


def test_nothing_is_exact_before_the_first_event() -> None:
    """A stream that was cut before its first event has no figures."""
    assert not meter().exact


def test_crlf_streams_are_understood() -> None:
    """Server-sent events may end their lines with CRLF."""
    data = stream([("a", [1])], ids=True, final=True).replace(b"\n", b"\r\n")
    want = stream([("a", [1])]).replace(b"\n", b"\r\n")
    assert fed(metered := meter(), data, []) == want
    assert metered.usage.completion_tokens == 2


def responses_stream(deltas: list[str], last: str = "response.completed") -> list[bytes]:
    response = {"id": "resp_1", "usage": None}
    kinds = itertools.cycle(["response.reasoning_text.delta", "response.output_text.delta"])
    payloads: list[dict[str, Any]] = [{"response": response, "type": "response.created"}]
    payloads += [{"delta": delta, "type": kind} for delta, kind in zip(deltas, kinds, strict=False)]
    usage = {
        "input_tokens": 9,
        "output_tokens": len(deltas),
        "input_tokens_details": {"cached_tokens": 1},
        "output_tokens_details": {"reasoning_tokens": 2},
    }
    payloads.append({"response": {"id": "resp_1", "usage": usage}, "type": last})
    return [event({"sequence_number": i, **payload}) for i, payload in enumerate(payloads)]


@given(st.lists(text, min_size=1, max_size=6), cuts, st.sampled_from(["response.completed", "response.incomplete"]))
def test_a_responses_stream_passes_unchanged_and_its_last_event_counts(
    deltas: list[str], cuts: list[int], last: str
) -> None:
    """The Responses API reports usage once, at its end."""
    data = b"".join(responses_stream(deltas, last))
    assert fed(metered := ResponsesMeter(), data, cuts) == data
    assert metered.finished
    assert metered.exact
    assert metered.unmetered() == []
    assert metered.response_id == "resp_1"
    assert metered.usage == Usage(9, len(deltas), 1, 2)


@given(st.lists(text, min_size=1, max_size=6), cuts, st.integers(0, 7))
def test_of_a_cut_responses_stream_the_text_is_known(deltas: list[str], cuts: list[int], keep: int) -> None:
    """What was sent before the cut is kept for counting, and the next sequence number for the error event."""
    events = responses_stream(deltas)[:-1][: keep + 1]
    fed(metered := ResponsesMeter(), b"".join(events), cuts)
    assert not metered.finished
    assert not metered.exact
    assert metered.unmetered() == deltas[:keep]
    assert metered.sequence_number == len(events)
    assert metered.started == (keep > 0)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (ResponsesMeter, {"type": "error", "message": "boom"}),
        (MessagesMeter, {"type": "error", "error": {"type": "x", "message": "boom"}}),
    ],
)
def test_an_error_event_of_the_engine_is_taken_out(make: Callable[[], StreamMeter], error: dict[str, Any]) -> None:
    """The gateway sends its own in the API's form; vLLM's on /v1/messages is a dump of its validator (recorded)."""
    first = event({"type": "ping"})
    metered = make()
    assert metered.feed(first + event(error) + first) == first
    assert metered.error == "boom"
    assert metered.feed(first) == b""


@pytest.mark.parametrize("make", [ResponsesMeter, MessagesMeter])
def test_an_error_event_without_a_message_is_one_too(make: Callable[[], StreamMeter]) -> None:
    """Whatever it says, the stream is over."""
    metered = make()
    metered.feed(event({"type": "error"}))
    assert metered.error == "an error without a message"


@pytest.mark.parametrize("make", [ResponsesMeter, MessagesMeter])
def test_unreadable_payloads_pass(make: Callable[[], StreamMeter]) -> None:
    """Not ours to judge."""
    data = b"event: x\ndata: {broken\n\n"
    assert make().feed(data) == data


def test_a_last_event_without_usage_leaves_the_count_open() -> None:
    """No figure, no invention."""
    metered = ResponsesMeter()
    metered.feed(event({"type": "response.failed", "response": {"id": "resp_1"}, "sequence_number": 3}))
    assert metered.finished
    assert metered.usage == Usage()


MESSAGE = [
    {"type": "message_start", "message": {"usage": {"input_tokens": 14, "output_tokens": 0}}},
    {"type": "content_block_start", "index": 0},
    {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "想"}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
    {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{"}},
    {"type": "content_block_delta", "delta": {"type": "signature_delta", "signature": "s"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"input_tokens": 14, "output_tokens": 4}},
    {"type": "message_stop"},
]


@given(cuts)
def test_a_messages_stream_passes_unchanged_and_counts(cuts: list[int]) -> None:
    """Prompt tokens stand in its first event, output tokens in its last but one."""
    data = b"".join(event(payload) for payload in MESSAGE)
    assert fed(metered := MessagesMeter(), data, cuts) == data
    assert metered.finished
    assert metered.exact
    assert metered.unmetered() == []
    assert metered.usage == Usage(14, 4)


@given(cuts)
def test_of_a_cut_messages_stream_prompt_and_text_are_known(cuts: list[int]) -> None:
    """Thinking, text and tool input all were generated."""
    fed(metered := MessagesMeter(), b"".join(event(payload) for payload in MESSAGE[:6]), cuts)
    assert not metered.finished
    assert not metered.exact
    assert metered.started
    assert "".join(metered.unmetered()) == "想a{"
    assert metered.usage == Usage(14, 0)


def test_cached_input_counts_as_prompt() -> None:
    """Anthropic's form keeps cached tokens apart; here, as in OpenAI's, they are part of the prompt."""
    body = (
        b'{"usage":{"input_tokens":10,"output_tokens":2,"cache_read_input_tokens":90,"cache_creation_input_tokens":5}}'
    )
    assert answer_usage(Api.MESSAGES, body) == Usage(105, 2, 90)


@pytest.mark.parametrize(
    ("api", "usage", "want"),
    [
        (Api.CHAT, FINAL, Usage(7, 3, 4, 2)),
        (Api.COMPLETIONS, usage_of(2, 8, prompt_tokens_details=None), Usage(2, 8)),
        (Api.OTHER, {"prompt_tokens": 5, "total_tokens": 5, "completion_tokens": None}, Usage(5, 0)),
        (Api.RESPONSES, {"input_tokens": 3, "output_tokens": 1, "input_tokens_details": None}, Usage(3, 1)),
        (Api.MESSAGES, {"input_tokens": 3, "output_tokens": 1}, Usage(3, 1)),
    ],
)
def test_usage_of_an_answer_in_one_piece(api: Api, usage: dict[str, Any], want: Usage) -> None:
    """Each protocol has its own names for it."""
    assert answer_usage(api, json.dumps({"id": "x", "usage": usage}).encode()) == want


names = st.sampled_from(["usage", "choices", "x"])
anything = st.recursive(
    st.none()
    | st.sampled_from(['"usage"', "usage", '{"usage":{"prompt_tokens":9}}', '","usage":{"prompt_tokens":9}}']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(names, anything, max_size=3), anything, st.booleans(), st.sampled_from([None, (" ,", " : ")]))
def test_the_usage_of_an_answer_is_its_own(
    fields: dict[str, Any], last: Any, told: bool, separators: tuple[str, str] | None
) -> None:
    """What other objects in the answer, before it or behind it, call usage counts for nothing, nor do texts."""
    answer = {"choices": fields, **({"usage": FINAL} if told else {}), "x": last}
    body = json.dumps(answer, separators=separators).encode()
    assert answer_usage(Api.CHAT, body) == (Usage(7, 3, 4, 2) if told else None)


@pytest.mark.parametrize("api", list(Api))
@pytest.mark.parametrize("body", [b"", b"[]", b'{"usage":null}', b'{"usage":7}', b"{}"])
def test_an_answer_without_usage_has_none(api: Api, body: bytes) -> None:
    """Broken or missing figures are not invented."""
    assert answer_usage(api, body) is None


@pytest.mark.parametrize(
    ("body", "want"),
    [
        (b'{"error":{"message":"m"}}', "m"),
        (b'{"error":"Unauthorized"}', "Unauthorized"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"error":{}}', None),
        (b"[]", None),
        (b"garbage", None),
    ],
)
def test_the_message_of_an_error_in_any_shape(body: bytes, want: str | None) -> None:
    """vLLM has six error shapes (recorded)."""
    assert error_message(body) == want


def test_response_ids() -> None:
    """An answer in one piece names its id; garbage does not."""
    assert response_id(b'{"id":"resp_1"}') == "resp_1"
    assert response_id(b"{}") is None
    assert response_id(b"x") is None


@pytest.mark.parametrize("running", [False, True])
def test_the_callers_other_stream_options_are_kept(running: bool) -> None:
    """Only the two usage switches are the gateway's."""
    ours = {"include_usage": True, "continuous_usage_stats": running}
    theirs = {"include_usage": False, "continuous_usage_stats": not running, "x": 1}
    assert metered_options(theirs, running_usage=running) == {**ours, "x": 1}
    assert metered_options(None, running_usage=running) == ours


def test_an_unmetered_protocol_passes() -> None:
    """No end marker: the end of the answer is the end."""
    metered = PlainMeter()
    assert metered.feed(b"a\n\nb") == b"a\n\n"
    assert metered.end() == b"b"
    assert metered.finished
    assert metered.exact
    assert metered.unmetered() == []
