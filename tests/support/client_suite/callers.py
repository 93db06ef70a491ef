"""The official clients, pointed at a stack as their documentation says, and what the record must hold of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import anthropic
import openai

from tests.support.client_suite import MESSAGES
from tests.support.stack import Stack

HOW: dict[str, Any] = {"max_retries": 0, "timeout": 60.0}
"""No retries: a test wants to see the first error."""


def openai_client(stack: Stack, token: str | None = None, **how: Any) -> openai.OpenAI:
    """The synchronous OpenAI client."""
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=token or stack.token(), **{**HOW, **how})


def async_openai_client(stack: Stack, token: str | None = None, **how: Any) -> openai.AsyncOpenAI:
    """The asynchronous OpenAI client."""
    return openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=token or stack.token(), **{**HOW, **how})


def anthropic_client(stack: Stack, token: str | None = None, **how: Any) -> anthropic.Anthropic:
    """The synchronous Anthropic client; it sends its key as x-api-key."""
    return anthropic.Anthropic(base_url=stack.url, **{"api_key": token or stack.token(), **HOW, **how})


def async_anthropic_client(stack: Stack, token: str | None = None, **how: Any) -> anthropic.AsyncAnthropic:
    """The asynchronous Anthropic client."""
    return anthropic.AsyncAnthropic(base_url=stack.url, api_key=token or stack.token(), **{**HOW, **how})


class Caller(NamedTuple):
    """One client asking for one short answer: `ask(stack, token, fields of the request, options of the client)`."""

    errors: ModuleType
    ask: Callable[..., Any]


def _openai(stack: Stack, token: str | None = None, fields: dict[str, Any] | None = None, **how: Any) -> Any:
    with openai_client(stack, token, **how) as client:
        return client.chat.completions.create(**_request(stack, fields))


def _async_openai(stack: Stack, token: str | None = None, fields: dict[str, Any] | None = None, **how: Any) -> Any:
    async def ask() -> Any:
        async with async_openai_client(stack, token, **how) as client:
            return await client.chat.completions.create(**_request(stack, fields))

    return asyncio.run(ask())


def _anthropic(stack: Stack, token: str | None = None, fields: dict[str, Any] | None = None, **how: Any) -> Any:
    with anthropic_client(stack, token, **how) as client:
        return client.messages.create(**_request(stack, fields))


def _async_anthropic(stack: Stack, token: str | None = None, fields: dict[str, Any] | None = None, **how: Any) -> Any:
    async def ask() -> Any:
        async with async_anthropic_client(stack, token, **how) as client:
            return await client.messages.create(**_request(stack, fields))

    return asyncio.run(ask())


def _request(stack: Stack, fields: dict[str, Any] | None) -> dict[str, Any]:
    return {"model": stack.model, "messages": MESSAGES, "max_tokens": 8, **(fields or {})}


CALLERS = {
    "openai": Caller(openai, _openai),
    "async openai": Caller(openai, _async_openai),
    "anthropic": Caller(anthropic, _anthropic),
    "async anthropic": Caller(anthropic, _async_anthropic),
}


def recorded(stack: Stack, request_id: str | None, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """The line of a request that was answered, which must have exactly the tokens that its client was told."""
    assert request_id
    line = stack.logged(request_id)
    told = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    assert line.items() >= {**told, "estimated": False, "outcome": "complete", "status": 200}.items()
    return line
