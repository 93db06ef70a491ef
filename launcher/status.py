"""The launcher's status and controls, over HTTP on a Unix socket that only its owner may open.

| call | answer |
|---|---|
| `GET /status` | the status as JSON; `?tail=N` with the engine's last N lines |
| `GET /events` | the same as server-sent events: one on connect, one on each change, `: hb` every 10 s |
| `GET /metrics` | `gatehouse_engine_…` |
| `POST /restart` | 202: running requests finish, then a fresh engine starts |
| `POST /drain` | 202: running requests finish, then the engine stays down until a restart |
| `POST /reset-prefix-cache` | 200, or 501 where the engine does not offer it |
"""

import asyncio
import contextlib
import fcntl
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from aiohttp import web

SOCKET_NAME = "engine.sock"
LOCK_NAME = "engine.lock"
HEARTBEAT_SECONDS = 10.0
_LONGEST_SOCKET_PATH = 107  # sun_path of unix(7), less its closing zero
_CLOSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Status:
    """What the launcher tells. `url` is the engine's base URL; requests may be sent to it when `state` is "ready"."""

    state: str = "stopped"
    phase: str | None = None  # of the start-up, while there is one
    percent: int = 0
    elapsed_s: float = 0.0  # of the start-up
    eta_s: float | None = None
    attempt: int = 0
    restarts: int = 0
    reason: str = ""
    tail: tuple[str, ...] = ()  # the engine's last lines, where something is wrong
    pid: int | None = None
    url: str | None = None
    model: str = ""
    version: str | None = None
    kind: str = "vllm"
    since: float = 0.0  # when the state began, in seconds since 1970

    def json(self) -> str:
        """Render it in one line."""
        return json.dumps(asdict(self))


class Control(Protocol):
    """What the socket's callers may ask of the launcher."""

    def restart(self) -> None:
        """Start a fresh engine."""

    def drain(self) -> None:
        """Take the engine down."""

    async def reset_prefix_cache(self) -> int:
        """Empty the prefix cache; the engine's HTTP status, 0 for none."""
        ...

    def snapshot(self) -> Status:
        """Take the status of this moment."""
        ...

    def tail(self, lines: int) -> list[str]:
        """Return the engine's last lines."""
        ...

    def render_metrics(self) -> bytes:
        """Render the text of /metrics."""
        ...


class Board:
    """Wakes those who follow the status."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._closed = False

    def changed(self) -> None:
        """Wake them all."""
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """End all following."""
        self._closed = True
        self.changed()

    async def follow(self) -> AsyncIterator[bool]:
        """Yield True on connect and on each change, False when nothing changed for a heartbeat's time."""
        moved = True
        while not self._closed:
            changed = self._changed  # taken before the yield: a change during it is not lost
            yield moved
            try:
                await asyncio.wait_for(changed.wait(), HEARTBEAT_SECONDS)
                moved = True
            except TimeoutError:
                moved = False


class LauncherRunningError(Exception):
    """Another launcher uses this state directory."""


@contextlib.contextmanager
def sole_launcher(state_dir: Path) -> Iterator[None]:
    """Hold the state directory's lock, which the kernel takes back when this process dies however it dies."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(state_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 20).decode(errors="replace").strip() or "unknown"
            raise LauncherRunningError(
                f"another launcher is running, pid {holder}, with state directory {state_dir}"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def lock_holder(state_dir: Path) -> int | None:
    """The pid of the launcher that uses this state directory, or None; changes nothing."""
    try:
        with (state_dir / LOCK_NAME).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read(20))
    except (OSError, ValueError):
        pass
    return None


def socket_path_trouble(state_dir: Path) -> str | None:
    """Why the status socket cannot be made in this state directory, and what to do; None when it can."""
    path = state_dir / SOCKET_NAME
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return None
    return f"{path} is too long for a Unix socket ({_LONGEST_SOCKET_PATH} bytes): use a shorter state directory"


def application(control: Control, board: Board) -> web.Application:
    """Build the application behind the socket."""

    async def status(request: web.Request) -> web.Response:
        answer = asdict(control.snapshot())
        if (lines := request.query.get("tail", "")).isdigit():
            answer["tail"] = control.tail(int(lines))
        return web.json_response(answer)

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        with contextlib.suppress(ConnectionError):  # a follower that leaves is no error
            await response.prepare(request)
            async for changed in board.follow():
                await response.write(f"data: {control.snapshot().json()}\n\n".encode() if changed else b": hb\n\n")
        return response

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=control.render_metrics(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def restart(_: web.Request) -> web.Response:
        control.restart()
        return web.json_response({"accepted": "restart"}, status=202)

    async def drain(_: web.Request) -> web.Response:
        control.drain()
        return web.json_response({"accepted": "drain"}, status=202)

    async def reset_prefix_cache(_: web.Request) -> web.Response:
        status = await control.reset_prefix_cache()
        if status == 200:
            return web.json_response({"done": "reset-prefix-cache"})
        if status == 404:
            why = "vLLM offers this only with VLLM_SERVER_DEV_MODE=1 in engine.env"
            return web.json_response({"error": why}, status=501)
        return web.json_response({"error": f"the engine answered {status or 'nothing'}"}, status=502)

    app = web.Application()
    app.add_routes(
        [
            web.get("/status", status),
            web.get("/events", events),
            web.get("/metrics", metrics),
            web.post("/restart", restart),
            web.post("/drain", drain),
            web.post("/reset-prefix-cache", reset_prefix_cache),
        ]
    )
    return app


@contextlib.asynccontextmanager
async def serve(control: Control, board: Board, state_dir: Path) -> AsyncIterator[None]:
    """Serve on STATE_DIR/engine.sock, replacing a dead launcher's; the caller holds the lock, so it is a dead one's."""
    if trouble := socket_path_trouble(state_dir):
        raise OSError(trouble)
    path = state_dir / SOCKET_NAME
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)  # before it listens: nobody connects in between
    runner = web.AppRunner(application(control, board), access_log=None, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield
    finally:
        board.close()
        await runner.cleanup()
        path.unlink(missing_ok=True)
