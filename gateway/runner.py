"""aiohttp's runners, set up as everybody here needs them."""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

# what aiohttp waits for handlers after the drain; measured: it may take twice as long
SHUTDOWN_SECONDS = 0.5
# from 3.13 on event loops remove a Unix socket's file when they end to serve on it; here only who bound it does
_FILE_STAYS: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}

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


@contextlib.asynccontextmanager
async def running(
    app: web.Application, runner_of: Callable[..., web.AppRunner] = web.AppRunner
) -> AsyncIterator[web.AppRunner]:
    """An application that is set up; at the end its listeners are closed, and what still runs is cancelled.

    `runner_of`: the public listener's watches its connections.
    """
    # A misspelt keyword here makes aiohttp drop them all with a mere warning; tests/integration proves each effect.
    runner = runner_of(
        app,
        handler_cancellation=True,  # a client that leaves ends its handler, and with it the engine's work
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=75,
        max_headers=64,
        lingering_time=2,  # how long the rest of a refused body is read and thrown away
        shutdown_timeout=SHUTDOWN_SECONDS,
        logger=log,
        handle_signals=False,
    )
    await runner.setup()
    try:
        yield runner
    finally:
        await runner.cleanup()


async def listen(runner: web.AppRunner, host: str, port: int) -> int:
    """Let an application listen on a TCP port; returns the port. Raises OSError."""
    await web.TCPSite(runner, host, port).start()
    return int(runner.addresses[0][1])


async def accept(runner: web.AppRunner, sockets: Iterable[socket.socket], backlog: int) -> list[web.BaseSite]:
    """Serve on sockets that are bound."""
    sites: list[web.BaseSite] = []
    for each in sockets:
        unix = each.family == socket.AF_UNIX
        site = _UnixSockSite(runner, each, backlog=backlog) if unix else web.SockSite(runner, each, backlog=backlog)
        await site.start()
        sites.append(site)
    return sites


class _UnixSockSite(web.SockSite):
    """aiohttp's would tell uvloop that it is a TCP socket."""

    async def start(self) -> None:
        await web.BaseSite.start(self)
        assert self._runner.server is not None  # noqa: S101 - `_accept` gets one that is set up
        self._server = await asyncio.get_running_loop().create_unix_server(
            self._runner.server, sock=self._sock, backlog=self._backlog, **_FILE_STAYS
        )
