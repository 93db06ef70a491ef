"""The admin listener: metrics and the engine's controls. It asks for no credential: keep it on loopback.

| call | answer |
|---|---|
| `GET /metrics` | `gatehouse_…` |
| `GET /healthz`, `/readyz` | as on the public listener, of all workers together (gateway/health.py) |
| `GET /engine/metrics` | vLLM's own and the launcher's (`gatehouse_engine_…`): one scrape address is enough |
| `GET /requests` | the requests being served now, oldest first |
| `GET /workers`, `POST /workers/restart` | where there are several: who they are; replace them one after another |
| `GET /engine/status` | what the launcher tells; `?tail=N` with the engine's last N lines |
| `POST /engine/restart`, `/engine/drain`, `/engine/reset-prefix-cache` | passed on to the launcher |
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import aiohttp
from aiohttp import web

from gateway.context import Exchange
from gateway.health import EngineView
from gateway.metrics import CONTENT_TYPE
from gateway.upstream import UpstreamClosed

LAUNCHER_SECONDS = 30.0  # deadline of a call to the launcher


class AdminEngine(EngineView, Protocol):
    """The engine as the admin listener needs it."""

    async def metrics(self) -> bytes:
        """Return vLLM's own metrics text. Raises UpstreamClosed."""
        ...


class Exposed(Protocol):
    """Metrics, of one worker or of several."""

    async def expose(self) -> bytes:
        """Prometheus' text format."""
        ...


class Workers(Protocol):
    """Several workers, as gateway/workers/ keeps them."""

    def workers(self) -> list[dict[str, Any]]:
        """Those that live."""
        ...

    def replace(self) -> None:
        """Begin to replace them one after another."""
        ...


async def _none() -> list[dict[str, Any]]:
    return []


def create_admin_app(
    metrics: Exposed,
    engine: AdminEngine,
    launcher_socket: Path | None = None,
    requests: Callable[[], Awaitable[list[dict[str, Any]]]] = _none,
    workers: Workers | None = None,
) -> web.Application:
    """Make the listener's application; `launcher_socket` is None for an engine that was not launched here.

    `requests` are those being served, as `described` describes them, oldest first.
    """
    admin = _Admin(metrics, engine, launcher_socket, requests, workers)
    app = web.Application(middlewares=[_errors_in_json])
    app.add_routes(
        [
            web.get("/metrics", admin.own_metrics),
            web.get("/requests", admin.requests),
            web.get("/workers", admin.workers),
            web.post("/workers/restart", admin.replace),
            web.get("/engine/metrics", admin.engine_metrics),
            web.get("/engine/status", admin.status),
            web.post("/engine/{action:restart|drain|reset-prefix-cache}", admin.control),
        ]
    )
    return app


class _Admin:
    """The handlers."""

    def __init__(
        self,
        metrics: Exposed,
        engine: AdminEngine,
        launcher_socket: Path | None,
        requests: Callable[[], Awaitable[list[dict[str, Any]]]],
        workers: Workers | None,
    ) -> None:
        self._workers = workers
        self._requests = requests
        self._metrics = metrics
        self._engine = engine
        self._socket = launcher_socket

    async def own_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._metrics.expose(), headers={"Content-Type": CONTENT_TYPE})

    async def requests(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._requests())

    async def engine_metrics(self, _request: web.Request) -> web.Response:
        # While vLLM is down the launcher's are the ones that matter: state, restarts.
        texts = []
        if self._socket is not None:
            answer = await ask_launcher(self._socket, "GET", "/metrics")
            if answer.status == 200 and isinstance(answer.body, bytes):
                texts.append(answer.body)
        try:
            texts.append(await self._engine.metrics())
        except UpstreamClosed as error:
            if not texts:
                return _error(502, "engine_unreachable", str(error))
        return web.Response(body=b"".join(texts), headers={"Content-Type": CONTENT_TYPE})

    async def status(self, request: web.Request) -> web.Response:
        if "tail" in request.query and self._socket is not None:
            return await ask_launcher(self._socket, "GET", "/status", {"tail": request.query["tail"]})
        return web.json_response(dict(self._engine.status))

    async def control(self, request: web.Request) -> web.Response:
        return _for_pages(request) or await ask_launcher(self._socket, "POST", f"/{request.match_info['action']}")

    async def workers(self, _request: web.Request) -> web.Response:
        return web.json_response(self._workers.workers() if self._workers is not None else [])

    async def replace(self, request: web.Request) -> web.Response:
        if (refused := _for_pages(request)) is not None:
            return refused
        if self._workers is None:
            return _error(
                409, "no_workers", "One process serves alone; with gateway.workers above 1 it can be replaced."
            )
        self._workers.replace()
        return web.json_response(self._workers.workers(), status=202)


async def ask_launcher(
    socket: Path | None, method: str, path: str, query: Mapping[str, str] | None = None
) -> web.Response:
    """Pass a call on to the launcher; its answer, or an error: 409 where there is none, 502 where it is away."""
    if socket is None:
        message = (
            "This engine was not launched by Gatehouse (engine.status_socket is not set): operate it where it runs."
        )
        return _error(409, "no_launcher", message)
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(socket)),
                timeout=aiohttp.ClientTimeout(total=LAUNCHER_SECONDS),
            ) as session,
            session.request(method, f"http://launcher{path}", params=query) as answer,
        ):
            return web.Response(
                status=answer.status, body=await answer.read(), content_type=answer.content_type, charset="utf-8"
            )
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return _error(502, "launcher_unreachable", f"The launcher cannot be reached: {error or type(error).__name__}")


@web.middleware
async def _errors_in_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        code = "method_not_allowed" if error.status == 405 else "not_found" if error.status == 404 else "bad_request"
        return _error(error.status, code, error.reason)


def _for_pages(request: web.Request) -> web.Response | None:
    """What a web page is told: one in the operator's browser may post to loopback, but then the browser says so."""
    if "Origin" in request.headers or request.headers.get("Sec-Fetch-Site", "none") != "none":
        return _error(403, "no_browsers", "The controls are not for web pages.")
    return None


def described(exchange: Exchange) -> dict[str, Any]:
    """A request that has not ended; `doing` is where it is on its way."""
    if exchange.first_token_at is not None:
        doing = "answering"
    elif exchange.sent_at is not None:
        doing = "waiting for the first token"
    else:
        doing = "not sent yet"
    return {
        "request_id": exchange.request_id,
        "subject": exchange.principal.subject if exchange.principal else None,
        "team": exchange.principal.team if exchange.principal else None,
        "route": exchange.route,
        "model": exchange.model,
        "stream": exchange.stream,
        "age_s": round(time.monotonic() - exchange.started, 3),
        "doing": doing,
        "bytes_out": exchange.bytes_out,
    }


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
