"""Waiting for others of the same turn of the event loop."""

import asyncio

from gateway.waiting import others


async def test_requests_of_a_turn_go_through_each_stage_together() -> None:
    """Whoever waits for the others goes on only after all of them have come as far, in the order in which they came."""
    steps: list[str] = []

    async def request(name: str) -> None:
        steps.append(f"{name} is read")
        await others()
        steps.append(f"{name} is shaped")

    await asyncio.gather(*(request(name) for name in "abc"))
    assert steps == [f"{name} is {stage}" for stage in ("read", "shaped") for name in "abc"]
