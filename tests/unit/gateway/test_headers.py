"""Headers: what crosses the hop, in each direction."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.headers import (
    HOP_BY_HOP,
    NOT_FROM_ENGINE,
    NOT_FROM_ENGINE_PREFIXES,
    TO_ENGINE,
    answer_lines,
    is_event_stream,
    request_head,
)


def head(*fields: tuple[str, str], api_key: str | None = "k") -> list[str]:
    data = request_head(
        method="POST",
        target="/v1/x",
        authority="127.0.0.1:8000",
        request_id="r1",
        api_key=api_key,
        length=3,
        fields=CIMultiDictProxy(CIMultiDict(fields)),
    )
    assert data.endswith(b"\r\n\r\n")
    return data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")


def test_the_engine_gets_the_gateways_own_fields() -> None:
    """Target, Host and credentials are constants of the gateway, never the client's."""
    lines = head()
    assert lines[0] == "POST /v1/x HTTP/1.1"
    assert "Host: 127.0.0.1:8000" in lines
    assert "Authorization: Bearer k" in lines
    assert "Content-Length: 3" in lines
    assert "X-Request-Id: r1" in lines
    assert not any(line.startswith("Authorization") for line in head(api_key=None))


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "Cookie", "Host", "X-Forwarded-For", "X-Forwarded-User", "Forwarded", "X_Forwarded_For", "X-Api-Key",
        "Connection", "Transfer-Encoding", "Content-Length", "X-Request-Id", "Content-Encoding", "Expect", "Upgrade", "X-User",
    ],
)  # fmt: skip
def test_nothing_else_of_the_client_reaches_the_engine(name: str) -> None:
    """Credentials, identity, forwarding, framing: an allowlist cannot forget one."""
    assert not any("evil" in line for line in head((name, "evil")))


@pytest.mark.parametrize("name", sorted(TO_ENGINE))
def test_what_the_client_may_say_passes(name: str) -> None:
    """Whatever its case."""
    assert f"{name}: v" in head((name.title(), "v"))


@given(st.text())
def test_no_value_can_add_a_line(value: str) -> None:
    """Not even one that never comes through an HTTP parser."""
    assert len(head(("accept", value))) in {len(head()), len(head()) + 1}


def from_engine(*fields: tuple[str, str]) -> str:
    return answer_lines([(name.encode(), value.encode("latin-1")) for name, value in fields])


def test_answers_keep_order_and_duplicates() -> None:
    """Fields of the engine pass as they came."""
    fields = [("X-A", "1"), ("Vary", "Origin"), ("x-a", "é"), ("Content-Type", "text/event-stream; charset=utf-8")]
    assert from_engine(*fields) == "".join(f"{name}: {value}\r\n" for name, value in fields)


@pytest.mark.parametrize("name", sorted(NOT_FROM_ENGINE | HOP_BY_HOP))
def test_fields_of_one_connection_stay_there(name: str) -> None:
    """RFC 9110 section 7.6.1, and what the gateway says itself."""
    assert not from_engine((name.upper(), "x"))


def test_fields_named_by_connection_stay_too() -> None:
    """RFC 9110: `Connection: X-Hop` makes X-Hop one of them, and nothing else."""
    fields = [("Connection", "close, X-Hop"), ("x-hop", "1"), ("X-Hop-2", "\x85"), ("X-End", "2")]
    assert from_engine(*fields) == "X-Hop-2: \x85\r\nX-End: 2\r\n"


@pytest.mark.parametrize("prefix", NOT_FROM_ENGINE_PREFIXES)
def test_the_engine_cannot_steer_who_is_in_front(prefix: str) -> None:
    """X-Accel-Redirect would make nginx hand out its files; Access-Control-* would open the API to other sites."""
    assert not from_engine((prefix.upper() + "Redirect", "/internal"), (prefix + "x", "1"))


@pytest.mark.parametrize(
    ("lines", "streams"),
    [
        ("content-type: text/event-stream; charset=utf-8\r\n", True),
        ("X-A: 1\r\nContent-Type: Text/Event-Stream\r\n", True),
        ("content-type: application/json\r\n", False),
        ("x-content-type: text/event-stream\r\n", False),
        ("", False),
    ],
)
def test_a_stream_is_known_by_its_type(lines: str, streams: bool) -> None:
    """Whatever its case, and whatever else is said."""
    assert is_event_stream(lines) is streams
