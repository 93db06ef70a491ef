"""The real vLLM's own spans."""

from __future__ import annotations

import asyncio

from tests.support.collector import Collector
from tests.support.stack import Stack, until
from tests.support.traffic import Request, traffic


def test_vllms_spans_are_children_of_the_gateways(stack: Stack, otlp: Collector) -> None:
    """One trace: the gateway's span, below it vLLM's of the same request, within its time."""

    async def ask() -> None:
        async with traffic(stack) as send:
            await send.whole(Request("chat", stream=True), "hello", "traced")

    asyncio.run(ask())
    [span] = until(lambda: otlp.of("traced"), "the gateway's span has come")
    child = until(lambda: otlp.children(span), "vLLM's span has come")[0]
    assert (span.service, child.name) == ("gatehouse", "llm_request")
    assert span.start < child.start < child.end <= span.end + 1e9
    usage = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
    theirs = ("gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens")
    assert [span.attributes[name] for name in usage] == [child.attributes[name] for name in theirs]
