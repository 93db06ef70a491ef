"""A client that leaves stops the real engine's work, on every API, streaming or not, at any moment."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.support.stack import Stack
from tests.support.traffic import APIS, GENERATED, RUNNING, Request, traffic

TIMES = 5
STILL_SECONDS = 0.2
PROMISED_SECONDS = 0.1  # measured on two idle cores: 15 to 58 ms, median 36
LONGEST_SECONDS = 2.0  # room for a busy machine


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("api", APIS)
async def test_a_disconnect_frees_the_engine(stack: Stack, api: str, stream: bool, record_property) -> None:
    """The engine's running gauge is back at 0 within 100 ms of our close, and stays there: the best of five, as others
    may use the machine; each within two seconds.
    """
    moments = random.Random(f"{api} {stream}")
    took = []
    async with traffic(stack) as sender:
        for number in range(TIMES):
            request = Request(api, stream, max_tokens=1500, endless=True)
            seconds = moments.uniform(0.02, 0.6)
            closed = await sender.cut(request, "Go on.", f"leave-{api}-{stream}-{number}", seconds)
            assert closed is not None, "the answer ended before it could be left"
            took.append(await sender.until_idle(closed))
        before = await sender.gauges()
        await asyncio.sleep(STILL_SECONDS)
        after = await sender.gauges()
    assert (after[RUNNING], after[GENERATED]) == (0, before[GENERATED])
    figures = ", ".join(f"{seconds * 1000:.0f}" for seconds in took)
    print(f"\n{api} {'stream' if stream else 'whole'}: idle after {figures} ms")
    record_property("idle_after_ms", figures)
    assert max(took) < LONGEST_SECONDS
    assert min(took) < PROMISED_SECONDS
