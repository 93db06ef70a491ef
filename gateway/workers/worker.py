"""A worker's side: it serves on sockets that its parent bound, and does what the parent says."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from gateway.app import Gateway
from gateway.config import Config
from gateway.server import Beside, Ends, work
from gateway.workers.channel import Channel, Figures, Health, Order, Requests, Serving
from gateway.workers.sums import families


async def serve_as_worker(
    config: Config,
    parent: socket.socket,
    listeners: list[socket.socket],
    ends: Ends,
    *,
    reload: Callable[[], None],
    beside: Beside,
) -> None:
    """Serve until the parent says otherwise, or is gone. `parent` is this end of the channel."""
    gateway = Gateway(config)
    channel = await Channel.over(parent)
    obeying = asyncio.create_task(_obey(channel, gateway, ends, reload, listeners))
    try:
        await work(gateway, config.gateway, listeners, ends, on_serving=lambda: channel.send(Serving()), beside=beside)
    finally:
        obeying.cancel()
        channel.send(await _figures(gateway))  # all is recorded now
        await channel.close()


async def _obey(
    channel: Channel, gateway: Gateway, ends: Ends, reload: Callable[[], None], listeners: list[socket.socket]
) -> None:
    async with asyncio.TaskGroup() as telling:
        async for message in channel.messages():
            match message:
                case Order(what="stop"):
                    ends.stop.set()
                case Order(what="hurry"):
                    ends.hurry.set()
                case Order(what="retire"):
                    ends.retire.set()
                case Order(what="reload"):
                    reload()
                case Order(what="health"):
                    channel.send(Health(gateway.why_not_ready()))
                case Order(what="figures"):  # beside the others: threads may be scarce while the event loop is well
                    telling.create_task(_tell_figures(channel, gateway))
                case Order(what="requests"):
                    channel.send(Requests(gateway.requests()))
        _orphaned(listeners)
        ends.stop.set()


def _orphaned(listeners: list[socket.socket]) -> None:
    """The parent is gone, and did not remove what it bound."""
    for each in listeners:
        if each.family == socket.AF_UNIX:
            Path(each.getsockname()).unlink(missing_ok=True)


async def _tell_figures(channel: Channel, gateway: Gateway) -> None:
    channel.send(await _figures(gateway))


async def _figures(gateway: Gateway) -> Figures:
    metrics = gateway.counted()
    # in a thread, for it takes milliseconds
    return Figures(await asyncio.to_thread(families, metrics.registry), metrics.streak)
