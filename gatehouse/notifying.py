"""What systemd is told while a service of ours lives: sd_notify(3), from the event loop that does the work."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from launcher.notify import notify, watchdog_seconds

_USUAL_SECONDS = 20.0  # between two signs of life where nobody asked for a rhythm
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What a service must not leave to its children: only the main process speaks to systemd."""


def serving() -> None:
    """What was begun works now: the start, or the taking over of a changed configuration."""
    notify(READY="1")


def reloading() -> None:
    """The configuration is being taken over; `serving` ends it."""
    notify(RELOADING="1", MONOTONIC_USEC=str(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000))


def stopping() -> None:
    """No new work is taken."""
    notify(STOPPING="1")


@contextlib.asynccontextmanager
async def signs_of_life(*, patience: bool = False) -> AsyncIterator[None]:
    """Show systemd that the event loop turns; with `patience` also that a long start or stop is no hang."""
    feeding = asyncio.create_task(_feed(patience))
    try:
        yield
    finally:
        feeding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feeding


async def _feed(patience: bool) -> None:
    interval = watchdog_seconds() or _USUAL_SECONDS
    more = {"EXTEND_TIMEOUT_USEC": str(int(interval * 3e6))} if patience else {}
    while True:
        notify(WATCHDOG="1", **more)
        await asyncio.sleep(interval)
