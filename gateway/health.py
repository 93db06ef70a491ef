"""Whether the process lives (`/healthz`), and whether a request can be served now (`/readyz`)."""

from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Any, Protocol

from aiohttp import web


class EngineView(Protocol):
    """What health and the admin listener need to know of the engine."""

    @property
    def state(self) -> str:
        """One of the launcher's states, or `unknown`, or `unreachable`."""
        ...

    @property
    def ready(self) -> bool:
        """Whether requests may be sent to it."""
        ...

    @property
    def status(self) -> Mapping[str, Any]:
        """All that the launcher tells."""
        ...


def setup_health(app: web.Application, engine: EngineView, reasons_of: Callable[[], Awaitable[list[str]]]) -> None:
    """Add `/healthz` and `/readyz`; `reasons_of` tells why no request can be served now."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": version("vllm-gatehouse")})

    async def readyz(_request: web.Request) -> web.Response:
        reasons = await reasons_of()
        body = {"ready": not reasons, "reasons": reasons, "engine": engine.state}
        headers = {"Cache-Control": "no-store"} | ({"Retry-After": "1"} if reasons else {})
        return web.json_response(body, status=503 if reasons else 200, headers=headers)

    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])


def why_not_ready(engine: EngineView, *, draining: bool) -> list[str]:
    """Why no request can be served now; empty when one can."""
    reasons = []
    if draining:
        reasons.append("the gateway is shutting down")
    if not engine.ready:
        status = engine.status
        text = f"the engine is {engine.state}"
        if phase := status.get("phase"):
            text += f": {phase}"
        if percent := status.get("percent"):
            text += f", {percent} %"
        if reason := status.get("reason"):
            text += f" ({reason})"
        reasons.append(text)
    return reasons
