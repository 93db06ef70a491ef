"""`/auth/sso/*`: a browser on its way to an identity provider and back."""

import logging
from collections.abc import Iterable

from aiohttp import web

from gateway.auth.authenticate import Authenticator
from gateway.auth.bodies import Cookie, client_address
from gateway.auth.sso import SIGN_IN_SECONDS, SignInFailed, SsoProvider
from gateway.auth.users import Users
from gateway.config import AuthSettings
from gateway.errors import Forbidden, GatewayError, NotFound

_log = logging.getLogger("gateway.auth")


class SsoRoutes:
    """The handlers. What fails leads back to the chat's page, with the reason's code behind `#`."""

    def __init__(
        self, auth: AuthSettings, providers: Iterable[SsoProvider], authenticator: Authenticator, users: Users
    ) -> None:
        self._providers = {provider.name: provider for provider in providers}
        self._authenticator = authenticator
        self._users = users
        self._cookie = Cookie(auth, "sso", SIGN_IN_SECONDS)

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_get("/auth/sso/{name}", self.begin)
        app.router.add_get("/auth/sso/{name}/callback", self.finish)

    async def begin(self, request: web.Request) -> web.Response:
        """To the provider: 303."""
        provider = self._provider(request)
        try:
            url, seed = await provider.begin()
        except SignInFailed as failed:
            return self._failed(provider, failed)
        response = _to(url)
        self._cookie.set(response, seed)
        return response

    async def finish(self, request: web.Request) -> web.Response:
        """Back from the provider: a session and 303 to the chat, or 303 with the reason why not."""
        provider = self._provider(request)
        try:
            person = await provider.finish(request.query, self._cookie.read(request) or "")
            user = await self._users.welcome(person)
            cookie = await self._authenticator.sessions.begin(
                user, address=client_address(request), user_agent=request.headers.get("User-Agent", "")
            )
        except SignInFailed as failed:
            return self._failed(provider, failed)
        except Forbidden as refused:
            return self._failed(provider, SignInFailed(refused.code, refused.message))
        except GatewayError as error:
            return self._failed(provider, SignInFailed("sso_unavailable", error.message))
        response = _to("/")
        self._authenticator.cookie.set(response, cookie)
        self._cookie.clear(response)
        return response

    def _provider(self, request: web.Request) -> SsoProvider:
        provider = self._providers.get(request.match_info["name"])
        if provider is None:
            raise NotFound("There is no such route.", code="route_not_found")
        return provider

    def _failed(self, provider: SsoProvider, failed: SignInFailed) -> web.Response:
        _log.warning("sign-in at %s failed: %s", provider.name, failed)
        response = _to(f"/#{failed.code}")
        self._cookie.clear(response)
        return response


def sign_in_choices(auth: AuthSettings) -> list[dict[str, str]]:
    """What the login page offers beside a password: public."""
    return [
        {"title": issuer.sso.title or issuer.name, "url": f"/auth/sso/{issuer.name}"}
        for issuer in auth.issuers
        if issuer.sso is not None
    ]


def _to(location: str) -> web.Response:
    return web.Response(status=303, headers={"Location": location, "Cache-Control": "no-store"})
