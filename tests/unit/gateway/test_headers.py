"""Headers: what crosses the hop, in each direction."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.headers import (
    HOP_BY_HOP,
    NOT_FROM_ENGINE,
    NOT_FROM_ENGINE_PREFIXES,
    TO_ENGINE,
    answer_headers,
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
        fields=fields,
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
    assert f"{name.title()}: v" in head((name.title(), "v"))


@given(st.text())
def test_no_value_can_add_a_line(value: str) -> None:
    """Not even one that never comes through an HTTP parser."""
    assert len(head(("accept", value))) in {len(head()), len(head()) + 1}


def test_answers_keep_order_and_duplicates() -> None:
    """Fields of the engine pass as they came."""
    fields = [("X-A", "1"), ("Vary", "Origin"), ("x-a", "2"), ("Content-Type", "text/event-stream; charset=utf-8")]
    assert list(answer_headers(fields).items()) == fields


@pytest.mark.parametrize("name", sorted(NOT_FROM_ENGINE | HOP_BY_HOP))
def test_fields_of_one_connection_stay_there(name: str) -> None:
    """RFC 9110 section 7.6.1, and what the gateway says itself."""
    assert not answer_headers([(name.upper(), "x")])


def test_fields_named_by_connection_stay_too() -> None:
    """RFC 9110: `Connection: X-Hop` makes X-Hop one of them."""
    assert list(answer_headers([("Connection", "close, X-Hop"), ("x-hop", "1"), ("X-End", "2")]).items()) == [
        ("X-End", "2")
    ]


@pytest.mark.parametrize("prefix", NOT_FROM_ENGINE_PREFIXES)
def test_the_engine_cannot_steer_who_is_in_front(prefix: str) -> None:
    """X-Accel-Redirect would make nginx hand out its files; Access-Control-* would open the API to other sites."""
    assert not answer_headers([(prefix.upper() + "Redirect", "/internal"), (prefix + "x", "1")])
