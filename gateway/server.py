"""Listen, serve, drain: the gateway's two listeners over its lifetime."""

import asyncio
import contextlib
import gc
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.app import Gateway
from gateway.config import Config
from gateway.connections import ClientRunner, Connections

STATE_FILE = "gateway.json"
# what aiohttp waits for handlers after the drain; measured: it may take twice as long
SHUTDOWN_SECONDS = 0.5


log = logging.getLogger("gatehouse.http")


def _without_traceback(record: logging.LogRecord) -> bool:
    """What is not HTTP is the sender's mistake: one line of it, no traceback, or anybody could flood the log."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.exc_info = None
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg, record.args = "not HTTP: %s", (" ".join(error.message.split())[:200],)
    return True


log.addFilter(_without_traceback)


class Listening(NamedTuple):
    """Where the gateway can be reached."""

    url: str
    admin_url: str


async def serve(
    config: Config,
    stop: asyncio.Event,
    *,
    hurry: asyncio.Event | None = None,
    on_listening: Callable[[Listening], None],
    beside: Callable[[Gateway], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Serve until `stop` is set, then let running requests finish for gateway.drain_seconds, or until `hurry` is set.

    Requests that are still running then are ended and recorded. `beside` runs while it serves.

    Raises OSError when a listener's address is taken. While it serves, STATE_DIR/gateway.json says where.
    """
    gateway = Gateway(config)
    settings = config.gateway
    async with contextlib.AsyncExitStack() as stack:
        public = await stack.enter_async_context(_running(gateway.app, gateway.connections))
        admin = await stack.enter_async_context(_running(gateway.admin_app))
        port = await _listen(public, settings.host, settings.port, settings.backlog)
        admin_port = await _listen(admin, settings.admin_host, settings.admin_port, 128)
        listening = Listening(_url(settings.host, port), _url(settings.admin_host, admin_port))
        stack.enter_context(_state_file(config.state_dir / STATE_FILE, listening))
        gc.collect()
        gc.freeze()  # what is here now lives as long as the process: no collection needs to look at it again
        on_listening(listening)
        watching = asyncio.create_task(beside(gateway)) if beside is not None else None
        await stop.wait()
        if watching is not None:
            watching.cancel()
        gateway.drain()
        ends: list[asyncio.Task[Any]] = [asyncio.create_task(gateway.observer.wait_idle())]
        if hurry is not None:
            ends.append(asyncio.create_task(hurry.wait()))
        await asyncio.wait(ends, timeout=settings.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in ends:
            task.cancel()


@contextlib.asynccontextmanager
async def _running(app: web.Application, connections: Connections | None = None) -> AsyncIterator[web.AppRunner]:
    # A misspelt keyword here makes aiohttp drop them all with a mere warning; tests/integration proves each effect.
    runner_of = web.AppRunner if connections is None else partial(ClientRunner, connections=connections)
    runner = runner_of(
        app,
        handler_cancellation=True,  # a client that leaves ends its handler, and with it the engine's work
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=75,
        max_headers=64,
        lingering_time=5,  # how long the rest of a refused body is read and thrown away
        shutdown_timeout=SHUTDOWN_SECONDS,
        logger=log,
        handle_signals=False,
    )
    await runner.setup()
    try:
        yield runner
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int, backlog: int) -> int:
    await web.TCPSite(runner, host, port, backlog=backlog).start()
    return int(runner.addresses[0][1])


def _url(host: str, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what listens everywhere is near, too
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def _state_file(file: Path, listening: Listening) -> Iterator[None]:
    """Say where we listen for as long as we do."""
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps({"pid": os.getpid(), **listening._asdict()}), "utf-8")
    draft.replace(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
