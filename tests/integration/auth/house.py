"""A gateway's outermost layer and identity on a real socket, and a browser-like client without a will of its own."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, DummyCookieJar, web

from gateway.auth import Authenticator, require_scope, setup_auth
from gateway.auth.passwords import Passwords
from gateway.auth.throttle import Throttle
from gateway.auth.users import Users
from gateway.config import AuthSettings, Config, EngineTarget
from gateway.context import Exchange
from gateway.observe import Observer
from gateway.store import STORE, Store
from tests.support import tokens

PASSWORD = "correct horse battery staple"
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Any
    body: bytes
    json: Any

    @property
    def code(self) -> str:
        """The error's code."""
        return self.json["error"]["code"]

    @property
    def cookie(self) -> str:
        """name=value of the cookie that was set."""
        return self.headers["Set-Cookie"].partition(";")[0]


@dataclass
class House:
    """A running gateway without an engine: identity, and one route that answers with the caller."""

    config: Config
    base: str
    store: Store
    authenticator: Authenticator
    users: Users
    session: ClientSession

    async def request(self, method: str, path: str, **kwargs: Any) -> Answer:
        """One request; nothing is added but what is given."""
        async with self.session.request(method, self.base + path, **kwargs) as response:
            body = await response.read()
            answer = await response.json() if response.content_type == "application/json" else None
            return Answer(response.status, response.headers, body, answer)

    async def login(self, name: str = "ada", password: str = PASSWORD, **headers: str) -> Answer:
        """POST /auth/login, as the page does it."""
        body = {"username": name, "password": password}
        return await self.request("POST", "/auth/login", json=body, headers={**OWN_PAGE, **headers})

    async def signed_in(self) -> dict[str, str]:
        """Sign in; the headers of requests from that browser."""
        return {"Cookie": (await self.login()).cookie, **OWN_PAGE}

    def token(self, **changes: Any) -> str:
        """A token of this house."""
        return tokens.token(self.config, **{"subject": "ci", **changes})


def make_app(config: Config) -> tuple[web.Application, Authenticator]:
    """The application: observe, authenticate, answer."""
    finished: list[Exchange] = []
    app = web.Application(
        middlewares=[Observer(finished.append, lambda: False, config.gateway.trusted_proxies).middleware()]
    )
    authenticator = setup_auth(app, config)

    async def who(request: web.Request) -> web.Response:
        principal = await authenticator.authenticate(request)
        require_scope(principal, "api")
        return web.json_response({"subject": principal.subject, "plan": principal.plan, "via": principal.via})

    app.router.add_route("*", "/v1/who", who)
    return app, authenticator


async def serve(config: Config) -> AsyncIterator[House]:
    """Run a house on a free port."""
    app, authenticator = make_app(config)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    passwords = Passwords()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        users = Users(app[STORE], config.auth, passwords, Throttle())
        async with ClientSession(cookie_jar=DummyCookieJar()) as session:
            yield House(config, f"http://{host}:{port}", app[STORE], authenticator, users, session)
    finally:
        passwords.close()
        await runner.cleanup()


def config_at(state_dir: Path, **auth: Any) -> Config:
    """Settings of a house in that directory."""
    return Config(state_dir=state_dir, engine=EngineTarget(url="http://127.0.0.1:1"), auth=AuthSettings(**auth))
