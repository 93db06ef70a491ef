"""The way of one API request: authenticate → shape → limit → relay. What ends it is `observe.py`'s business."""

import asyncio
import re
import time
from fnmatch import fnmatchcase
from functools import partial

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from gateway.admission import Admission
from gateway.auth.authenticate import Authenticator, require_scope
from gateway.bodies import Bodies
from gateway.cache_salts import CacheSalts
from gateway.config import Config, GatewaySettings
from gateway.connections import whole_body
from gateway.context import EXCHANGE, Api, Exchange, Principal, Via
from gateway.engine import Engine
from gateway.errors import NotFound, RequestTimeout, TooLarge, TooManyRequests, Unavailable, UnsupportedMedia
from gateway.limits import LimiterUnavailable, Limits
from gateway.limits.plans import headers, rate_lines, refusal_message
from gateway.logs.redaction import MARGIN
from gateway.owners import Owners
from gateway.relay import Relay
from gateway.routes import ENGINE_ROUTES, Route
from gateway.section import plain
from gateway.shape import NOTHING, Shaped, shape
from gateway.waiting import others

_SESSION = Via.SESSION  # enum's members are slow to name
RESPONSE_ID = re.compile(r"resp_[A-Za-z0-9_-]{1,128}", re.ASCII)


class EngineApi:
    """Handlers of the routes that lead to the engine, and of `/v1/models`, which the gateway answers itself."""

    def __init__(
        self,
        config: Config,
        authenticator: Authenticator,
        limits: Limits,
        engine: Engine,
        relay: Relay,
        *,
        admission: Admission,
        salts: CacheSalts,
        owners: Owners,
    ) -> None:
        self._settings = plain(config.gateway)
        self._engine_model, self._max_model_len = config.engine.model, config.engine.max_model_len
        self._kept_bodies = config.logging.bodies.max_bytes + MARGIN if config.logging.bodies.enabled else None
        self._salts = salts
        self._authenticator = authenticator
        self._limits = limits
        self._admission = admission
        self._engine = engine
        self._relay = relay
        self._owners = owners
        self.draining = False
        # by exact path, of POST
        self.handlers: dict[str, Handler] = {route.path: partial(self.generate, route=route) for route in ENGINE_ROUTES}

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        for path, handler in self.handlers.items():
            app.router.add_post(path, handler)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/v1/models/{id:.+}", self.model)
        app.router.add_get("/v1/responses/{id}", self.stored_response)
        app.router.add_post("/v1/responses/{id}/cancel", self.stored_response)

    async def generate(self, request: web.Request, route: Route) -> web.StreamResponse:
        """Relay one request to the engine."""
        exchange = request[EXCHANGE]
        principal = await self.caller(request, exchange)
        await others()
        # no name for the body as it came: a stream would keep it to its end
        shaped, encoded = await self.admit(exchange, principal, route, await read_json_body(request, self._settings))
        await others()
        response = await self._relay.relay(request, exchange, route, shaped, encoded)
        await others()
        if exchange.response_id is not None:
            await self._owners.note(exchange.response_id, principal.subject)
        return response

    async def admit(self, exchange: Exchange, principal: Principal, route: Route, body: bytes) -> tuple[Shaped, bytes]:
        """Shape a request and reserve what it needs. Returns it as shaped, and the body for the engine.

        From here on the exchange holds a reservation and a place in the waiting line, until it is settled.
        """
        exchange.bytes_in = len(body)
        if self._kept_bodies is not None:
            exchange.bodies = Bodies(body, self._kept_bodies)
        plan = self._limits.plans.of(principal)
        shaped = shape(
            route,
            body,
            settings=self._settings,
            model=self._engine_model,
            max_model_len=self._max_model_len,
            plan_max_tokens=plan.max_tokens,
            plan_default_tokens=plan.default_max_tokens,
            cache_salt=self._salts.of(principal),
        )
        exchange.model, exchange.stream = shaped.model, shaped.stream
        self._check_model(principal, shaped.model)
        if shaped.previous_response is not None:
            await self._check_owner(principal, shaped.previous_response)
        await others()
        if not self._admission.has_room(plan.priority):
            await self._admission.admit(plan.priority)
        running = await self._reserve(exchange, shaped)
        priority = self._limits.plans.priority(principal, running)
        if place := self._admission.enter(exchange, priority):
            exchange.headers["x-gatehouse-queue-position"] = str(place.ahead + 1)
            exchange.headers["x-gatehouse-queue-length"] = str(self._admission.waiting)
        return shaped, shaped.encode(priority)

    async def caller(self, request: web.Request, exchange: Exchange) -> Principal:
        """Who calls, and may; raises GatewayError."""
        if self.draining:
            raise Unavailable(
                "The gateway is shutting down.",
                code="shutting_down",
                headers={"Retry-After": "1", "Connection": "close"},
            )
        known = self._authenticator.by_token(request)
        principal = exchange.principal = known or await self._authenticator.authenticate(request)
        exchange.authenticated_at = time.monotonic()
        require_scope(principal, "chat" if principal.via is _SESSION else "api")
        return principal

    async def _reserve(self, exchange: Exchange, shaped: Shaped) -> int:
        """Reserve a request and its tokens. Returns how many of the caller's run already; raises TooManyRequests."""
        asked = time.monotonic()
        try:
            verdict = await self._limits.reserve(exchange, shaped.model, shaped.prompt_estimate, shaped.max_tokens)
        except LimiterUnavailable:
            raise Unavailable(
                "Limits cannot be checked now.", code="limits_unavailable", headers={"Retry-After": "1"}
            ) from None
        finally:
            if exchange.principal is not None and "admin" in exchange.principal.scopes:
                exchange.headers["x-gatehouse-limiter"] = self._limits.mode
        answered = time.monotonic()
        exchange.limiter_seconds = answered - asked
        exchange.budget_used = verdict.budget_used
        if verdict.refusal is not None:
            kind, code, message = refusal_message(verdict.refusal)
            raise TooManyRequests(message, code=code, type=kind, headers=headers(verdict))
        exchange.rate_lines = rate_lines(verdict)
        exchange.admitted_at = answered
        return verdict.running

    def _check_model(self, principal: Principal, model: str) -> None:
        if model != self._engine_model or not may_use(principal, model):
            offered = self._engine_model if may_use(principal, self._engine_model) else "none"
            raise NotFound(
                f"The model `{model[:200]}` does not exist or is not yours to use. Models you may use: {offered}.",
                code="model_not_found",
                param="model",
            )

    async def models(self, request: web.Request) -> web.Response:
        """`GET /v1/models`: those that the caller may use."""
        principal = await self.caller(request, request[EXCHANGE])
        model = self._engine_model
        names = (model, *self._settings.model_aliases)
        listed = [self._model_card(name) for name in names] if may_use(principal, model) else []
        return _json({"object": "list", "data": listed})

    async def model(self, request: web.Request) -> web.Response:
        """`GET /v1/models/{id}`: one of them."""
        principal = await self.caller(request, request[EXCHANGE])
        name = request.match_info["id"]
        is_alias = name in self._settings.model_aliases
        self._check_model(principal, self._engine_model if is_alias else name)
        return _json(self._model_card(name))

    def _model_card(self, name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "root": self._engine_model,  # what an alias stands for
            "created": int(self._engine.ready_since),
            "owned_by": "gatehouse",
            "max_model_len": self._max_model_len,
        }

    async def stored_response(self, request: web.Request) -> web.StreamResponse:
        """Fetch or cancel a stored response; only for whom it was made."""
        exchange = request[EXCHANGE]
        principal = await self.caller(request, exchange)
        response_id = request.match_info["id"]
        await self._check_owner(principal, response_id)
        await self._reserve(exchange, NOTHING)
        path = f"/v1/responses/{response_id}" + ("/cancel" if request.method == "POST" else "")
        route = Route(path, Api.RESPONSES, generates=False, prompt_fields=())
        return await self._relay.relay(request, exchange, route, NOTHING, b"")

    async def _check_owner(self, principal: Principal, response_id: str) -> None:
        """Let nobody read, cancel or go on with what was said to somebody else (LibreChat CVE-2026-31950)."""
        if not RESPONSE_ID.fullmatch(response_id) or await self._owners.of(response_id) != principal.subject:
            raise NotFound("There is no such response.", code="response_not_found")


def may_use(principal: Principal, model: str) -> bool:
    """Whether a caller's model list (globs; empty means all) admits a model."""
    return not principal.models or any(fnmatchcase(model, pattern) for pattern in principal.models)


async def read_json_body(request: web.Request, settings: GatewaySettings) -> bytes:
    """Return the body of a JSON request, bounded in size and time."""
    limit, headers = settings.max_body_bytes, request.headers
    if headers.get(hdrs.CONTENT_TYPE) != "application/json" != request.content_type:
        raise UnsupportedMedia("The body must be JSON: send Content-Type: application/json.")
    if hdrs.CONTENT_ENCODING in headers and any(
        coding.lower() != "identity" for coding in headers.getall(hdrs.CONTENT_ENCODING)
    ):
        raise UnsupportedMedia("The body must not be compressed: send it without Content-Encoding.")
    if (body := whole_body(request)) is not None:
        if len(body) <= limit:
            return body
        raise TooLarge(f"The body is too large: {len(body)} bytes, at most {limit} are allowed.")
    if request.content_length is not None and request.content_length > limit:
        raise TooLarge(f"The body is too large: {request.content_length} bytes, at most {limit} are allowed.")
    try:
        async with asyncio.timeout(settings.body_seconds):
            return await request.read()
    except TimeoutError:
        raise RequestTimeout(
            f"The body did not arrive within {settings.body_seconds:g} s.", headers={"Connection": "close"}
        ) from None
    except web.HTTPRequestEntityTooLarge:
        raise TooLarge(f"The body is too large: at most {limit} bytes are allowed.") from None


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
