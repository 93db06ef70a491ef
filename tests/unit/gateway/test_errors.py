"""Errors: status, code and body in the shape of the API that was called."""

import json

import pytest

from gateway import errors
from gateway.context import Api
from gateway.errors import GatewayError, error_body, stream_error

ALL = [
    errors.BadRequest, errors.Unauthorized, errors.Forbidden, errors.NotFound, errors.MethodNotAllowed,
    errors.RequestTimeout, errors.TooLarge, errors.UnsupportedMedia, errors.TooManyRequests, errors.EngineError,
    errors.Unavailable, errors.EngineTimeout, GatewayError,
]  # fmt: skip


@pytest.mark.parametrize("kind", ALL)
def test_openai_shape(kind: type[GatewayError]) -> None:
    """message, type, param, code: what openai's clients read."""
    error = json.loads(error_body(kind("what was wrong"), Api.CHAT, "r"))["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"] == "what was wrong"
    assert error["code"] == kind.code
    assert error["type"]


@pytest.mark.parametrize("kind", ALL)
def test_anthropic_shape(kind: type[GatewayError]) -> None:
    """type, error, request_id: what anthropic's clients read."""
    body = json.loads(error_body(kind("what was wrong"), Api.MESSAGES, "r"))
    assert body["type"] == "error"
    assert body["request_id"] == "r"
    assert body["error"]["message"] == "what was wrong"
    assert body["error"]["type"].endswith("_error") or body["error"]["type"] == "request_too_large"


def test_the_challenge_names_the_reason() -> None:
    """401 carries WWW-Authenticate, and with a bad token why."""
    assert errors.Unauthorized("x").headers == {"WWW-Authenticate": "Bearer"}
    challenge = errors.Unauthorized("x", code="token_expired").headers["WWW-Authenticate"]
    assert challenge == 'Bearer error="invalid_token", error_description="token_expired"'


@pytest.mark.parametrize(
    ("api", "start"),
    [
        (Api.CHAT, b'data: {"error":{'),
        (Api.COMPLETIONS, b'data: {"error":{'),
        (Api.OTHER, b'data: {"error":{'),
        (Api.MESSAGES, b'event: error\ndata: {"type":"error","error":{'),
        (Api.RESPONSES, b'event: error\ndata: {"type":"error",'),
    ],
)
def test_the_event_that_ends_a_stream(api: Api, start: bytes) -> None:
    """One whole event in the API's own form."""
    event = stream_error(errors.EngineError("broken\n\n"), api, "r", 7)
    assert event.startswith(start)
    assert event.endswith(b"\n\n")
    assert event.count(b"\n\n") == 1
    payload = json.loads(event.split(b"data: ", 1)[1])
    if api is Api.RESPONSES:
        assert payload["sequence_number"] == 7
        assert payload["code"] == "engine_error"
