"""`/auth/*`: what the chat's login page talks to."""

import msgspec
from aiohttp import web

from gateway.auth.authenticate import Authenticator
from gateway.auth.bodies import answer, client_address, nothing, read_body
from gateway.auth.csrf import require_json, require_own_page
from gateway.auth.users import Users
from gateway.config import Config
from gateway.errors import Unauthorized
from gateway.store import User


class Login(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /auth/login."""

    username: str
    password: str


class Person(msgspec.Struct):
    """A user as the chat sees them."""

    name: str
    display_name: str
    team: str | None
    plan: str
    admin: bool


class CurrentSession(msgspec.Struct):
    """Answer of GET /auth/session; `expires_at` in Unix seconds, if the session is not used again."""

    user: Person
    expires_at: int


class SignedInAnswer(msgspec.Struct):
    """Answer of POST /auth/login."""

    user: Person


class AuthRoutes:
    """The handlers; they raise GatewayErrors, which the outermost layer renders."""

    def __init__(self, config: Config, authenticator: Authenticator, users: Users) -> None:
        self._auth = config.auth
        self._body_seconds = config.gateway.body_seconds
        self._authenticator = authenticator
        self._users = users

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_post("/auth/login", self.login)
        app.router.add_post("/auth/logout", self.logout)
        app.router.add_post("/auth/logout-everywhere", self.logout_everywhere)
        app.router.add_get("/auth/session", self.session)

    async def login(self, request: web.Request) -> web.Response:
        """Name and password for a session: 200 and the cookie, 401 invalid_credentials, or 429 with Retry-After."""
        require_json(request)
        # nobody is signed in by a foreign page (login CSRF); programs without a browser's marks may
        require_own_page(request, self._auth, marks_required=False)
        body = await read_body(request, Login, self._body_seconds)
        address = client_address(request)
        user = await self._users.sign_in(body.username, body.password, address)
        user_agent = request.headers.get("User-Agent", "")
        cookie = await self._authenticator.sessions.begin(user, address=address, user_agent=user_agent)
        response = answer(SignedInAnswer(_person(user)))
        self._authenticator.cookie.set(response, cookie)
        return response

    async def logout(self, request: web.Request) -> web.Response:
        """End this session: 204. Without one, 204 too: the cookie goes in any case."""
        require_json(request)
        require_own_page(request, self._auth)
        try:
            signed_in = await self._authenticator.signed_in(request)
        except Unauthorized:
            pass
        else:
            await self._authenticator.sessions.end(signed_in.session.id)
        response = nothing()
        self._authenticator.cookie.clear(response)
        return response

    async def logout_everywhere(self, request: web.Request) -> web.Response:
        """End every session of this user: 204; 401 without a session."""
        require_json(request)
        require_own_page(request, self._auth)
        signed_in = await self._authenticator.signed_in(request)
        await self._authenticator.sessions.end_all(signed_in.user.name)
        response = nothing()
        self._authenticator.cookie.clear(response)
        return response

    async def session(self, request: web.Request) -> web.Response:
        """Who is signed in, and until when: 200, or 401."""
        signed_in = await self._authenticator.signed_in(request)
        expires_at = int(self._authenticator.sessions.expires_at(signed_in))
        return answer(CurrentSession(_person(signed_in.user), expires_at))


def _person(user: User) -> Person:
    return Person(user.name, user.display_name, user.team, user.plan, user.admin)
