"""Fair share in the real vLLM's own waiting line, two places (`max_num_seqs: 2`), by the order of events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.conftest import START_SECONDS
from tests.support.real_engine import install, real_engine
from tests.support.stack import Stack, running_stack
from tests.support.traffic import WAITING, Traffic, traffic

PLACES = 2
SERVICE_TIMES = 2
LONG = 120  # tokens: about a second


@pytest.fixture(scope="module")
def narrow() -> Iterator[Stack]:
    """`gatehouse up` with the real vLLM, which serves two requests at a time."""
    config = real_engine(*install())
    config["engine"] |= {"max_num_seqs": PLACES, "warmup_batches": [1]}
    with running_stack(config, ready_seconds=START_SECONDS) as running:
        yield running


class Order:
    """What happened, in its order, as the clients saw it."""

    def __init__(self, sender: Traffic) -> None:
        self.sender = sender
        self.events: list[str] = []

    async def ask(self, who: str, plan: str) -> None:
        """One stream: notes when it is sent, when its first output comes, and when it has ended."""
        stack = self.sender.stack
        body = {"model": stack.model, "messages": [{"role": "user", "content": "Go on."}], "stream": True}
        body |= {"max_tokens": LONG, "temperature": 0, "ignore_eos": True}
        headers = {"Authorization": f"Bearer {stack.token(who, plan=plan)}"}
        self.events.append(f"{who} sent")
        async with self.sender.http.post(stack.url + "/v1/chat/completions", json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            await answer.content.readany()
            self.events.append(f"{who} began")
            await answer.read()
            self.events.append(f"{who} ended")

    def ended_before(self, who: str) -> list[str]:
        """Which others ended between the sending and the first output of that one request."""
        sent, began = self.events.index(f"{who} sent"), self.events.index(f"{who} began")
        return [event for event in self.events[sent:began] if event.endswith("ended")]

    async def until_waiting(self, count: int) -> None:
        """Wait until so many wait in the engine's line."""
        async with asyncio.timeout(60):
            while (await self.sender.gauges())[WAITING] < count:
                await asyncio.sleep(0.02)


async def flooded(narrow: Stack, flood: list[tuple[str, str]], one: tuple[str, str]) -> list[str]:
    """Who of the flood ended while that one request waited; the flood is there before it, and stays to its end."""
    async with traffic(narrow) as sender:
        order = Order(sender)
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(order.ask(*each)) for each in flood]
        await order.until_waiting(len(flood) // 2)  # where the machine is slow, some have been served by now
        await order.ask(*one)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return order.ended_before(one[0])


async def test_who_has_one_request_does_not_wait_behind_200(narrow: Stack) -> None:
    """One user has 200 requests in the line, another sends one: at most two service times pass before it begins."""
    ended = await flooded(narrow, [("greedy", "member")] * 200, ("modest", "member"))
    print(f"\n{len(ended)} of the others ended before it began")
    assert len(ended) <= SERVICE_TIMES * PLACES


async def test_people_go_before_batch(narrow: Stack) -> None:
    """Forty services wait with one request each: who comes last, with the plan that goes first, begins next."""
    ended = await flooded(narrow, [(f"batch-{number}", "service") for number in range(40)], ("ada", "member"))
    print(f"\n{len(ended)} of the others ended before it began")
    assert len(ended) <= SERVICE_TIMES * PLACES
