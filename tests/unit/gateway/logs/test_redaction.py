"""Prompts and answers as they may stand in the record."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bodies import Bodies
from gateway.config import BodySettings
from gateway.logs.redaction import MARGIN, Redactor

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.abcdefghijklmnop"
SECRETS = [
    "sk-abcdefghijklmnop1234567890",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "xoxb-1234567890-abcdefghij",
    JWT,
    "Bearer abcdefghijklmnop",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----",
]


def redactor(**settings: object) -> Redactor:
    return Redactor(BodySettings(enabled=True, **settings))


def asked(body: object, settings: Redactor | None = None, keep: int = 16 * 1024 + MARGIN) -> str:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (settings or redactor()).request(Bodies(data, keep))


@pytest.mark.parametrize("secret", SECRETS)
def test_what_looks_like_a_secret_goes(secret: str) -> None:
    """In a value, in a name, in text, in what is no JSON, in what was cut, in a stream's text; the rest stays."""
    body = {"messages": [{"role": "user", "content": f"mine is {secret} , keep it"}]}
    for text in (
        asked(body),
        asked({secret: 1}),
        asked(f"no json {secret}".encode()),
        asked(json.dumps(body).encode() + b" " * 40_000),
    ):
        assert secret.splitlines()[-1] not in text
        assert "[redacted]" in text
    assert json.loads(asked(body))["messages"][0]["content"] == "mine is [redacted] , keep it"


@pytest.mark.parametrize(
    "value", ["hunter2", 4711, ["hunter2"], {"a": "hunter2", "b": [4711]}, 'say "hunter2" now', "a, hunter2"]
)
def test_the_values_of_named_fields_go(value: object) -> None:
    """At any depth, in any letters' case; where JSON is quoted in a text; where the body was cut within."""
    call = {"function": {"arguments": json.dumps({"user": "ada", "Password": value})}}
    body = {"user": "ada", "a": [{"PASSWORD": value}], "calls": [call]}
    whole = asked(body)
    quoted = json.loads(whole)["calls"][0]["function"]["arguments"]
    cut = asked(json.dumps({"user": "ada", "Password": value, "rest": "x" * 50_000}).encode())
    for text in (whole, quoted, cut):
        assert "hunter2" not in text
        assert "4711" not in text
        assert "ada" in text


def test_words_of_a_text_that_name_a_secret() -> None:
    """`password: x`, `api_key=x`; but not the word alone."""
    text = redactor().text("My password: hunter2, api_key=abc123; what is a good password policy?")
    assert text == "My password: [redacted], api_key: [redacted]; what is a good password policy?"


def test_what_the_operator_adds() -> None:
    """Patterns are looked for in each value."""
    ours = redactor(redact_patterns=[r"\b\d{17}[\dX]\b"], redact_fields=["diagnosis"])
    assert json.loads(asked({"content": "id 11010519491231002X", "Diagnosis": "flu", "password": "p"}, ours)) == {
        "content": "id [redacted]",
        "Diagnosis": "[redacted]",
        "password": "p",
    }


@pytest.mark.parametrize("pattern", ["(", "x*", ""])
def test_patterns_that_are_refused(pattern: str) -> None:
    """What is no regular expression, or would match everywhere."""
    with pytest.raises(ValueError, match=r"regular expression|everywhere"):
        BodySettings(redact_patterns=[pattern])


@given(st.text(max_size=300), st.integers(1, 200))
def test_a_bound_that_holds(text: str, most: int) -> None:
    """No more than `max_bytes` and a mark; nothing that a terminal obeys; valid for JSON."""
    ours = redactor(max_bytes=most)
    for kept in (asked({"content": text}, ours, most + 10), asked(text.encode(errors="replace"), ours, most + 10)):
        assert len(kept.encode()) <= most + len("… (cut)".encode())
        assert not set(kept) & {"\x1b", "\x07", "\x9b", "\r", "\u202e"}
        json.dumps(kept).encode()


def test_a_secret_that_the_cut_divides() -> None:
    """It is looked at beyond what is kept: no half of it stays."""
    for before in range(70, 101):
        kept = asked(b"x" * before + b" " + SECRETS[0].encode() + b" end", redactor(max_bytes=100), 100 + MARGIN)
        assert "sk-a" not in kept
        assert kept.endswith("… (cut)") or len(kept) <= 100


def test_images_are_shortened() -> None:
    """A data URL keeps its kind and its size."""
    kept = asked({"url": "data:image/png;base64," + "A" * 5000})
    assert len(kept) < 120
    assert "data:image/png;base64,AAA" in kept
    assert "(5022 characters)" in kept


STREAMS = {
    "chat": (
        (
            b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}\n\n'
            b'data: {"choices":[{"index":0,"delta":{"content":"He"}}]}\n\ndata: {"choices":[{"index":0,"delta":{"content":"llo"}}]}\n\n'
            b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}]}\n\ndata: [DONE]\n\n'
        ),
        "[reasoning] hm\n[answer] Hello\n[tool call] {}",
    ),
    "completions": (
        b'data: {"choices":[{"index":0,"text":"a"}]}\n\ndata: {"choices":[{"index":1,"text":"b"}]}\n\n',
        "[answer] a\n[answer 1] b",
    ),
    "responses": (
        (
            b'event: x\ndata: {"type":"response.reasoning_text.delta","delta":"hm"}\n\n'
            b'event: x\ndata: {"type":"response.output_text.delta","delta":"Hello"}\n\n'
            b'data: {"type":"response.completed","response":{"output":[{"text":"Hello"}]}}\n\n'
        ),
        "[reasoning] hm\n[answer] Hello",
    ),
    "messages": (
        (
            b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}\n\n'
            b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"lo"}}\n\n'
            b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n: comment\n\ndata: {nonsense\n\n'
        ),
        "Hello",
    ),
}


@pytest.mark.parametrize("api", STREAMS)
def test_the_text_of_a_stream(api: str) -> None:
    """Of each protocol, whatever events come together; as far as it is kept."""
    events, text = STREAMS[api]
    for pieces in ([events], [event + b"\n\n" for event in events.split(b"\n\n") if event]):
        bodies = Bodies(b"{}", 1000)
        for piece in pieces:
            bodies.streamed(piece)
        assert (bodies.text, bodies.answer_is_whole) == (text, True)
    short = Bodies(b"{}", 1)
    short.streamed(events)
    assert (short.weight, short.answer_is_whole) == (1 + 1, False)


@pytest.mark.parametrize(
    "text",
    [
        "\\" * 20_001 + "password",
        'password: "' + "\\" * 20_001,
        'password: "' + '\\"' * 10_000,
        'password"' * 3000,
        "secret" + " " * 20_000,
        "eyJaaaaaaaa." * 1600,
        "bearer" + " " * 20_000,
        "-----BEGIN PRIVATE KEY-----" * 800,
        "sk-" * 7000,
    ],
)
def test_no_text_keeps_the_writer_busy(text: str) -> None:
    """CPU time stays far below a second for the most that is looked at: no rule backtracks (it took 8 s once)."""
    began = time.process_time()
    for body in (text.encode(), json.dumps({"content": text}).encode()):
        asked(body)
    assert time.process_time() - began < 2
