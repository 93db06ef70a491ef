"""The admin listener: metrics and the engine's controls. It asks for no credential: keep it on loopback.

| call | answer |
|---|---|
| `GET /metrics` | `gatehouse_…` |
| `GET /engine/metrics` | vLLM's own, passed through: one scrape address is enough |
| `GET /engine/status` | what the launcher tells; `?tail=N` with the engine's last N lines |
| `POST /engine/restart`, `/engine/drain`, `/engine/reset-prefix-cache` | passed on to the launcher |
| `GET /healthz`, `/readyz` | as on the public listener |
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from aiohttp import web

from gateway.health import EngineView, Health
from gateway.metrics import CONTENT_TYPE, Metrics
from gateway.upstream import UpstreamClosed

LAUNCHER_SECONDS = 30.0  # deadline of a call to the launcher


class Admin:
    """The handlers. `engine_metrics` returns vLLM's own text or raises UpstreamClosed."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        engine: EngineView,
        health: Health,
        engine_metrics: Callable[[], Awaitable[bytes]],
        launcher_socket: Path | None,
    ) -> None:
        """`launcher_socket` is None for an engine that was not launched here."""
        self._metrics = metrics
        self._engine = engine
        self._health = health
        self._engine_metrics = engine_metrics
        self._socket = launcher_socket

    def app(self) -> web.Application:
        """Make the listener's application."""
        app = web.Application(middlewares=[_errors_in_json])
        app.add_routes(self._health.routes())
        app.add_routes(
            [
                web.get("/metrics", self._own_metrics),
                web.get("/engine/metrics", self._vllm_metrics),
                web.get("/engine/status", self._status),
                web.post("/engine/{action:restart|drain|reset-prefix-cache}", self._control),
            ]
        )
        return app

    async def _own_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._metrics.expose(), headers={"Content-Type": CONTENT_TYPE})

    async def _vllm_metrics(self, _request: web.Request) -> web.Response:
        try:
            text = await self._engine_metrics()
        except UpstreamClosed as error:
            return _error(502, "engine_unreachable", str(error))
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    async def _status(self, request: web.Request) -> web.Response:
        if "tail" in request.query and self._socket is not None:
            return await self._launcher("GET", "/status", {"tail": request.query["tail"]})
        return web.json_response(dict(self._engine.status))

    async def _control(self, request: web.Request) -> web.Response:
        return await self._launcher("POST", f"/{request.match_info['action']}", {})

    async def _launcher(self, method: str, path: str, query: dict[str, str]) -> web.Response:
        if self._socket is None:
            message = (
                "This engine was not launched by Gatehouse (engine.status_socket is not set): operate it where it runs."
            )
            return _error(409, "no_launcher", message)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(str(self._socket)),
                    timeout=aiohttp.ClientTimeout(total=LAUNCHER_SECONDS),
                ) as session,
                session.request(method, f"http://launcher{path}", params=query) as answer,
            ):
                return web.Response(
                    status=answer.status, body=await answer.read(), content_type=answer.content_type, charset="utf-8"
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return _error(
                502, "launcher_unreachable", f"The launcher cannot be reached: {error or type(error).__name__}"
            )


@web.middleware
async def _errors_in_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        code = "method_not_allowed" if error.status == 405 else "not_found" if error.status == 404 else "bad_request"
        return _error(error.status, code, error.reason)


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
