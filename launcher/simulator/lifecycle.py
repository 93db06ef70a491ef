"""Serving and stopping as `vllm serve` does: its signals, its exit statuses, its way of dying."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine

from launcher.simulator.args import Options
from launcher.simulator.engine import Engine
from launcher.simulator.errors import ENGINE_DEAD
from launcher.simulator.http import Connection
from launcher.simulator.knobs import Knobs
from launcher.simulator.metrics import Metrics
from launcher.simulator.server import Server
from launcher.simulator.service import Service
from launcher.simulator.startup import (
    Log,
    StartupError,
    announce,
    check_model,
    install_start_signals,
    phases,
    report,
)
from launcher.simulator.tree import Tree, grow

_POLL_SECONDS = 0.02
_FLUSH_SECONDS = 0.05
_TREE_POLL_SECONDS = 0.02
_BACKLOG = 2048


def bind(options: Options) -> socket.socket:
    """The listening address, taken before anything else as vLLM does; connections are refused until it listens."""
    listener = socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
    except OSError as error:
        listener.close()
        raise StartupError(
            1, "Traceback (most recent call last):", "    sock.bind(addr)", f"OSError: {error}"
        ) from None
    return listener


class Process:
    """One run of the simulator, from ready to exit."""

    def __init__(self, options: Options, knobs: Knobs, listener: socket.socket, tree: Tree | None) -> None:
        self.options, self.knobs, self.listener, self.tree = options, knobs, listener, tree
        self._stopped = asyncio.Event()
        self._terminating = False
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._service: Service

    async def serve(self, ready: Callable[[], None]) -> int:
        """Serve until told to stop; calls `ready` when it listens, returns the exit status."""
        loop = asyncio.get_running_loop()
        options = self.options
        metrics = Metrics(options.served[0])
        engine = Engine(loop, self.knobs, metrics, options.max_num_seqs, priority=options.priority)
        self._service = Service(options, self.knobs, engine, metrics, loop, self.die, self.engine_death)
        handle = Server(self._service).handle
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)
        server = await loop.create_server(
            lambda: Connection(handle, options.keep_alive, self._connections),
            sock=self.listener,
            backlog=_BACKLOG,
        )
        if self.tree is not None:
            self._begin(self._watch(self.tree))
        ready()
        await self._stopped.wait()
        server.close()
        for connection in tuple(self._connections):
            connection.close_idle()
        await asyncio.sleep(_FLUSH_SECONDS)
        for task in self._tasks:
            task.cancel()
        return 0

    def die(self) -> None:
        """End as the knobs say: by SIGKILL, or with an exit status, at once and without a goodbye."""
        if self.knobs.exit_code >= 0:
            os._exit(self.knobs.exit_code)
        os.kill(os.getpid(), signal.SIGKILL)

    def engine_death(self) -> None:
        """EngineCore died: all work fails, /health is 503 for a while, then the process exits 0."""
        if self._service.engine.dead is None:
            self._service.engine.die(ENGINE_DEAD)
            self._service.loop.call_later(self.knobs.death_linger, self._stopped.set)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _terminate(self) -> None:
        if not self.knobs.ignore_sigterm and not self._terminating:
            self._terminating = True
            self._begin(self._shut_down())

    async def _shut_down(self) -> None:
        """Abort at once, or give the work in flight --shutdown-timeout seconds and refuse what is new."""
        engine = self._service.engine
        self._service.shutting_down = True
        deadline = time.monotonic() + self.options.shutdown_timeout
        while engine.in_flight and time.monotonic() < deadline:  # noqa: ASYNC110  # the engine has no such event
            await asyncio.sleep(_POLL_SECONDS)
        if self.options.shutdown_timeout > 0:
            engine.die(ENGINE_DEAD)
        else:
            engine.abort_all()
        self._stopped.set()

    async def _watch(self, tree: Tree) -> None:
        """Turn what happens to the child processes into what happens to the engine."""
        stopped = False
        while not tree.anyone_dead():
            if tree.anyone_stopped() != stopped:
                stopped = not stopped
                self._service.engine.stalled = stopped
                self._service.engine.wake()
            await asyncio.sleep(_TREE_POLL_SECONDS)
        self._service.engine.stalled = True  # streams stand still while the death goes unnoticed
        await asyncio.sleep(self.knobs.worker_death_delay)
        self.engine_death()


def run(options: Options, knobs: Knobs) -> int:
    """The whole life of the process; returns its exit status."""
    import uvloop  # noqa: PLC0415  # nothing of it may exist before the children are forked

    log = Log(os.getpid())
    install_start_signals(knobs)
    tree: Tree | None = None
    try:
        announce(options, log)
        listener = bind(options)
        check_model(options.model)
        if options.tree:
            tree = grow(options.tensor_parallel_size, listener)
        phases(options, knobs, log)
    except StartupError as error:
        if tree is not None:
            tree.stop()
        return report(error)
    host, port = listener.getsockname()[:2]
    log.line(f"Starting vLLM server on http://{host}:{port}", where="entry.py:140")

    def ready() -> None:
        for line in (f"Started server process [{os.getpid()}]", "Waiting for application startup."):
            log.raw(f"INFO:     {line}")
        log.raw("INFO:     Application startup complete.")

    with contextlib.ExitStack() as ending:
        if tree is not None:
            ending.callback(tree.stop)
        return uvloop.run(Process(options, knobs, listener, tree).serve(ready))
