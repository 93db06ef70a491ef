"""Serve and drain: a gateway over its lifetime, alone or as one worker of several."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from gateway.app import Gateway
from gateway.config import Config, GatewaySettings
from gateway.listening import Listeners, Listening, state_file, url
from gateway.runner import accept, listen, running
from gateway.waiting import first

YOUNG_OBJECTS = 20_000  # more than are alive at once while a few hundred requests run; Python's own bound is 700
QUIET_LOOK_SECONDS = 0.1  # between two looks whether a worker that retires still has connections
Beside = Callable[[Gateway], Coroutine[Any, Any, None]]


@dataclass
class Ends:
    """What ends a gateway: `stop`, and `hurry` when that takes too long; or `retire`, of a worker with a successor."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    retire: asyncio.Event = field(default_factory=asyncio.Event)


async def serve(
    config: Config,
    ends: Ends,
    *,
    on_listening: Callable[[Listening], None],
    beside: Beside | None = None,
) -> None:
    """Serve alone until `stop`, then let running requests finish for gateway.drain_seconds, or until `hurry`.

    Requests that are still running then are ended and recorded. `beside` runs while it serves.

    Raises OSError when a listener's address is taken. While it serves, STATE_DIR/gateway.json says where.
    """
    settings = config.gateway
    gateway = Gateway(config)
    async with contextlib.AsyncExitStack() as stack:
        listeners = stack.enter_context(contextlib.closing(Listeners(settings)))
        listeners.open()
        public = await stack.enter_async_context(running(gateway.app, gateway.runner))
        await accept(public, listeners.sockets, settings.backlog)
        admin = await stack.enter_async_context(running(gateway.admin_app))
        admin_port = await listen(admin, settings.admin_host, settings.admin_port)
        listening = Listening(url(settings.host, listeners.port), url(settings.admin_host, admin_port))
        stack.enter_context(state_file(config.state_dir, listening))
        _settle_in()
        on_listening(listening)
        async with _while_serving(gateway, beside):
            await ends.stop.wait()
        await _drain(gateway, settings.drain_seconds, ends.hurry)


async def work(
    gateway: Gateway,
    settings: GatewaySettings,
    sockets: Iterable[socket.socket],
    ends: Ends,
    *,
    on_serving: Callable[[], None],
    beside: Beside,
) -> None:
    """Serve as one of several workers, on sockets that listen already, until `stop` as above, or `retire`.

    A worker that retires has a successor on its sockets: it accepts nobody, answers one more request on each connection
    that is left, and ends when none is, or none has been used for gateway.drain_seconds. Streams may take their time.
    """
    async with running(gateway.app, gateway.runner) as public:
        sites = await accept(public, sockets, settings.backlog)
        _settle_in()
        on_serving()
        async with _while_serving(gateway, beside):
            await first(ends.stop.wait(), ends.retire.wait())
            if not ends.stop.is_set():
                for site in sites:
                    await site.stop()
                gateway.observer.retiring = True
                await first(ends.stop.wait(), _quiet(gateway, public, settings.drain_seconds))
        if ends.stop.is_set():
            await _drain(gateway, settings.drain_seconds, ends.hurry)


def _settle_in() -> None:
    gc.freeze()  # what is here now lives as long as the process: no collection needs to look at it, nor the first
    gc.enable()
    # what a request leaves behind is freed without the collector, which only finds what is still in use: look seldom
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)


@contextlib.asynccontextmanager
async def _while_serving(gateway: Gateway, beside: Beside | None) -> AsyncIterator[None]:
    task = asyncio.create_task(beside(gateway)) if beside is not None else None
    yield
    if task is not None:
        task.cancel()


async def _drain(gateway: Gateway, seconds: float, hurry: asyncio.Event) -> None:
    gateway.drain()
    await first(gateway.observer.wait_idle(), hurry.wait(), asyncio.sleep(seconds))


async def _quiet(gateway: Gateway, public: web.AppRunner, seconds: float) -> None:
    """Wait until no connection is left, or none is in use for so long. An answer may be made without any."""
    loop = asyncio.get_running_loop()
    used_at = loop.time()
    while gateway.in_flight or (
        public.server is not None and public.server.connections and loop.time() - used_at < seconds
    ):
        await asyncio.sleep(QUIET_LOOK_SECONDS)
        if gateway.in_flight:
            used_at = loop.time()
