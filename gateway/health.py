"""Whether the process lives (`/healthz`), and whether a request can be served now (`/readyz`)."""

from collections.abc import Callable, Mapping
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


class Health:
    """The two probes. Put `routes()` on the public listener, and on the admin one if you like."""

    def __init__(self, engine: EngineView, *, version: str, draining: Callable[[], bool]) -> None:
        self._engine = engine
        self._version = version
        self._draining = draining

    def reasons(self) -> list[str]:
        """Why no request can be served now; empty when one can."""
        reasons = []
        if self._draining():
            reasons.append("the gateway is shutting down")
        if not self._engine.ready:
            reasons.append(_engine_reason(self._engine))
        return reasons

    async def healthz(self, _request: web.Request) -> web.Response:
        """200 as long as the event loop turns."""
        return web.json_response({"status": "ok", "version": self._version})

    async def readyz(self, _request: web.Request) -> web.Response:
        """200, or 503 with the reasons."""
        reasons = self.reasons()
        body: dict[str, Any] = {"ready": not reasons, "reasons": reasons, "engine": self._engine.state}
        headers = {"Cache-Control": "no-store"} | ({"Retry-After": "1"} if reasons else {})
        return web.json_response(body, status=503 if reasons else 200, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/healthz", self.healthz), web.get("/readyz", self.readyz)]


def _engine_reason(engine: EngineView) -> str:
    status = engine.status
    text = f"the engine is {engine.state}"
    if phase := status.get("phase"):
        text += f": {phase}"
    if percent := status.get("percent"):
        text += f", {percent} %"
    if reason := status.get("reason"):
        text += f" ({reason})"
    return text
