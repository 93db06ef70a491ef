"""Starting, serving and stopping as `vllm serve` does: its log lines, its signals, its exit statuses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time

from launcher.simulator.args import Options
from launcher.simulator.engine import Engine
from launcher.simulator.errors import ENGINE_DEAD
from launcher.simulator.http import Connection
from launcher.simulator.knobs import Knobs
from launcher.simulator.metrics import Metrics
from launcher.simulator.server import Server
from launcher.simulator.service import Service

_POLL_SECONDS = 0.02
_FLUSH_SECONDS = 0.05


def bind(options: Options) -> socket.socket:
    """The listening address, taken before anything else as vLLM does; connections are refused until it listens."""
    listener = socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((options.host, options.port))
    return listener


class Process:
    """One run of the simulator, from ready to exit."""

    def __init__(self, options: Options, knobs: Knobs, listener: socket.socket) -> None:
        self.options, self.knobs, self.listener = options, knobs, listener
        self._stopped = asyncio.Event()
        self._terminating = False
        self._connections: set[Connection] = set()
        self._stopping: asyncio.Task[None] | None = None

    async def serve(self) -> int:
        """Serve until told to stop; returns the exit status."""
        loop = asyncio.get_running_loop()
        options = self.options
        metrics = Metrics(options.served[0])
        engine = Engine(loop, self.knobs, metrics, options.max_num_seqs, priority=options.priority)
        self.service = Service(options, self.knobs, engine, metrics, loop)
        self.service.die = self.die
        self.service.engine_death = self.engine_death
        handle = Server(self.service).handle
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)
        server = await loop.create_server(
            lambda: Connection(handle, options.keep_alive, self._connections), sock=self.listener, backlog=2048
        )
        print("INFO:     Application startup complete.", flush=True)  # noqa: T201
        await self._stopped.wait()
        server.close()
        for connection in tuple(self._connections):
            connection.close_idle()
        await asyncio.sleep(_FLUSH_SECONDS)
        return 0

    def die(self) -> None:
        """End as the knobs say: by SIGKILL, or with an exit status, at once and without a goodbye."""
        if self.knobs.exit_code >= 0:
            os._exit(self.knobs.exit_code)
        os.kill(os.getpid(), signal.SIGKILL)

    def engine_death(self) -> None:
        """EngineCore died: all work fails, /health is 503 for a while, then the process exits 0."""
        self.service.engine.die(ENGINE_DEAD)
        self.service.loop.call_later(self.knobs.death_linger, self._stopped.set)

    def _terminate(self) -> None:
        if self.knobs.ignore_sigterm or self._terminating:
            return
        self._terminating = True
        self._stopping = asyncio.get_running_loop().create_task(self._shut_down())

    async def _shut_down(self) -> None:
        """Abort at once, or give the work in flight --shutdown-timeout seconds and refuse what is new."""
        engine = self.service.engine
        self.service.shutting_down = True
        deadline = time.monotonic() + self.options.shutdown_timeout
        while engine.in_flight and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
        if self.options.shutdown_timeout > 0:
            engine.die(ENGINE_DEAD)
        else:
            engine.abort_all()
        self._stopped.set()


def run(options: Options, knobs: Knobs) -> int:
    """The whole life of the process; returns its exit status."""
    try:
        listener = bind(options)
    except OSError as error:
        print(f"Traceback (most recent call last):\nOSError: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return 1
    address = listener.getsockname()
    print(  # noqa: T201
        f"(APIServer pid={os.getpid()}) INFO [entry.py:140] Starting vLLM server on http://{address[0]}:{address[1]}",
        flush=True,
    )
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415

        return uvloop.run(Process(options, knobs, listener).serve())
    return asyncio.run(Process(options, knobs, listener).serve())
