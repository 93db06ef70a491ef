"""Waiting for whatever comes first or for the others, and going on although one was told to end."""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait for the first of several, and cancel the others."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def others() -> Awaitable[None]:
    """Wait until the other requests of this turn of the event loop have come as far.

    What many of them do next, they then do one right after the other, while the processor's caches hold the code for
    it. A lone request waits for one turn with nothing in it.
    """
    return asyncio.sleep(0)


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; who is cancelled meanwhile is so only after it has ended, however it did."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def uncancel() -> None:
    """Take the cancellation of the running task back: whoever caught it has something left to do."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that runs has one
    task.uncancel()
