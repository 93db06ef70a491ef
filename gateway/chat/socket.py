"""`/api/ws`: one WebSocket a tab, over which all its runs and the changes of its chats come.

Each run's frames are kept (replay.py), so that a tab is sent them at its own pace and nothing is ever dropped; what is
kept for the tab itself is bounded (hub.py).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from gateway.answer import own_fields
from gateway.auth.csrf import require_own_origin
from gateway.chat.handshake import require_handshake
from gateway.chat.hub import Hub, Mailbox
from gateway.chat.member import Members, chats_needed
from gateway.chat.replay import HEARTBEAT_SECONDS, Replay
from gateway.config import Config
from gateway.context import EXCHANGE, Exchange
from gateway.errors import Gone, NotFound
from gateway.store import StoreError
from gateway.waiting import uncancel

PING_SECONDS = 25.0
MOST_BYTES = 4096  # of a frame from a tab
FRAMES_PER_SECOND, BURST = 20.0, 100.0
MOST_RUNS = 64  # that one tab follows
TURN_BYTES = 64 * 1024  # of one run, before the next run's turn

SESSION_OVER, TOO_SLOW, TOO_MANY = 4401, 4408, 4429
_Find = Callable[[str, str], Awaitable[Replay]]
_IsOver = Callable[[], Awaitable[bool]]
_Going = Callable[[str], Awaitable[list[dict[str, Any]]]]


class FromTab(msgspec.Struct, rename={"from_": "from"}):
    """What a tab may send."""

    t: Literal["sub", "unsub"]
    run: str
    from_: int = 0


_decoder = msgspec.json.Decoder(FromTab)


class Tabs:
    """The handler of `/api/ws`, and all tabs that are connected."""

    def __init__(self, config: Config, members: Members, hub: Hub, *, find: _Find, going: _Going, build: str) -> None:
        self._config = config
        self._members = members
        self._hub = hub
        self._find = find
        self._going = going
        self._build = build
        self._tabs: set[Tab] = set()

    def add_to(self, app: web.Application) -> None:
        """Register the route."""
        app.router.add_get("/api/ws", self.connect, allow_head=False)

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """Serve a tab until it leaves."""
        require_own_origin(request, self._config.auth)
        owner = (await self._members.caller(request)).subject
        require_handshake(request)
        with chats_needed():
            going = await self._going(owner)
        socket = web.WebSocketResponse(heartbeat=PING_SECONDS, max_msg_size=MOST_BYTES, compress=False)
        socket.headers.update(own_fields(request[EXCHANGE]))
        await socket.prepare(request)
        tab = Tab(socket, owner, self._find, self._config.gateway.write_seconds)
        tab.say({"t": "hello", "heartbeat_s": HEARTBEAT_SECONDS, "build": self._build, "runs": going})
        async with self._joined(tab):
            await tab.serve(request[EXCHANGE], partial(self._members.authenticator.is_over, request))
        if tab.too_slow and request.transport is not None:
            request.transport.abort()  # what it did not take is not kept for it
        return socket

    def __len__(self) -> int:
        """How many are connected."""
        return len(self._tabs)

    async def close(self) -> None:
        """Send all tabs away: the gateway stops."""
        await asyncio.gather(*(tab.leave(WSCloseCode.GOING_AWAY) for tab in tuple(self._tabs)))

    @asynccontextmanager
    async def _joined(self, tab: "Tab") -> AsyncIterator[None]:
        boxes = self._hub.join(tab.mailbox)
        self._tabs.add(tab)
        try:
            if len(boxes) > self._config.chat.max_tabs:
                oldest = next(other for other in self._tabs if other.mailbox is boxes[0])
                oldest.close_with(TOO_MANY)
            yield
        finally:
            self._tabs.discard(tab)
            self._hub.leave(tab.mailbox)


class Tab:
    """One connected tab: two tasks, one reads, one writes."""

    def __init__(self, socket: web.WebSocketResponse, owner: str, find: _Find, write_seconds: float) -> None:
        self._socket = socket
        self._find = find
        self._write_seconds = write_seconds
        self._wake = asyncio.Event()
        self.mailbox = Mailbox(owner, self._wake.set)
        self._follows: dict[str, tuple[Replay, int]] = {}  # run → its frames, and the last number sent
        self._own: list[bytes] = []  # frames about the connection itself
        self._close_code: int | None = None
        self._allowance, self._counted_at = BURST, time.monotonic()

    @property
    def too_slow(self) -> bool:
        """Whether it was closed because it took nothing."""
        return self._close_code == TOO_SLOW

    def say(self, frame: dict[str, Any]) -> None:
        """Send a frame that belongs to no run."""
        self._own.append(msgspec.json.encode(frame))
        self._wake.set()

    def close_with(self, code: int) -> None:
        """Close once what is due now is sent."""
        self._close_code = self._close_code or code
        self._wake.set()

    async def leave(self, code: int) -> None:
        """Close it and wait."""
        self.close_with(code)
        await asyncio.wait({asyncio.ensure_future(self._socket.close(code=code))}, timeout=1.0)

    async def serve(self, exchange: Exchange, session_over: _IsOver) -> None:
        """Read and write until either side ends it."""
        reading = asyncio.create_task(self._read())
        writing = asyncio.create_task(self._write(session_over))
        try:
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if exchange.stopped_by is None:
                raise
            uncancel()  # what the session rested on was revoked
            self._close_code = SESSION_OVER
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
            for replay, _ in self._follows.values():
                replay.listeners.discard(self._wake.set)
        await self._socket.close(code=self._close_code or WSCloseCode.OK)

    async def _read(self) -> None:
        async for message in self._socket:
            if not self._within_pace():
                self._close_code = TOO_MANY
                return
            if message.type is not WSMsgType.TEXT:
                self.say({"t": "refused", "code": "invalid_frame", "message": "Frames are JSON texts."})
                continue
            try:
                frame = _decoder.decode(message.data)
            except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
                self.say({"t": "refused", "code": "invalid_frame", "message": str(error)[:200]})
                continue
            await self._obey(frame)

    def _within_pace(self) -> bool:
        now = time.monotonic()
        self._allowance = min(BURST, self._allowance + (now - self._counted_at) * FRAMES_PER_SECOND) - 1
        self._counted_at = now
        return self._allowance >= 0

    async def _obey(self, frame: FromTab) -> None:
        self._forget(frame.run)
        if frame.t == "unsub":
            return
        if len(self._follows) >= MOST_RUNS:
            message = f"A tab follows at most {MOST_RUNS} runs."
            self.say({"t": "refused", "code": "invalid_frame", "message": message})
            return
        try:
            replay = await self._find(self.mailbox.owner, frame.run)
        except (NotFound, Gone) as error:
            self.say({"t": "gone", "run": frame.run[:64], "code": error.code})
        except StoreError:
            self.say({"t": "refused", "code": "chats_unavailable", "message": "Try again.", "run": frame.run[:64]})
        else:
            self._follows[frame.run] = replay, min(max(0, frame.from_), replay.seq)
            replay.listeners.add(self._wake.set)
            self._wake.set()

    def _forget(self, run_id: str) -> None:
        if run_id in self._follows:
            self._follows.pop(run_id)[0].listeners.discard(self._wake.set)

    async def _write(self, session_over: _IsOver) -> None:
        beat_at = time.monotonic() + HEARTBEAT_SECONDS
        while True:
            self._wake.clear()
            await self._send_due()
            if self._close_code is not None:
                return
            now = time.monotonic()
            if now >= beat_at:
                beat_at = now + HEARTBEAT_SECONDS
                self.say({"t": "hb", "at": round(time.time(), 3)})
                if await session_over():
                    self._close_code = SESSION_OVER
                continue
            try:
                async with asyncio.timeout(beat_at - now):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _send_due(self) -> None:
        """Send all that is there, the runs in turns."""
        try:
            while True:
                own, self._own = self._own, []
                frames = [*own, *self.mailbox.take()]
                for run_id, (replay, sent) in list(self._follows.items()):
                    due = replay.after(sent, TURN_BYTES)
                    frames += due
                    if replay.is_read(sent + len(due)):
                        self._forget(run_id)
                    elif run_id in self._follows:
                        self._follows[run_id] = replay, sent + len(due)
                if not frames:
                    return
                for frame in frames:
                    async with asyncio.timeout(self._write_seconds):
                        await self._socket.send_str(frame.decode())
        except TimeoutError:
            self._close_code = TOO_SLOW
        except ConnectionError:
            self._close_code = WSCloseCode.GOING_AWAY
