"""Refusals reach the official clients as their own exception classes, each with the request id that the record has."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest

from tests.support.client_suite import MESSAGES
from tests.support.client_suite.callers import CALLERS, anthropic_client, openai_client
from tests.support.stack import Stack

TOO_LONG = "towers and "  # two tokens or more with every tokenizer
each_client = pytest.mark.parametrize("client", CALLERS)


def refused(stack: Stack, client: str, kind: str, status: int, **how: Any) -> Any:
    """Ask, and get the client's exception of this name; checks its status, request id and line. Returns it."""
    caller = CALLERS[client]
    with pytest.raises(getattr(caller.errors, kind)) as caught:
        caller.ask(stack, **how)
    error = caught.value
    assert type(error).__name__ == kind
    recorded_refusal(stack, error, status)
    return error


def recorded_refusal(stack: Stack, error: openai.APIStatusError | anthropic.APIStatusError, status: int) -> Any:
    """The line of a refusal: same status, no token, and it never ran."""
    assert error.status_code == status
    assert error.request_id
    assert str(error)
    line = stack.logged(error.request_id)
    assert line["status"] == status
    assert line["completion_tokens"] == 0
    return line


@each_client
def test_a_bad_token_is_401(stack: Stack, client: str) -> None:
    """What is no token at all is an AuthenticationError."""
    refused(stack, client, "AuthenticationError", 401, token="sk-not-a-token")


@each_client
def test_an_expired_token_is_401(stack: Stack, client: str) -> None:
    """A token of ours that has expired is an AuthenticationError that says so."""
    error = refused(stack, client, "AuthenticationError", 401, token=stack.token(ttl_seconds=-3600))
    assert "expired" in str(error)


@each_client
def test_a_missing_token_is_401(stack: Stack, client: str) -> None:
    """No credential at all is an AuthenticationError."""
    nothing = {"Authorization": CALLERS[client].errors.Omit(), "X-Api-Key": CALLERS[client].errors.Omit()}
    refused(stack, client, "AuthenticationError", 401, fields={"extra_headers": nothing})


@each_client
def test_a_token_without_the_scope_is_403(stack: Stack, client: str) -> None:
    """A token for another purpose is a PermissionDeniedError."""
    refused(stack, client, "PermissionDeniedError", 403, token=stack.token(scopes=("usage:all",)))


@each_client
def test_an_unknown_model_is_404(stack: Stack, client: str) -> None:
    """A model that is not served is a NotFoundError that names it."""
    error = refused(stack, client, "NotFoundError", 404, fields={"model": "gpt-9"})
    assert "gpt-9" in str(error)


def test_an_unknown_model_is_not_found_by_name(stack: Stack) -> None:
    """`models.retrieve()` of a model that is not served is a NotFoundError."""
    with openai_client(stack) as client, pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"
    recorded_refusal(stack, caught.value, 404)


@each_client
def test_a_bad_value_is_400(stack: Stack, client: str) -> None:
    """A value that the gateway refuses is a BadRequestError that names the field."""
    error = refused(stack, client, "BadRequestError", 400, fields={"max_tokens": -1})
    assert "max_tokens" in str(error)


@each_client
def test_what_the_engine_refuses_is_400(stack: Stack, client: str) -> None:
    """A value that vLLM refuses is a BadRequestError with vLLM's own words."""
    error = refused(stack, client, "BadRequestError", 400, fields={"extra_body": {"temperature": -1.0}})
    assert "temperature" in str(error)


@each_client
def test_a_prompt_beyond_the_context_is_400(stack: Stack, client: str) -> None:
    """A prompt longer than the model's context is a BadRequestError with vLLM's own words."""
    content = TOO_LONG * stack.config.engine.max_model_len
    error = refused(stack, client, "BadRequestError", 400, fields={"messages": [{"role": "user", "content": content}]})
    assert "context length" in str(error)


@each_client
def test_a_field_of_the_gateways_own_is_400(stack: Stack, client: str) -> None:
    """`priority` belongs to the gateway: a caller that sets it gets a BadRequestError."""
    error = refused(stack, client, "BadRequestError", 400, fields={"extra_body": {"priority": -100}})
    assert "priority" in str(error)


@each_client
def test_a_body_that_is_too_large_is_413(stack: Stack, client: str) -> None:
    """More than gateway.max_body_bytes is the client's error of status 413."""
    content = "x" * (stack.config.gateway.max_body_bytes + 1)
    kind = "ContentTooLargeError" if "anthropic" in client else "APIStatusError"
    refused(stack, client, kind, 413, fields={"messages": [{"role": "user", "content": content}]})


@each_client
def test_a_plan_that_is_used_up_is_429(stack: Stack, client: str) -> None:
    """The second request of a plan with one a minute is a RateLimitError that says when to come again."""
    token = stack.token(f"once, {client}", plan="once")
    CALLERS[client].ask(stack, token)
    error = refused(stack, client, "RateLimitError", 429, token=token)
    assert 0 < int(error.response.headers["retry-after"]) <= 60
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"


def test_an_error_in_a_stream_request_is_an_answer(stack: Stack) -> None:
    """A streamed request that is refused raises when it is made, not when it is read."""
    with anthropic_client(stack) as client, pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="gpt-9", messages=MESSAGES, max_tokens=5, stream=True)
