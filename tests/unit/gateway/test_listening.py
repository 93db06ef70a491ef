"""The sockets that a gateway listens on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
import uvloop
from aiohttp import web

from gateway.config import GatewaySettings
from gateway.listening import Listeners
from gateway.runner import accept, running


async def answer(_request: web.Request) -> web.Response:
    return web.Response(text="here")


async def serve_once(sockets: list[socket.socket], path: Path) -> None:
    """As a worker does on what it was given, until it ends."""
    app = web.Application()
    app.router.add_get("/", answer)
    async with running(app) as runner:
        await accept(runner, sockets, backlog=8)
        connector = aiohttp.UnixConnector(str(path))
        async with aiohttp.ClientSession(connector=connector) as http, http.get("http://gateway/") as response:
            assert await response.text() == "here"


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_unix_sockets_file_stays_until_who_bound_it_listens_no_more(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """A worker that ends leaves it to its successor, which serves on the same socket.

    From Python 3.13 on event loops remove the file unless they are told not to.
    """
    listeners = Listeners(GatewaySettings(port=0, socket_dir=tmp_path))
    listeners.open()
    path = tmp_path / "worker-1.sock"
    for _worker in range(2):
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(serve_once([each.dup() for each in listeners.sockets], path))
        assert path.is_socket()
    listeners.close()
    assert not path.exists()
