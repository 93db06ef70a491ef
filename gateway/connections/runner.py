"""aiohttp's runner and server, for a listener whose connections are watched."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestHandler

from gateway.connections.client import ClientConnection
from gateway.connections.register import Connections

Serve = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


class ClientRunner(web.AppRunner):
    """aiohttp's, for a listener whose connections are watched.

    `serve` is called with each request and with the application's own way of handling it.
    """

    __slots__ = ("_connections", "_serve")

    def __init__(self, app: web.Application, connections: Connections, serve: Serve, **how: Any) -> None:
        super().__init__(app, **how)
        self._connections = connections
        self._serve = serve

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handle = cast("Handler", made.request_handler)
        serve: Callable[[Any], Awaitable[web.StreamResponse]] = lambda request: self._serve(request, handle)  # noqa: E731
        made.request_handler = serve
        return _Server(self._connections, made)


class _Server(web.Server):
    """Makes our connections where aiohttp would make its own."""

    def __init__(self, connections: Connections, made: web.Server) -> None:
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,  # noqa: SLF001 - there is no other way to its settings
        )
        self._members = connections

    def __call__(self) -> RequestHandler:
        return ClientConnection(self, self._members, loop=self._loop, **self._kwargs)
