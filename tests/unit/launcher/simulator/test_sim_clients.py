"""The official clients, unmodified, read what the simulator says."""

import json

import pytest
from anthropic import AsyncAnthropic
from anthropic import NotFoundError as AnthropicNotFoundError
from openai import AsyncOpenAI, AuthenticationError, BadRequestError, NotFoundError

from tests.support.engines import MODEL, Simulator, simulator

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "days", "unit"],
}
EXPECTED = {"city": "simulated", "days": 1, "unit": "C"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
GREEDY = {"temperature": 0}
MESSAGES = [{"role": "user", "content": "please call weather"}]


def openai(engine: Simulator, key: str = "key") -> AsyncOpenAI:
    """The openai client on the simulator."""
    return AsyncOpenAI(base_url=engine.url + "/v1", api_key=key, max_retries=0)


async def test_openai_chat_tools_and_structures() -> None:
    """Tool calls by name, by need and by the user's word; JSON by schema; logprobs; streamed and whole agree."""
    async with simulator(knobs={"tps": 0}) as engine, openai(engine) as client:
        for choice in ("auto", "required", {"type": "function", "function": {"name": "weather"}}):
            whole = await client.chat.completions.create(
                model=MODEL, messages=MESSAGES, tools=[TOOL], tool_choice=choice
            )
            [call] = whole.choices[0].message.tool_calls
            assert (call.function.name, json.loads(call.function.arguments)) == ("weather", EXPECTED)
            assert whole.choices[0].finish_reason == "tool_calls"
            stream = await client.chat.completions.create(
                model=MODEL, messages=MESSAGES, tools=[TOOL], tool_choice=choice, stream=True
            )
            names, arguments, finish = [], "", None
            async for chunk in stream:
                finish = chunk.choices[0].finish_reason or finish
                for each in chunk.choices[0].delta.tool_calls or []:
                    names += [each.function.name] if each.function.name else []
                    arguments += each.function.arguments
            assert (names, json.loads(arguments), finish) == (["weather"], EXPECTED, "tool_calls")
        none = await client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=[TOOL], tool_choice="none")
        assert none.choices[0].message.tool_calls is None
        form = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER}}
        shaped = await client.chat.completions.create(model=MODEL, messages=MESSAGES, response_format=form)
        assert json.loads(shaped.choices[0].message.content) == EXPECTED
        likely = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=3, logprobs=True, top_logprobs=2
        )
        assert [len(entry.top_logprobs) for entry in likely.choices[0].logprobs.content] == [2, 2, 2]


async def test_openai_responses() -> None:
    """The responses client assembles the streamed events into the same object as the whole answer's."""
    async with simulator(knobs={"tps": 0}) as engine, openai(engine) as client:
        kinds = []
        async with client.responses.stream(model=MODEL, input="hello", temperature=0) as stream:
            async for event in stream:
                kinds.append(event.type)
            final = await stream.get_final_response()
        whole = await client.responses.create(model=MODEL, input="hello", temperature=0)
        assert final.output_text == whole.output_text
        assert final.output_text
        assert [item.type for item in final.output] == ["reasoning", "message"]
        assert final.usage == whole.usage
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"
        cut = await client.responses.create(model=MODEL, input="hello", max_output_tokens=3)
        assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        tool = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}
        called = await client.responses.create(model=MODEL, input="hello", tools=[tool], tool_choice="required")
        assert json.loads(called.output[-1].arguments) == EXPECTED


async def test_openai_completions_and_errors() -> None:
    """Completions with echo, stop and logprobs; errors arrive as the client's own classes."""
    async with simulator("--api-key", "right") as engine, openai(engine, "right") as client:
        text = await client.completions.create(model=MODEL, prompt="Once", echo=True, max_tokens=3, logprobs=1)
        assert text.choices[0].text.startswith("Once")
        assert len(text.choices[0].logprobs.tokens) == 3
        assert [model.id async for model in await client.models.list()] == [MODEL]
        with pytest.raises(NotFoundError, match="does not exist"):
            await client.completions.create(model="nope", prompt="x")
        with pytest.raises(BadRequestError, match="cannot be greater than max_model_len"):
            await client.completions.create(model=MODEL, prompt="x", max_tokens=10**6)
        async with openai(engine, "wrong") as stranger:
            with pytest.raises(AuthenticationError):
                await stranger.models.list()


async def test_anthropic_messages() -> None:
    """The anthropic client reads thinking, text and tool use, streamed and whole, and its own error class."""
    async with (
        simulator(knobs={"tps": 0}) as engine,
        AsyncAnthropic(base_url=engine.url, api_key="key", max_retries=0) as client,
    ):
        whole = await client.messages.create(model=MODEL, max_tokens=2000, messages=MESSAGES, extra_body=GREEDY)
        assert [block.type for block in whole.content] == ["thinking", "text"]
        assert whole.stop_reason == "end_turn"
        async with client.messages.stream(model=MODEL, max_tokens=2000, messages=MESSAGES, extra_body=GREEDY) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
        assert text == whole.content[1].text
        assert final.usage.output_tokens == whole.usage.output_tokens
        tool = {"name": "weather", "input_schema": WEATHER}
        called = await client.messages.create(
            model=MODEL, max_tokens=2000, messages=MESSAGES, tools=[tool], tool_choice={"type": "any"}
        )
        assert called.content[-1].input == EXPECTED
        assert called.stop_reason == "tool_use"
        async with client.messages.stream(
            model=MODEL,
            max_tokens=2000,
            messages=MESSAGES,
            tools=[tool],
            tool_choice={"type": "tool", "name": "weather"},
        ) as stream:
            streamed = await stream.get_final_message()
        assert streamed.content[-1].input == EXPECTED
        stopped = await client.messages.create(
            model=MODEL, max_tokens=2000, messages=MESSAGES, stop_sequences=["engine"]
        )
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "engine")
        counted = await client.messages.count_tokens(model=MODEL, messages=MESSAGES)
        assert counted.input_tokens == whole.usage.input_tokens
        with pytest.raises(AnthropicNotFoundError):
            await client.messages.create(model="nope", max_tokens=5, messages=MESSAGES)
