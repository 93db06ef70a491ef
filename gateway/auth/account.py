"""`/api/account`: what members do with their own account: password, sessions, and tokens for their own programs.

Only a chat session may: a token that leaked cannot make another one or change the password.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

import msgspec
from aiohttp import web

from gateway.auth.authenticate import Authenticator
from gateway.auth.bodies import T, answer, client_address, nothing, read_body
from gateway.auth.csrf import require_json, require_own_page
from gateway.auth.keys import Key
from gateway.auth.sessions import SignedIn
from gateway.auth.tokens import issue_token
from gateway.auth.users import Users, store_needed
from gateway.config import Config, PlanSettings
from gateway.context import Principal
from gateway.errors import BadRequest, Forbidden, NotFound
from gateway.store import IssuedToken, RevocationKind, Store

MAX_TOKENS = 50  # valid ones of one member
_DAY = 86_400


class NewPassword(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /api/account/password."""

    current: str
    new: str


class NewToken(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /api/account/tokens; what is left out is as narrow as it can be."""

    days: int = 90
    scopes: tuple[str, ...] = ("api",)
    models: tuple[str, ...] | None = None  # globs; none: those of the member


class AccountRoutes:
    """The handlers; they raise GatewayErrors, which the outermost layer renders."""

    def __init__(self, config: Config, authenticator: Authenticator, users: Users, store: Store, key: Key) -> None:
        self._config = config
        self._authenticator = authenticator
        self._users = users
        self._store = store
        self._key = key

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_get("/api/account", self.account)
        app.router.add_post("/api/account/password", self.change_password)
        app.router.add_get("/api/account/sessions", self.sessions)
        app.router.add_delete("/api/account/sessions/{id}", self.end_session)
        app.router.add_get("/api/account/tokens", self.tokens)
        app.router.add_post("/api/account/tokens", self.make_token)
        app.router.add_delete("/api/account/tokens/{id}", self.revoke_token)

    async def account(self, request: web.Request) -> web.Response:
        """Who one is here, and what one may use."""
        signed_in = await self._authenticator.signed_in(request)
        user, principal = signed_in.user, signed_in.principal
        return answer(
            {
                "name": user.name,
                "display_name": user.display_name,
                "team": user.team,
                "plan": user.plan,
                "limits": _limits(self._config.plans, user.plan),
                "scopes": sorted(principal.scopes),
                "models": principal.models,
                "has_password": user.password_hash is not None,
                "password_set_at": user.password_set_at,
                "max_token_days": self._config.auth.max_token_days,
            }
        )

    async def change_password(self, request: web.Request) -> web.Response:
        """Replace the password: 204 and a fresh session; every other one ends. 401 when the current one is wrong."""
        signed_in = await self._changing(request)
        body = await self._body(request, NewPassword)
        address = client_address(request)
        user = await self._users.sign_in(signed_in.user.name, body.current, address)
        with store_needed():
            await self._users.set_password(user.name, body.new)
        cookie = await self._authenticator.sessions.begin(
            user, address=address, user_agent=request.headers.get("User-Agent", "")
        )
        response = nothing()
        self._authenticator.cookie.set(response, cookie)
        return response

    async def sessions(self, request: web.Request) -> web.Response:
        """Where one is signed in, the last used first."""
        signed_in = await self._authenticator.signed_in(request)
        with store_needed():
            sessions = await self._store.sessions.of_user(signed_in.user.name, time.time())
        shown = ("id", "created_at", "seen_at", "ends_at", "address", "user_agent")
        return answer(
            {
                "sessions": [
                    {name: getattr(session, name) for name in shown} | {"current": session.id == signed_in.session.id}
                    for session in sessions
                ]
            }
        )

    async def end_session(self, request: web.Request) -> web.Response:
        """End one of one's sessions: 204."""
        signed_in = await self._changing(request)
        wanted = request.match_info["id"]
        with store_needed():
            sessions = await self._store.sessions.of_user(signed_in.user.name, time.time())
        if wanted not in {session.id for session in sessions}:
            raise NotFound("You have no such session.", code="session_not_found")
        await self._authenticator.sessions.end(wanted)
        response = nothing()
        if wanted == signed_in.session.id:
            self._authenticator.cookie.clear(response)
        return response

    async def tokens(self, request: web.Request) -> web.Response:
        """The tokens that were issued to one, the newest first; whoever issued them."""
        signed_in = await self._authenticator.signed_in(request)
        with store_needed():
            records = await self._store.tokens.list(signed_in.user.name)
        return answer({"tokens": [self._shown(record) for record in records]})

    async def make_token(self, request: web.Request) -> web.Response:
        """A token for one's own programs: 201, the only time it is shown. No wider than the member is."""
        signed_in = await self._changing(request)
        body = await self._body(request, NewToken)
        user, auth = signed_in.user, self._config.auth
        if not 1 <= body.days <= auth.max_token_days:
            raise BadRequest(f"A token lives 1 to {auth.max_token_days} days.", code="value_out_of_range", param="days")
        token, record = issue_token(
            self._key,
            auth,
            subject=user.name,
            team=user.team,
            plan=user.plan,
            scopes=scopes_of(signed_in.principal, body.scopes),
            models=models_of(signed_in.principal, body.models),
            ttl_seconds=body.days * _DAY,
        )
        if self._authenticator.verifier.explain(token).refusals:  # never hand out what would be refused
            raise BadRequest("A token cannot be for these scopes and models.", param="models")
        with store_needed():
            held = await self._store.tokens.list(user.name)
            if sum(self._state(each) == "active" for each in held) >= MAX_TOKENS:
                raise BadRequest(f"You have {MAX_TOKENS} tokens; revoke one first.", code="too_many_tokens")
            if not await self._store.tokens.record_for_user(record):
                raise Forbidden("Your account is disabled.", code="account_disabled")
        return answer({"token": token, **self._shown(record)}, status=201)

    async def revoke_token(self, request: web.Request) -> web.Response:
        """Refuse one of one's tokens from now on, and end what it runs: 204."""
        signed_in = await self._changing(request)
        wanted = request.match_info["id"]
        with store_needed():
            record = await self._store.tokens.find(wanted)
            if record is None or record.subject != signed_in.user.name:
                raise NotFound("You have no such token.", code="token_not_found")
            revocation = await self._users.revoke(RevocationKind.TOKEN, wanted)
        self._authenticator.revocations.add([revocation])
        return nothing()

    async def _changing(self, request: web.Request) -> SignedIn:
        require_json(request)
        require_own_page(request, self._config.auth)
        return await self._authenticator.signed_in(request)

    async def _body(self, request: web.Request, form: type[T]) -> T:
        return await read_body(request, form, self._config.gateway.body_seconds)

    def _shown(self, record: IssuedToken) -> dict[str, Any]:
        limits = _limits(self._config.plans, record.plan)
        return {**asdict(record), "state": self._state(record), "limits": limits}

    def _state(self, record: IssuedToken) -> str:
        if self._authenticator.revocations.refuse_record(record):
            return "revoked"
        return "expired" if record.expires_at <= time.time() else "active"


def scopes_of(principal: Principal, scopes: Collection[str]) -> tuple[str, ...]:
    """Those scopes, if the member has them all; else Forbidden."""
    for scope in scopes:
        if scope not in principal.scopes:
            raise Forbidden(f"You do not have the scope `{scope[:64]}` yourself.", code="insufficient_scope")
    return tuple(dict.fromkeys(scopes))


def models_of(principal: Principal, wanted: Collection[str] | None) -> tuple[str, ...]:
    """Those globs, if the member may use them, or else the member's own; else Forbidden."""
    # a glob within another glob is not decided here: what a member may not name as it stands, a token may not either
    for glob in wanted or ():
        if principal.models and glob not in principal.models:
            raise Forbidden(f"You may not use the models `{glob[:64]}` yourself.", code="insufficient_scope")
    return principal.models if not wanted else tuple(dict.fromkeys(wanted))


def _limits(plans: Mapping[str, PlanSettings], name: str) -> dict[str, Any] | None:
    plan = plans.get(name)
    return None if plan is None else plan.model_dump(mode="json", exclude={"priority"})
