"""Put the chat into an application: its routes, and what must run while it serves."""

from collections.abc import AsyncIterator

from aiohttp import web

from gateway.admission import Admission
from gateway.api import EngineApi
from gateway.auth import AUTHENTICATOR
from gateway.chat.admin_routes import AdminRoutes, Requests
from gateway.chat.chat_routes import ChatRoutes
from gateway.chat.hub import Hub
from gateway.chat.member import Members
from gateway.chat.metrics import ChatMetrics
from gateway.chat.run_routes import RunRoutes
from gateway.chat.runs import Runs
from gateway.chat.socket import Tabs
from gateway.chat.transfer_routes import TransferRoutes
from gateway.config import Config
from gateway.engine import Engine
from gateway.observe import Observer
from gateway.relay import Relay
from gateway.store import STORE

WATCHING = ("/api/ws", "/api/runs/{id}/events")
"""Routes that look on at runs: a gateway that stops does not wait for them."""


def setup_chat(
    app: web.Application,
    config: Config,
    *,
    api: EngineApi,
    relay: Relay,
    engine: Engine,
    admission: Admission,
    observer: Observer,
    requests: Requests,
    metrics: ChatMetrics,
    build: str,
) -> None:
    """Register the chat with `app`, which has its store and its identity already."""
    store, members, hub = app[STORE], Members(config, app[AUTHENTICATOR]), Hub()
    runs = Runs(
        config.chat,
        store,
        hub,
        redis=config.redis,
        observer=observer,
        engine=engine,
        relay=relay,
        admission=admission,
        metrics=metrics,
    )
    run_routes = RunRoutes(config, members, store, runs=runs, hub=hub, api=api)
    tabs = Tabs(config, members, hub, find=runs.replay, going=run_routes.going, build=build)
    metrics.watch(tabs=lambda: len(tabs), runs=lambda: runs.going, replay_bytes=lambda: runs.replay_bytes)
    ChatRoutes(config.chat, members, store, runs, hub).add_to(app)
    TransferRoutes(config, members, store, hub).add_to(app)
    run_routes.add_to(app)
    tabs.add_to(app)
    AdminRoutes(config, members, store, engine=engine, admission=admission, requests=requests).add_to(app)

    async def lifetime(_: web.Application) -> AsyncIterator[None]:
        async with runs.running():
            yield

    async def stop(_: web.Application) -> None:
        await runs.close()  # before the tabs: they are told how their runs ended
        await tabs.close()

    app.cleanup_ctx.append(lifetime)
    app.on_shutdown.append(stop)
