"""An identity provider's documents on a real socket, with knobs: rotation, failures, slowness, size."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.unit.gateway.auth.foreign import jwks


@dataclass
class Provider:
    """What the next answers will be."""

    url: str = ""
    keys: list[dict[str, Any]] = field(default_factory=list)
    cache_control: str | None = None
    status: int = 200
    body: bytes | None = None
    silent: bool = False
    discovery: dict[str, Any] = field(default_factory=dict)
    asked: int = 0
    token: Any = None  # what the token endpoint answers, or a function of the form that was sent
    userinfo: Any = None
    forms: list[dict[str, Any]] = field(default_factory=list)

    async def jwks(self, _request: web.Request) -> web.Response:
        self.asked += 1
        if self.silent:
            await asyncio.Event().wait()
        headers = {} if self.cache_control is None else {"Cache-Control": self.cache_control}
        if self.status in {301, 302}:
            headers["Location"] = f"{self.url}/elsewhere"
        body = jwks(*self.keys) if self.body is None else self.body
        return web.Response(status=self.status, body=body, headers=headers)

    async def metadata(self, _request: web.Request) -> web.Response:
        if self.discovery.get("broken"):
            return web.Response(text="<html>maintenance</html>")
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **self.discovery})

    async def redeem(self, request: web.Request) -> web.Response:
        self.forms.append({**await request.post(), "authorization": request.headers.get("Authorization")})
        return web.json_response(self.token, status=200 if isinstance(self.token, dict) else 400)

    async def page(self, _request: web.Request) -> web.Response:
        return web.Response(text="<html>maintenance</html>")

    async def about(self, _request: web.Request) -> web.Response:
        return web.json_response(self.userinfo)


@asynccontextmanager
async def provider(*keys: dict[str, Any]) -> AsyncIterator[Provider]:
    """A provider on a free port."""
    running = Provider(keys=list(keys))
    app = web.Application()
    app.router.add_get("/jwks", running.jwks)
    app.router.add_get("/elsewhere", running.jwks)
    app.router.add_post("/token", running.redeem)
    app.router.add_post("/page", running.page)
    app.router.add_get("/userinfo", running.about)
    app.router.add_get("/.well-known/openid-configuration", running.metadata)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        running.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield running
    finally:
        await runner.cleanup()
