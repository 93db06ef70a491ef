"""The line of a request: its fields and their order, and what never stands in it."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.logs.line import LogLine, clean
from gateway.timing import Timing
from tests.unit.gateway.exchanges import finished

FIELDS = [
    "ts",
    "request_id",
    "subject",
    "team",
    "plan",
    "token_id",
    "client_ip",
    "method",
    "route",
    "model",
    "status",
    "outcome",
    "stream",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "estimated",
    "ttft_ms",
    "duration_ms",
    "queue_ms",
    "overhead_ms",
    "tokens_per_second",
    "bytes_in",
    "bytes_out",
    "user_agent",
    "error_code",
]
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"


def line(**changes: object) -> LogLine:
    exchange = finished(**changes)
    return LogLine.of(exchange, Timing.of(exchange, ended=102.252))


def test_the_line_is_exactly_this() -> None:
    """Golden: every field of the contract in its order, times in milliseconds."""
    assert line().json() == (
        b'{"ts":"2026-11-22T11:36:32.123Z","request_id":"r0","subject":"alice","team":"red","plan":"member",'
        b'"token_id":"t1","client_ip":"192.0.2.7","method":"POST","route":"/v1/chat/completions","model":"gpt-oss-20b",'
        b'"status":200,"outcome":"complete","stream":true,"prompt_tokens":12,"cached_tokens":4,"completion_tokens":101,'
        b'"reasoning_tokens":30,"estimated":false,"ttft_ms":252.0,"duration_ms":2252.0,"queue_ms":250.0,'
        b'"overhead_ms":2.0,"tokens_per_second":50.0,"bytes_in":300,"bytes_out":9000,"user_agent":"openai-python/3",'
        b'"error_code":null}\n'
    )
    assert list(json.loads(line().json())) == FIELDS


def test_a_request_that_nobody_proved_to_have_sent_has_its_line_too() -> None:
    """A 401 has no subject, no model, no token times."""
    fields = json.loads(line(principal=None, model=None, sent_at=None, first_token_at=None, status=401).json())
    assert {fields[name] for name in ("subject", "team", "plan", "token_id", "model", "ttft_ms", "queue_ms")} == {None}


def test_the_console_form_is_one_line_for_people() -> None:
    """What happened to whom, how long, how much."""
    assert line().console().decode() == (
        "11:36:32.123 200 POST /v1/chat/completions alice gpt-oss-20b complete 2252 ms first token 252 ms"
        " 12+101 tokens 50 tok/s r0\n"
    )
    refused = line(status=429, outcome="rejected", error_code="rate_limit_exceeded", sent_at=None, first_token_at=None)
    assert b"rejected (rate_limit_exceeded) " in refused.console()


@pytest.mark.parametrize(
    "text", [f"curl {JWT}", f"Bearer {JWT}", "BEARER abcdefghijkl", "Authorization: Basic dXNlcjpwYXNz", f"x{JWT}x"]
)
@pytest.mark.parametrize("field", ["user_agent", "model", "request_id", "error_code", "method"])
def test_no_credential_gets_into_the_line(field: str, text: str) -> None:
    """Whatever a client puts a token into, by mistake or on purpose, the record does not keep it."""
    for written in (line(**{field: text}).json(), line(**{field: text}).console()):
        assert b"[redacted]" in written or field not in json.loads(line().json()) or field == "user_agent"
        assert JWT[:30].encode() not in written
        assert b"dXNlcjpwYXNz" not in written
        assert b"abcdefghijkl" not in written


@given(st.text(st.characters() | st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), max_size=400))
def test_no_text_breaks_a_line_or_moves_a_cursor(text: str) -> None:
    """Control characters, terminal escapes, bidi marks, lone surrogates: one printable line, valid JSON, bounded."""
    for written in (line(user_agent=text, model=text).json(), line(model=text, error_code=text).console()):
        decoded = written.decode()
        assert decoded.endswith("\n")
        assert decoded.count("\n") == 1
        assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in decoded[:-1])
        assert len(decoded) < 7000
    json.loads(line(user_agent=text).json())


def test_ordinary_text_is_left_alone() -> None:
    """Names of any language stay readable."""
    assert clean("Zoë 王小明 basic curl/8") == "Zoë 王小明 basic curl/8"
