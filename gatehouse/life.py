"""A gateway process from its first to its last moment: alone, as the parent of workers, or as one of them."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence

from gatehouse.context import Context
from gatehouse.notifying import VARIABLES, reloading, serving, signs_of_life, stopping
from gatehouse.parenthood import PARENT
from gateway.config import Config
from gateway.listening import Listening

log = logging.getLogger("gatehouse.gateway")


class CannotStart(Exception):
    """The gateway cannot start; the text says why."""


class Life:
    """The gateway's life under signals. What a role does not need is not imported: it stays small and starts fast."""

    def __init__(self, context: Context, config: Config) -> None:
        self._context = context
        self._config = config

    async def alone(self) -> None:
        """Serve until SIGTERM; a second one ends what is running. SIGHUP takes over plans and limits."""
        gc.disable()  # until it serves: hardly anything that a start makes is garbage, and looking is a fifth of it
        from gatehouse.reload import Reloader  # noqa: PLC0415
        from gateway.auth.keys import KeyFileError  # noqa: PLC0415
        from gateway.server import Ends, serve  # noqa: PLC0415
        from gateway.store import StoreError  # noqa: PLC0415
        from gateway.tracing import TracingUnavailableError  # noqa: PLC0415

        ends, hang_up = Ends(), asyncio.Event()
        _on_end(ends.stop, ends.hurry)
        _on(signal.SIGHUP, do=hang_up.set)
        try:
            async with signs_of_life():
                await serve(self._config, ends, on_listening=_announce, beside=Reloader(self._context, hang_up).follow)
        except (OSError, KeyFileError, StoreError, TracingUnavailableError) as error:
            raise CannotStart(error) from error

    async def as_worker(self, inherited: Sequence[int]) -> None:
        """Serve as the parent says; `inherited` are the descriptors of the channel to it and of the listeners.

        SIGTERM lets it drain, too, however often it comes: a service manager may send it to every process.
        """
        gc.disable()  # until it serves: hardly anything that a start makes is garbage, and looking is a fifth of it
        from gatehouse.reload import Reloader  # noqa: PLC0415
        from gateway.auth.keys import KeyFileError  # noqa: PLC0415
        from gateway.server import Ends  # noqa: PLC0415
        from gateway.store import StoreError  # noqa: PLC0415
        from gateway.tracing import TracingUnavailableError  # noqa: PLC0415
        from gateway.workers.worker import serve_as_worker  # noqa: PLC0415

        ends, hang_up = Ends(), asyncio.Event()
        _on(signal.SIGTERM, signal.SIGINT, do=ends.stop.set)
        _on(signal.SIGHUP, do=hang_up.set)
        channel, *listeners = (socket.socket(fileno=each) for each in inherited)
        try:
            await serve_as_worker(
                self._config, channel, listeners, ends,
                reload=hang_up.set, beside=Reloader(self._context, hang_up).follow,
            )  # fmt: skip
        except (OSError, KeyFileError, StoreError, TracingUnavailableError) as error:
            raise CannotStart(error) from error

    async def as_parent(self) -> None:
        """Keep workers, and pass on what it is told; SIGUSR2 replaces them."""
        from gateway.workers.house import serve_with_workers  # noqa: PLC0415
        from gateway.workers.parent import Parent, WorkersFailed  # noqa: PLC0415

        stop, hurry = asyncio.Event(), asyncio.Event()
        _on_end(stop, hurry)

        def listen_to_signals(parent: Parent) -> None:
            def reload() -> None:
                reloading()
                parent.reload()
                serving()

            _on(signal.SIGHUP, do=reload)
            _on(signal.SIGUSR2, do=parent.replace)

        environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        try:
            async with signs_of_life():
                await serve_with_workers(
                    self._config, self._worker_argv, {**environment, PARENT: str(os.getpid())},
                    stop=stop, hurry=hurry, on_parent=listen_to_signals, on_listening=_announce,
                )  # fmt: skip
        except (OSError, WorkersFailed) as error:
            raise CannotStart(error) from error

    def _worker_argv(self, number: int, descriptors: Sequence[int]) -> list[str]:
        context = self._context
        argv = [sys.executable, "-m", "gatehouse", "gateway", "--state-dir", str(context.state_dir)]
        if context.config_file is not None:
            argv += ["--config", str(context.config_file)]
        if context.demo:
            argv.append("--demo")
        return [*argv, "--worker", str(number), "--inherited", ",".join(map(str, descriptors))]


def _on_end(stop: asyncio.Event, hurry: asyncio.Event) -> None:
    def end() -> None:
        stopping()
        (hurry if stop.is_set() else stop).set()

    _on(signal.SIGTERM, signal.SIGINT, do=end)


def _on(*signals: int, do: Callable[[], object]) -> None:
    for number in signals:
        asyncio.get_running_loop().add_signal_handler(number, do)


def _announce(listening: Listening) -> None:
    log.info("gateway: listening on %s, admin on %s", listening.url, listening.admin_url)
    serving()
