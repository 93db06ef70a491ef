"""What the official clients are for: models, the four APIs, streaming or not, and the record of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.client_suite import CHINESE, JSON_SCHEMA, MESSAGES, SCHEMA, TOOL, EngineTraits
from tests.support.client_suite.callers import (
    anthropic_client,
    async_anthropic_client,
    async_openai_client,
    openai_client,
    recorded,
)
from tests.support.stack import Stack


def test_models_are_listed_and_found(stack: Stack) -> None:
    """`models.list()` and `models.retrieve()` know the one model that is served."""
    with openai_client(stack) as client:
        assert [model.id for model in client.models.list()] == [stack.model]
        assert client.models.retrieve(stack.model).id == stack.model


def test_a_chat(stack: Stack, engine: EngineTraits) -> None:
    """A chat's answer comes whole, with usage, fingerprint and request id; the record has the same tokens."""
    with openai_client(stack) as client:
        answer = client.chat.completions.create(model=stack.model, messages=MESSAGES, max_tokens=60, temperature=0)
    message = answer.choices[0].message
    assert message.content or message.reasoning
    assert answer.system_fingerprint.startswith(engine.fingerprint)
    line = recorded(stack, answer._request_id, answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert line.items() >= {"route": "/v1/chat/completions", "stream": False, "subject": "tester"}.items()


@pytest.mark.parametrize("asked", [False, True])
def test_a_streamed_chat(stack: Stack, engine: EngineTraits, asked: bool) -> None:
    """A streamed chat is the same text as the whole one; usage comes once at the end where it was asked for, else not
    at all; the record has it in either case.
    """
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
    same: dict[str, Any] = {"model": stack.model, "messages": MESSAGES, "max_tokens": 60, "temperature": 0}
    with openai_client(stack) as client:
        whole = client.chat.completions.create(**same)
        with client.chat.completions.create(**same, stream=True, **options) as stream:
            request_id = stream.response.headers["x-request-id"]
            chunks = list(stream)
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    said = "".join((getattr(delta, "reasoning", None) or "") + (delta.content or "") for delta in deltas)
    message = whole.choices[0].message
    assert said == (message.reasoning or "") + (message.content or "")
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert len(usages) == asked
    assert all(chunk.choices for chunk in chunks[:-1])
    assert chunks[-1].system_fingerprint.startswith(engine.fingerprint)
    usage = usages[0] if asked else whole.usage
    line = recorded(stack, request_id, usage.prompt_tokens, usage.completion_tokens)
    assert line["stream"] is True
    assert line["ttft_ms"] is not None


def test_completions(stack: Stack) -> None:
    """Completions, whole and streamed, for several prompts with several choices each."""
    body: dict[str, Any] = {"model": stack.model, "prompt": ["import", "def a"], "n": 2, "max_tokens": 6, "seed": 3}
    with openai_client(stack) as client:
        whole = client.completions.create(**body)
        with client.completions.create(**body, stream=True, stream_options={"include_usage": True}) as stream:
            request_id = stream.response.headers["x-request-id"]
            chunks = list(stream)
    recorded(stack, whole._request_id, whole.usage.prompt_tokens, whole.usage.completion_tokens)
    texts = dict.fromkeys(range(4), "")
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert list(texts.values()) == [choice.text for choice in whole.choices]
    usage = chunks[-1].usage
    recorded(stack, request_id, usage.prompt_tokens, usage.completion_tokens)


def test_responses(stack: Stack) -> None:
    """The Responses API, whole and streamed: the last event carries the usage that the record has."""
    body: dict[str, Any] = {"model": stack.model, "input": "Hello", "max_output_tokens": 60, "temperature": 0}
    with openai_client(stack) as client:
        whole = client.responses.create(**body)
        with client.responses.create(**body, stream=True) as stream:
            request_id = stream.response.headers["x-request-id"]
            events = list(stream)
    recorded(stack, whole._request_id, whole.usage.input_tokens, whole.usage.output_tokens)
    assert events[0].type == "response.created"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1].response
    assert last.output_text == whole.output_text
    recorded(stack, request_id, last.usage.input_tokens, last.usage.output_tokens)


def test_messages(stack: Stack) -> None:
    """The Messages API, whole and streamed; what is cached counts as part of the prompt in the record."""
    body: dict[str, Any] = {"model": stack.model, "messages": MESSAGES, "max_tokens": 60}
    body["extra_body"] = {"temperature": 0}
    with anthropic_client(stack) as client:
        whole = client.messages.create(**body)
        with client.messages.stream(**body) as stream:
            request_id = stream.response.headers["request-id"]
            final = stream.get_final_message()
    assert [_said(block) for block in final.content] == [_said(block) for block in whole.content]
    for message, its_id in ((whole, whole._request_id), (final, request_id)):
        recorded(stack, its_id, input_tokens(message.usage), message.usage.output_tokens)


def test_a_long_prompt_in_messages_is_counted_whole(stack: Stack) -> None:
    """Anthropic's usage tells apart what was read from the prefix cache and what was put there; all of it is prompt."""
    messages = [{"role": "user", "content": "A long story about towers. " * 60}]
    with anthropic_client(stack) as client:
        counted = client.messages.count_tokens(model=stack.model, messages=messages).input_tokens
        for _ in range(2):  # once to fill the cache, once to find it
            answer = client.messages.create(model=stack.model, messages=messages, max_tokens=2)
            assert input_tokens(answer.usage) == counted
            recorded(stack, answer._request_id, counted, answer.usage.output_tokens)


def input_tokens(usage: Any) -> int:
    """The whole prompt in Anthropic's counting."""
    return usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)


def _said(block: Any) -> str:
    return block.thinking if block.type == "thinking" else block.text


def test_an_anthropic_client_may_send_a_bearer_token(stack: Stack) -> None:
    """`auth_token` (Authorization: Bearer) is taken as well as `api_key` (x-api-key)."""
    with anthropic_client(stack, api_key=None, auth_token=stack.token()) as client:
        answer = client.messages.count_tokens(model=stack.model, messages=MESSAGES)
    assert answer.input_tokens > 0


async def test_the_asynchronous_clients(stack: Stack) -> None:
    """Both asynchronous clients, all four APIs at once, streaming and not, each with its line in the record."""
    chat: dict[str, Any] = {"model": stack.model, "messages": MESSAGES, "max_tokens": 20}
    async with async_openai_client(stack) as client, async_anthropic_client(stack) as other:

        async def streamed() -> tuple[str, Any]:
            options: Any = {"include_usage": True}
            async with await client.chat.completions.create(**chat, stream=True, stream_options=options) as stream:
                chunks = [chunk async for chunk in stream]
                return stream.response.headers["x-request-id"], chunks[-1].usage

        async def messages() -> tuple[str, Any]:
            async with other.messages.stream(**chat) as stream:
                final = await stream.get_final_message()
                return stream.response.headers["request-id"], final.usage

        whole, text, response, (chat_id, usage), (message_id, message) = await asyncio.gather(
            client.chat.completions.create(**chat),
            client.completions.create(model=stack.model, prompt="import", max_tokens=8),
            client.responses.create(model=stack.model, input="Hello", max_output_tokens=20),
            streamed(),
            messages(),
        )
        assert [model.id async for model in client.models.list()] == [stack.model]
    recorded(stack, whole._request_id, whole.usage.prompt_tokens, whole.usage.completion_tokens)
    recorded(stack, text._request_id, text.usage.prompt_tokens, text.usage.completion_tokens)
    recorded(stack, response._request_id, response.usage.input_tokens, response.usage.output_tokens)
    recorded(stack, chat_id, usage.prompt_tokens, usage.completion_tokens)
    recorded(stack, message_id, input_tokens(message), message.output_tokens)


def test_chinese_survives_any_split(stack: Stack) -> None:
    """Characters of several tokens, and of several bytes, arrive whole in a stream."""
    guided: Any = {"structured_outputs": {"choice": [CHINESE]}}
    with openai_client(stack) as client:
        stream = client.completions.create(
            model=stack.model, prompt=CHINESE, max_tokens=100, stream=True, extra_body=guided
        )
        chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == CHINESE
    assert len(chunks) > 3


def test_a_stop_string(stack: Stack) -> None:
    """`stop` ends an answer before its text."""
    body: dict[str, Any] = {"model": stack.model, "prompt": "import os", "max_tokens": 12, "temperature": 0}
    with openai_client(stack) as client:
        text = client.completions.create(**body).choices[0].text
        stop = text[len(text) // 2 : len(text) // 2 + 3]
        stopped = client.completions.create(**body, stop=[stop]).choices[0]
    assert stopped.text == text[: text.index(stop)]
    assert stopped.finish_reason == "stop"


def test_choices_and_logprobs(stack: Stack) -> None:
    """`n` and `logprobs`: as many answers as were asked for, each with as many alternatives."""
    with openai_client(stack) as client:
        answer = client.chat.completions.create(
            model=stack.model, messages=MESSAGES, max_tokens=6, n=3, logprobs=True, top_logprobs=2
        )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(len(token.top_logprobs) == 2 for choice in answer.choices for token in choice.logprobs.content)
    recorded(stack, answer._request_id, answer.usage.prompt_tokens, answer.usage.completion_tokens)


def test_a_json_schema(stack: Stack, engine: EngineTraits) -> None:
    """`response_format` of the kind json_schema reaches the engine: the answer keeps to the schema."""
    with openai_client(stack) as client:
        text = client.completions.create(
            model=stack.model, prompt="{", max_tokens=60, temperature=0, extra_body={"response_format": JSON_SCHEMA}
        )
        chat = client.chat.completions.create(
            model=stack.model, messages=MESSAGES, max_tokens=200, response_format=JSON_SCHEMA
        )
    assert json.loads(text.choices[0].text)["city"] in SCHEMA["properties"]["city"]["enum"]
    if engine.tools_in_chat:
        assert json.loads(chat.choices[0].message.content)["city"] in SCHEMA["properties"]["city"]["enum"]


def test_tools(stack: Stack, engine: EngineTraits) -> None:
    """A required tool is called on each API that has tools, streamed or not; the arguments are JSON."""
    body: dict[str, Any] = {"model": stack.model, "messages": MESSAGES, "tools": [TOOL], "tool_choice": "required"}
    with openai_client(stack) as client, anthropic_client(stack) as other:
        whole = client.chat.completions.create(**body, max_tokens=200)
        with client.chat.completions.stream(**body, max_tokens=200) as stream:
            final = stream.get_final_completion()
        message = other.messages.create(
            model=stack.model,
            messages=MESSAGES,
            max_tokens=200,
            tools=[{"name": "get_weather", "input_schema": SCHEMA}],
            tool_choice={"type": "tool", "name": "get_weather"},
        )
    if not engine.tools_in_chat:
        return
    for answer in (whole, final):
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments)["city"] in SCHEMA["properties"]["city"]["enum"]
        assert answer.choices[0].finish_reason == "tool_calls"
    used = [block for block in message.content if block.type == "tool_use"]
    assert [(block.name, set(block.input)) for block in used] == [("get_weather", {"city"})]
