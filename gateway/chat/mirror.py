"""What workers tell each other about the chat, through Redis: frames of runs, changed chats, runs to be stopped.

Each run's frames are a stream of its own, whose ids are the frames' numbers, so that what is sent twice is there once;
changes and stops are one short stream each, which every worker reads from its start on. All is read by asking again
and again, not by waiting in Redis: that works with every kind of Redis, over the same one connection.

Nobody waits for it. While Redis is away each worker's own tabs see everything; what is missing there is sent when
it is back, and an answer's end stands in SQL besides.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import hiredis
import msgspec

from gateway.chat.replay import Replay
from gateway.config import RedisSettings
from gateway.redis import Link, RedisAway

log = logging.getLogger("gatehouse.chat")

CALL_SECONDS = 1.0
RETRY_SECONDS = 1.0
FOLLOW_SECONDS = 0.04  # between two questions while runs of others are followed
IDLE_SECONDS = 0.2  # and while none are
MOST_FRAMES = 500  # of one stream and one question
MOST_TOLD = 1000  # changes and stops that are kept, there and here
FORGET_SECONDS = 60.0  # a run of another worker that no tab here follows is not followed any longer


class _Change(msgspec.Struct):
    """A changed chat; None: many."""

    worker: str
    owner: str
    chat: dict[str, Any] | None = None


_change = msgspec.json.Decoder(_Change)


class Mirror:
    """One worker's side. `on_change(owner, chat)` and `on_stop(run_id)` are told what others say."""

    def __init__(
        self,
        settings: RedisSettings,
        worker: str,
        *,
        keep_seconds: float,
        longest_run: float,
        on_change: Callable[[str, dict[str, Any] | None], None],
        on_stop: Callable[[str], object],
    ) -> None:
        """`keep_seconds` after its end a run's stream goes, `longest_run` after its last frame at any rate."""
        assert settings.url is not None  # noqa: S101 - without one there is no mirror
        self._link = Link.to(settings.url.get_secret_value(), CALL_SECONDS, self._lost)
        self._prefix = f"{{{settings.namespace}:chat}}"
        self._changes, self._stops = f"{self._prefix}:changes", f"{self._prefix}:stops"
        self._worker = worker
        self._keep, self._longest = int(keep_seconds) + 1, int(longest_run) + 1
        self._on_change, self._on_stop = on_change, on_stop
        self._own: dict[str, tuple[Replay, int]] = {}  # run → its frames, and how many of them are there
        self.followed: dict[str, Replay] = {}  # runs of other workers
        self._unwanted: dict[str, float] = {}  # those that nobody here reads, since when
        self._told: deque[tuple[str, str, bytes]] = deque(maxlen=MOST_TOLD)  # stream, field, value: to be sent
        self._read_up_to: dict[str, str] = {}
        self._wake = asyncio.Event()
        self._away = False

    def carry(self, replay: Replay, there: int = 0) -> None:
        """Let other workers see a run, to its end; so many of its frames are there already."""
        self._own[replay.run_id] = replay, there
        replay.listeners.add(self._wake.set)
        self._wake.set()

    def follow(self, run_id: str) -> Replay:
        """The frames of a run of another worker: those that are there, and from now on those that come."""
        self._unwanted.pop(run_id, None)
        self._wake.set()
        return self.followed.setdefault(run_id, Replay(run_id))

    async def has(self, run_id: str) -> bool:
        """Whether a run's frames are there; False also while Redis is away."""
        try:
            return bool(await self._call("EXISTS", self._key(run_id)))
        except RedisAway:
            return False

    async def whole(self, run_id: str) -> Replay:
        """All that is there of a run: nothing while Redis is away."""
        replay = Replay(run_id)
        try:
            while entries := await self._call(
                "XRANGE", self._key(run_id), f"({replay.seq}-0", "+", "COUNT", MOST_FRAMES
            ):
                before = replay.seq
                for entry_id, fields in entries:
                    _append(replay, entry_id.decode(), fields)
                if replay.seq == before:  # a hole
                    break
        except RedisAway as error:
            log.info("chat: %s: what Redis has of it cannot be read: %s", run_id, error)
        return replay

    def tell(self, owner: str, chat: dict[str, Any] | None) -> None:
        """A chat has changed; None: many have."""
        self._told.append((self._changes, "change", msgspec.json.encode(_Change(self._worker, owner, chat))))
        self._wake.set()

    def stop(self, run_id: str) -> None:
        """Let the worker that has this run stop it."""
        self._told.append((self._stops, "run", run_id.encode()))
        self._wake.set()

    async def run(self) -> None:
        """Tell and ask until cancelled; then tell what is left, once."""
        try:
            while True:
                try:
                    await self._turn()
                except RedisAway as error:
                    self._say_away(str(error))
                    self._own = {run_id: (replay, 0) for run_id, (replay, _) in self._own.items()}
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    await self._push()
            except (RedisAway, TimeoutError) as error:
                log.info("chat: what was left to tell is lost: %s", error)
            self._away = True  # that the connection is closed now is no news
            await self._link.aclose()

    async def _turn(self) -> None:
        if not self._link.open:
            await self._link.connect()
            if not self._read_up_to:
                for stream in (self._changes, self._stops):
                    self._read_up_to[stream] = await self._last(stream)
        self._wake.clear()
        await self._push()
        await self._pull()
        self._away = False
        self._forget()
        try:
            async with asyncio.timeout(FOLLOW_SECONDS if self.followed else IDLE_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _push(self) -> None:
        while self._told:
            stream, field, value = self._told[0]
            await self._call("XADD", stream, "MAXLEN", "~", MOST_TOLD, "*", field, value)
            self._told.popleft()
        for run_id, (replay, sent) in list(self._own.items()):
            if replay.seq == sent:
                continue
            key = self._key(run_id)
            frames = list(enumerate(replay.after(sent), sent + 1))
            calls = [self._call("XADD", key, f"{seq}-0", "f", frame) for seq, frame in frames]
            ended = replay.is_read(sent + len(frames))
            calls.append(self._call("EXPIRE", key, self._keep if ended else self._longest))
            await asyncio.gather(*calls)
            if ended:
                del self._own[run_id]
                replay.listeners.discard(self._wake.set)
            else:
                self._own[run_id] = replay, sent + len(frames)
                self._wake.set()  # there may be more of it

    async def _pull(self) -> None:
        runs = {self._key(run_id): replay for run_id, replay in self.followed.items() if replay.ended_at is None}
        after = {**self._read_up_to, **{key: f"{replay.seq}-0" for key, replay in runs.items()}}
        for key, entry_id, fields in _entries(
            await self._call("XREAD", "COUNT", MOST_FRAMES, "STREAMS", *after, *after.values())
        ):
            if (replay := runs.get(key)) is not None:
                _append(replay, entry_id, fields)
                continue
            self._read_up_to[key] = entry_id
            if key == self._stops:
                self._on_stop(fields[1].decode())
                continue
            try:
                change = _change.decode(fields[1])
            except msgspec.MsgspecError:  # of another version of Gatehouse
                continue
            if change.worker != self._worker:
                self._on_change(change.owner, change.chat)

    def _forget(self) -> None:
        now = asyncio.get_running_loop().time()
        for run_id, replay in list(self.followed.items()):
            if replay.listeners:
                self._unwanted.pop(run_id, None)
            elif now - self._unwanted.setdefault(run_id, now) > FORGET_SECONDS:
                del self.followed[run_id], self._unwanted[run_id]

    async def _last(self, stream: str) -> str:
        newest = await self._call("XREVRANGE", stream, "+", "-", "COUNT", 1)
        return newest[0][0].decode() if newest else "0-0"

    async def _call(self, *command: bytes | str | int) -> Any:
        reply = await self._link.call(*command)
        if isinstance(reply, hiredis.ReplyError):
            if "equal or smaller" in str(reply):  # it is there already
                return None
            raise self._link.refused(reply)
        return reply

    def _key(self, run_id: str) -> str:
        return f"{self._prefix}:run:{run_id}"

    def _lost(self, reason: str) -> None:
        self._say_away(reason)
        self._wake.set()

    def _say_away(self, reason: str) -> None:
        if not self._away:
            log.warning("chat: Redis is away, workers do not see each other's runs: %s", reason)
        self._away = True


def _append(replay: Replay, entry_id: str, fields: list[bytes]) -> None:
    """Keep a frame from its stream, if it is the next one."""
    if int(entry_id.partition("-")[0]) == replay.seq + 1:
        replay.append(fields[1])


def _entries(reply: Any) -> Iterator[tuple[str, str, list[bytes]]]:
    """Stream, id and fields of each entry of an answer to XREAD."""
    for key, entries in reply or ():
        for entry_id, fields in entries:
            yield key.decode(), entry_id.decode(), fields
