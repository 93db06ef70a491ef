"""The gateway of several workers as a whole: the parent, and the one admin listener for all."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from gateway.admin import create_admin_app
from gateway.config import Config
from gateway.engine import Engine
from gateway.health import setup_health
from gateway.listening import Listening, state_file, url
from gateway.runner import listen, running
from gateway.workers.parent import Parent


async def serve_with_workers(
    config: Config,
    argv: Callable[[int, Sequence[int]], Sequence[str]],
    env: dict[str, str],
    *,
    stop: asyncio.Event,
    hurry: asyncio.Event,
    on_parent: Callable[[Parent], None],
    on_listening: Callable[[Listening], None],
) -> None:
    """Keep the workers until `stop`, as `gateway.server.serve` serves alone. `argv` and `env` start one; see Parent.

    `on_parent` gets what can reload and replace them. Raises OSError when a listener's address is taken, WorkersFailed
    when no worker can start.
    """
    settings = config.gateway
    async with contextlib.AsyncExitStack() as stack:
        parent = stack.enter_context(contextlib.closing(Parent(settings, argv, env)))
        port = parent.bind()
        engine = Engine(config)
        await stack.enter_async_context(engine.watching())
        app = create_admin_app(parent, engine, config.engine.status_socket, parent.requests, parent)
        setup_health(app, engine, parent.why_not_ready)
        admin = await stack.enter_async_context(running(app))
        admin_port = await listen(admin, settings.admin_host, settings.admin_port)
        listening = Listening(url(settings.host, port), url(settings.admin_host, admin_port))
        on_parent(parent)

        def serving() -> None:
            stack.enter_context(state_file(config.state_dir, listening))
            on_listening(listening)

        await parent.run(stop, hurry, serving)
