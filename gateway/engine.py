"""The engine as the gateway sees it: where it is, whether it may be asked, and connections to it.

Its state comes from the launcher's status socket (server-sent events, so that a change is known at once), or, for an
engine that nobody here launched, from polling its /health.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from gateway.config import Config
from gateway.headers import request_head
from gateway.ids import new_id
from gateway.upstream import Connection, Pool, UpstreamClosed, UpstreamTimeout

log = logging.getLogger("gatehouse.engine")

POLL_SECONDS = 1.0
RECONNECT_SECONDS = 0.25
# held by this gateway for the whole wait; the launcher sends a heartbeat every 10 s
SILENCE_SECONDS = 30.0
ASK_SECONDS = 5.0
SETTLE_SECONDS = 3.0  # the launcher notices a death within one

# what vLLM answers while it dies or stops (recorded: vllm facts, life/); the request can be sent to its successor
DYING = (
    b"EngineCore encountered an issue",
    b"cannot schedule new futures after shutdown",
    b"Engine loop is not running",
    b"EngineDeadError",
)


class _Counted(msgspec.Struct):
    count: int


_counted = msgspec.json.Decoder(_Counted)


class Engine:
    """The engine's state and the way to it. `status` is the launcher's, as `GET /status` gives it."""

    def __init__(self, config: Config) -> None:
        self._config = config.engine
        # the internal key that the engine asks for
        self.api_key = config.engine.api_key.get_secret_value() if config.engine.api_key else None
        self._pool = Pool(keep_alive=config.engine.keep_alive_seconds, connect_timeout=config.gateway.connect_seconds)
        self.status: dict[str, Any] = {"state": "unknown", "phase": None, "percent": None, "reason": None}
        self._url: str | None = None
        self._address = ("", 0)
        self.authority = ""
        self.generation = 0  # of readiness: another one means that it was away in between
        self.ready_since = time.time()
        self.ready = False  # whether requests may be sent
        self._ready = asyncio.Event()
        self._away = asyncio.Event()  # the opposite
        self._away.set()
        self.set_url(config.engine.url)

    def set_url(self, url: str | None) -> None:
        """Point at the engine's base URL, e.g. http://127.0.0.1:8000."""
        if url is None or url == self._url:
            return
        parts = urlsplit(url)
        self._url = url
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.authority = parts.netloc

    @property
    def url(self) -> str | None:
        """Base URL; None until the launcher has told it."""
        return self._url

    @property
    def state(self) -> str:
        """One of the launcher's states, or `unknown` while nobody has told."""
        return str(self.status.get("state", "unknown"))

    async def wait_ready(self, seconds: float) -> bool:
        """Wait until the engine is ready; False when that took longer than `seconds`."""
        if self.ready:
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        return self.ready

    async def settle(self, generation: int) -> None:
        """After a request was lost with its engine: wait until the launcher has noticed, too.

        `generation` is the engine's when the request was sent. An engine that is as ready as before after
        SETTLE_SECONDS has survived whatever it was.
        """
        if self.generation == generation:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self._away.wait()

    def forget_idle(self) -> None:
        """Close the idle connections: one of them was found closed by the engine."""
        self._pool.drop_idle()

    def idle_connection(self) -> Connection | None:
        """Return a connection that is there; None: there is none to be had without waiting."""
        return self._pool.idle(*self._address) if self._url is not None else None

    async def connect(self) -> Connection:
        """Return a connection, a new one if need be. Raises UpstreamClosed or UpstreamTimeout."""
        return await self._pool.connect(*self._there())

    def _there(self) -> tuple[str, int]:
        if self._url is None:
            raise UpstreamClosed("the engine has no address yet")
        return self._address

    def update(self, status: dict[str, Any]) -> None:
        """Take over a new status."""
        before = self.state
        self.status = status
        self.set_url(status.get("url"))
        self.ready = status.get("state") == "ready"
        if self.ready:
            if before != "ready":
                self.generation += 1
                self.ready_since = time.time()
            self._ready.set()
            self._away.clear()
        else:
            self._ready.clear()
            self._away.set()
        if self.state != before:
            log.info("engine: %s -> %s%s", before, self.state, f" ({status['reason']})" if status.get("reason") else "")

    async def watch(self) -> None:
        """Follow the engine's state until cancelled."""
        if self._config.status_socket is not None:
            await self._follow_launcher(str(self._config.status_socket))
        else:
            await self._poll_health()

    async def _follow_launcher(self, socket: str) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=SILENCE_SECONDS)
        while True:
            try:
                async with (
                    aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket), timeout=timeout) as session,
                    session.get("http://launcher/events") as answer,
                ):
                    answer.raise_for_status()
                    async for line in answer.content:
                        if line.startswith(b"data:"):
                            self.update(msgspec.json.decode(line[5:]))
            except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError) as error:
                self.update({"state": "unknown", "reason": f"the launcher cannot be reached: {error}"})
            else:
                self.update({"state": "unknown", "reason": "the launcher has stopped"})
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _poll_health(self) -> None:
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                try:
                    async with session.get(f"{self._url}/health") as answer:
                        healthy, reason = answer.status == 200, f"/health answers {answer.status}"
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    healthy, reason = False, f"/health cannot be reached: {error}"
                self.update(
                    {"state": "ready", "url": self._url, "kind": "external"}
                    if healthy
                    else {"state": "unreachable", "url": self._url, "kind": "external", "reason": reason}
                )
                await asyncio.sleep(POLL_SECONDS)

    async def count_tokens(self, text: str) -> int:
        """Count a text with the engine's own tokenizer. Raises UpstreamClosed when it cannot."""
        body = {"model": self._config.model, "prompt": text, "add_special_tokens": False}
        answer = await self._ask("POST", "/tokenize", msgspec.json.encode(body))
        try:
            return _counted.decode(answer).count
        except msgspec.MsgspecError as error:
            raise UpstreamClosed(f"/tokenize cannot be had: {error}") from error

    async def metrics(self) -> bytes:
        """Return vLLM's own /metrics text. Raises UpstreamClosed when it cannot be had."""
        return await self._ask("GET", "/metrics")

    async def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Ask the engine for itself, off the hot path. Raises UpstreamClosed."""
        head = request_head(
            method=method,
            target=path,
            authority=self.authority,
            request_id=new_id(),
            api_key=self.api_key,
            length=len(body),
        )
        try:
            async with asyncio.timeout(ASK_SECONDS):
                # a connection of its own: how often a request is sent must not hang on what was asked meanwhile
                connection = await self._pool.dial(*self._there())
                try:
                    answer, found = await connection.ask(head, body, ASK_SECONDS), await connection.read_all()
                finally:
                    connection.abort()
        except (UpstreamTimeout, TimeoutError) as error:
            raise UpstreamClosed(f"{path} cannot be had: {error}") from error
        if answer.status != 200:
            raise UpstreamClosed(f"{path} cannot be had: it answers {answer.status}")
        return found

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch while the context lasts, and close the idle connections after it."""
        task = asyncio.create_task(self.watch(), name="engine-watch")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self._pool.close()
