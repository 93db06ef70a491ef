"""What the official, unmodified clients see through a running product: one suite, run against the simulated engine
(tests/integration/test_clients.py) and against the real vLLM (tests/engine/test_clients.py).

A module that runs it imports the tests of `answers`, `wire` and `refusals`, and has two fixtures: `stack`, a
`tests.support.stack.Stack`, and `engine`, one of the descriptions below.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in ("answers", "callers", "refusals", "wire")))


@dataclass(frozen=True, slots=True)
class EngineTraits:
    """All that the two engines may legitimately differ in. Whatever is not listed here must be the same."""

    tools_in_chat: bool
    """The model calls tools and keeps to a JSON schema in chats. The tiny gpt-oss does not: Harmony's tokens are not in
    its own little tokenizer, so vLLM can guide it on /v1/completions alone. Its chats only show that the fields pass."""
    stop_in_chat: bool
    """A `stop` string ends a chat. Not with the tiny gpt-oss, for the same reason; it does on /v1/completions."""
    fingerprint: str
    """How `system_fingerprint` begins."""


SIMULATED = EngineTraits(tools_in_chat=True, stop_in_chat=True, fingerprint="simulated")
REAL = EngineTraits(tools_in_chat=False, stop_in_chat=False, fingerprint="vllm-")

CHINESE = "今天天气很好，我们去公园散步吧。🙂"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "北京"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_weather", "description": "The weather of a city.", "parameters": SCHEMA}
TOOL = {"type": "function", "function": FUNCTION}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
MESSAGES = [{"role": "user", "content": "Count, please: 数到十。"}]
