"""At the end of the real engine's context: the limits that the gateway sets never turn an answer into a refusal."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.client_suite.wire import send, without_variables
from tests.support.stack import Stack

ROOM = 4  # tokens left for the answer


def message_of(stack: Stack, tokens: int) -> list[dict[str, str]]:
    """A chat whose prompt has so many tokens, as the engine counts them."""

    def counted(words: int) -> int:
        body = {"model": stack.model, "messages": [{"role": "user", "content": " red" * words}]}
        return int(send(stack, "/v1/messages/count_tokens", body).body.split(b":")[1].split(b",")[0])

    words = tokens - (counted(10) - 10)
    assert counted(words) == tokens
    return [{"role": "user", "content": " red" * words}]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_prompt_that_nearly_fills_the_context(stack: Stack, path: str) -> None:
    """A client that names no limit gets the few tokens that are left, as it does from vLLM itself."""
    messages = message_of(stack, stack.config.engine.max_model_len - ROOM)
    prompt = {"input": messages} if path == "/v1/responses" else {"messages": messages}
    body: dict[str, Any] = {"model": stack.model, **prompt, "temperature": 0}
    send(stack, path, body, direct=True)  # into the prefix cache
    engine = send(stack, path, body, direct=True)
    gateway = send(stack, path, body)
    assert (engine.status, gateway.status) == (200, 200)
    if path == "/v1/chat/completions":  # a response repeats the limit that was set, which here is the gateway's
        assert without_variables(gateway.body) == without_variables(engine.body)


@pytest.mark.parametrize("limit", [{}, {"max_tokens": 2048}])
@pytest.mark.parametrize("missing", [1, 0, -1])
def test_prompts_around_the_context_length(stack: Stack, missing: int, limit: dict[str, int]) -> None:
    """One token less than the context is answered, the whole context and one more are refused, as by vLLM itself."""
    prompt = [300] * (stack.config.engine.max_model_len - missing)
    body = {"model": stack.model, "prompt": prompt, "temperature": 0, **limit}
    send(stack, "/v1/completions", body, direct=True)
    engine = send(stack, "/v1/completions", body, direct=True)
    gateway = send(stack, "/v1/completions", body)
    assert engine.status == (200 if missing > 0 else 400)
    assert (gateway.status, without_variables(gateway.body)) == (engine.status, without_variables(engine.body))
