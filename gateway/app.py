"""The only file of the gateway that knows all its parts: which there are, in what order a request meets them, how long
each lives.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable
from importlib.metadata import version
from typing import Any

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from gateway.admin import create_admin_app, described
from gateway.admission import Admission
from gateway.api import EngineApi
from gateway.auth import AUTHENTICATOR, setup_auth, sign_in_choices
from gateway.auth.keys import load_keys
from gateway.cache_salts import CacheSalts
from gateway.chat.metrics import ChatMetrics
from gateway.chat.pages import find_static_dir, setup_static
from gateway.chat.settings import public
from gateway.chat.setup import WATCHING, setup_chat
from gateway.config import Config
from gateway.connections import ClientRunner, Connections
from gateway.context import EXCHANGE, Exchange
from gateway.ended import Ended
from gateway.engine import Engine
from gateway.health import setup_health, why_not_ready
from gateway.limits import Limits
from gateway.logs import RequestLog
from gateway.metrics import Metrics
from gateway.observe import Observer
from gateway.owners import Owners
from gateway.redis import LastingLink
from gateway.relay import Relay
from gateway.settlement import Settlement
from gateway.store import STORE
from gateway.timing import Timing
from gateway.tracing import Tracer
from gateway.usage_api import UsageApi
from gateway.usage_book import UsageBook

log = logging.getLogger("gatehouse")

# neither logged nor counted: asked for every few seconds by machines, a file of the page, or a page that looks on
QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/", "/static/{path}", *WATCHING})


class Gateway:
    """One worker: the public application, the admin application, and what both share."""

    def __init__(self, config: Config) -> None:
        # the plans are its own, and everybody below shares them: `reload` changes what is in it
        self._config = config = config.model_copy(update={"plans": dict(config.plans)})
        self.engine = Engine(config)
        self.metrics = Metrics(
            models=[config.engine.model],
            plans=config.plans,
            teams=config.limits.team,
            version=version("vllm-gatehouse"),
        )
        self.limits = Limits(config, on_mode=self.metrics.set_limiter_mode)
        self.admission = Admission(self.engine, config.gateway.max_waiting, _priorities(config))
        self.log = RequestLog(config.logging, config.state_dir, on_drop=self.metrics.dropped)
        self._ended = Ended(self._record)
        self.settlement = Settlement(self.engine, self._settle)
        self.tracer = (
            Tracer(config.tracing, version("vllm-gatehouse"), on_drop=self.metrics.spans_lost)
            if config.tracing.endpoint is not None
            else None
        )
        self.observer = Observer(
            self.settlement.finish,
            lambda: self.api.draining,
            config.gateway.trusted_proxies,
            place=self.tracer.begin if self.tracer is not None else None,
            watching=WATCHING,
        )
        self.redis = LastingLink.of(config.redis)
        self.connections = Connections(config.gateway, self.metrics.connection_ended)
        self.app = self._public_app()
        authenticator = self.app[AUTHENTICATOR]
        # what is revoked closes what is open
        authenticator.revocations.on_change = lambda: self.observer.stop_where(authenticator.refusal)
        relay = Relay(self.engine, config.gateway)
        self.api = EngineApi(
            config,
            self.app[AUTHENTICATOR],
            self.limits,
            self.engine,
            relay,
            admission=self.admission,
            salts=CacheSalts(config.gateway.cache_salt, load_keys(config).signing.secret),
            owners=Owners(self.redis),
        )
        self.api.add_to(self.app)
        if config.chat.enabled:
            self._add_chat(relay)
        self.app[STORE].database.on_transaction = self.metrics.transaction
        UsageApi(config, authenticator, self.app[STORE]).add_to(self.app)
        record = config.logging.file or config.state_dir / "requests.jsonl"
        self.usage = UsageBook(self.app[STORE], record, config.logging.keep_files, config.limits.time_zone)
        self.app.cleanup_ctx.append(self._counting)  # after the store's: it is open by then, and still at the end
        self.metrics.watch_engine(lambda: self.engine.state)
        self.metrics.watch_in_flight(lambda: self.in_flight)
        self.metrics.watch_connections(lambda: len(self.connections))
        self.admin_app = create_admin_app(self, self.engine, config.engine.status_socket, self._requests)
        setup_health(self.admin_app, self.engine, self._why_not_ready)

    def _public_app(self) -> web.Application:
        app = web.Application(
            middlewares=[self.observer.middleware()], client_max_size=self._config.gateway.max_body_bytes
        )
        app.cleanup_ctx.append(self._lifetime)
        setup_auth(app, self._config, self.redis)
        setup_health(app, self.engine, self._why_not_ready)
        return app

    def runner(self, app: web.Application, **how: Any) -> web.AppRunner:
        """What runs the public application."""
        return ClientRunner(app, self.connections, self._serve, **how)

    def _serve(self, request: web.Request, handle: Handler) -> Awaitable[web.StreamResponse]:
        """Answer one request. Those for the engine need no router: aiohttp's, and its middlewares, would cost more time
        than all that limits them. `handle` is the application's way for everything else.
        """
        path = request.raw_path
        handler = self.api.handlers.get(path) if request.method == "POST" else None
        if handler is None or hdrs.EXPECT in request.headers:  # the application says 100 Continue
            return handle(request)
        return self.observer.observe(request, handler, path)

    def requests(self) -> list[dict[str, Any]]:
        """The requests being served, oldest first, as the admin listener shows them."""
        return [described(exchange) for exchange in self.observer.running()]

    def counted(self) -> Metrics:
        """The metrics, with all requests that have ended."""
        self._ended.record()
        return self.metrics

    async def expose(self) -> bytes:
        """The same in Prometheus' text format."""
        return await self.counted().expose()

    def why_not_ready(self) -> list[str]:
        """Why no request can be served now; empty when one can."""
        return why_not_ready(self.engine, draining=self.api.draining)

    async def _why_not_ready(self) -> list[str]:
        return self.why_not_ready()

    async def _requests(self) -> list[dict[str, Any]]:
        return self.requests()

    def _add_chat(self, relay: Relay) -> None:
        config, engine = self._config, self._config.engine
        features = {"sso": sign_in_choices(config.auth)}
        shown = public(config.chat, model=engine.model, max_model_len=engine.max_model_len, features=features)
        build = setup_static(self.app, find_static_dir(), shown)
        self.app.router.add_get("/api/engine", self._engine_status)
        setup_chat(
            self.app,
            config,
            api=self.api,
            relay=relay,
            engine=self.engine,
            admission=self.admission,
            observer=self.observer,
            requests=self._requests,
            metrics=ChatMetrics(self.metrics.registry),
            build=build,
        )

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return self.observer.in_flight

    def reload(self, config: Config) -> None:
        """Take over plans and limits; what runs is not touched. Raises ValueError, having changed nothing."""
        self.limits.reload(config)
        self._config.plans.clear()
        self._config.plans.update(config.plans)
        self.admission.rank(_priorities(config))
        self.metrics.serve_plans(config.plans)

    def drain(self) -> None:
        """Refuse new work; what runs may finish."""
        self.api.draining = True

    async def _lifetime(self, _app: web.Application) -> AsyncIterator[None]:
        self.log.start()
        if self.tracer is not None:
            self.tracer.start()
        await self.limits.start()
        if self.redis is not None:
            await self.redis.start()
        watches = [
            asyncio.create_task(watch)
            for watch in (self.metrics.watch_event_loop(), self.admission.watch(), self.connections.watch())
        ]
        async with self.engine.watching():
            yield
            # the handlers have ended; what they left to be counted needs the engine once more
            await self.settlement.close()
        for watch in watches:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
        await self.limits.close()
        if self.redis is not None:
            await self.redis.close()
        self._ended.record()
        if self.tracer is not None:
            await self.tracer.close()
        await self.log.close()

    async def _counting(self, _app: web.Application) -> AsyncIterator[None]:
        counting = asyncio.create_task(self.usage.run())
        yield
        counting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await counting

    def _settle(self, exchange: Exchange) -> None:
        self.limits.settle(exchange)
        self.admission.leave(exchange)
        if exchange.route not in QUIET_ROUTES:
            self._ended.add(exchange)

    def _record(self, exchange: Exchange) -> None:
        timing = Timing.of(exchange)
        self.metrics.observe(exchange, timing)
        self.log.write(exchange, timing)
        if self.tracer is not None:
            self.tracer.write(exchange, timing)

    async def _engine_status(self, request: web.Request) -> web.Response:
        """`GET /api/engine`: what the chat shows while the engine is not ready."""
        request[EXCHANGE].principal = await self.app[AUTHENTICATOR].authenticate(request)
        status = self.engine.status
        shown = {name: status.get(name) for name in ("phase", "percent", "elapsed_s", "eta_s", "reason")}
        body = {
            "state": self.engine.state,
            **shown,
            "model": self._config.engine.model,
            "waiting": self.admission.waiting,
            "simulated": status.get("kind") == "simulated",
        }
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _priorities(config: Config) -> list[int]:
    return [plan.priority for plan in config.plans.values()]
