"""The runs of this worker: started, found, stopped, saved, forgotten; and the answers of workers that are gone."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial

from aiohttp import web

from gateway.admission import Admission
from gateway.chat.hub import Hub
from gateway.chat.metrics import ChatMetrics
from gateway.chat.mirror import Mirror
from gateway.chat.replay import Replay
from gateway.chat.run import Run, complete
from gateway.chat.settings import ChatSettings
from gateway.chat.shown import fit
from gateway.chat.worker import is_gone, this_worker
from gateway.config import RedisSettings
from gateway.context import Api
from gateway.engine import Engine
from gateway.errors import Gone, NotFound
from gateway.observe import Observer
from gateway.relay import Relay
from gateway.routes import ENGINE_ROUTES
from gateway.shape import Shaped
from gateway.store import Store, StoreError
from gateway.store.chat_rows import Ending, Role, Status
from gateway.store.messages import Unfinished

log = logging.getLogger("gatehouse.chat")

ROUTE = next(route for route in ENGINE_ROUTES if route.api is Api.CHAT)
SWEEP_SECONDS = 5.0
ORPHANED_SECONDS = 30.0  # an answer that nobody saved for so long has no maker; several times `save_seconds`
PURGE_SECONDS = 3600.0
RETRY_SECONDS = 2.0
STOP_SECONDS = 2.0
_DAY = 86_400
_GONE = "The answer was interrupted: the gateway that made it is gone."


class Runs:
    """Runs by id. Those that have ended stay for `replay_seconds`. With Redis, other workers' runs are seen, too."""

    def __init__(
        self,
        settings: ChatSettings,
        store: Store,
        hub: Hub,
        *,
        redis: RedisSettings,
        observer: Observer,
        engine: Engine,
        relay: Relay,
        admission: Admission,
        metrics: ChatMetrics,
    ) -> None:
        self.worker = this_worker()
        self._metrics = metrics
        self._settings = settings
        self._store = store
        self._hub = hub
        self._observer = observer
        self._work = partial(Run.work, relay=relay, route=ROUTE, engine=engine, admission=admission)
        self._runs: dict[str, Run] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._overdue: set[str] = set()  # runs of others that have ended in SQL, and not yet here
        self._mirror: Mirror | None = None
        if redis.url is not None:
            self._mirror = Mirror(
                redis,
                self.worker,
                keep_seconds=settings.replay_seconds,
                longest_run=settings.wait_seconds + settings.replay_seconds + _DAY,
                on_change=hub.deliver,
                on_stop=self._stop_here,
            )
            hub.on_publish = self._mirror.tell

    def active(self, owner: str) -> list[Run]:
        """The runs of a member that have not ended, oldest first."""
        return [run for run in self._runs.values() if run.owner == owner and not run.ended.is_set()]

    @property
    def going(self) -> int:
        """Answers that are being made here."""
        return sum(not run.ended.is_set() for run in self._runs.values())

    @property
    def replay_bytes(self) -> int:
        """What is kept of runs, other workers' included, for those who attach."""
        followed = () if self._mirror is None else self._mirror.followed.values()
        return sum(replay.size for replay in (*(run.replay for run in self._runs.values()), *followed))

    def begin(self, request: web.Request, run: Run, shaped: Shaped, body: bytes) -> None:
        """Start a run that goes on with the exchange of this request; `shaped` and `body` are for the engine."""
        self._runs[run.id] = run
        if self._mirror is not None:
            self._mirror.carry(run.replay)
        run.task = self._observer.carry_on(request, partial(self._work, run, shaped, body))
        run.task.add_done_callback(partial(self._ended, run))

    async def stop(self, run_id: str) -> None:
        """Stop a run, whichever worker has it; one of this worker has ended and is saved after that."""
        if self._stop_here(run_id):
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._runs[run_id].ended.wait()
        elif self._mirror is not None:
            self._mirror.stop(run_id)

    def _stop_here(self, run_id: str) -> bool:
        run = self._runs.get(run_id)
        if run is not None:
            run.stop()
        return run is not None

    async def replay(self, owner: str, run_id: str) -> Replay:
        """What a run has said. NotFound when the owner has no such run, Gone when its frames are no longer kept."""
        run = self._runs.get(run_id)
        if run is not None and run.owner == owner:
            return run.replay
        message = None if run is not None else await self._store.messages.find(owner, run_id)
        if message is None or message.role != Role.ASSISTANT:
            raise NotFound("There is no such run.", code="run_not_found")
        if self._mirror is not None and (message.status == Status.RUNNING or await self._mirror.has(run_id)):
            return self._mirror.follow(run_id)
        raise Gone("The frames of this run are no longer kept; read its message.", code="run_gone")

    def _ended(self, run: Run, _task: asyncio.Task[None]) -> None:
        ending = asyncio.create_task(self._keep(run))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    async def _keep(self, run: Run) -> None:
        """Save how a run ended, then say so: who reads the message after the last frame finds the same there.

        While the database is away the last frame does not wait for it; saving is tried on.
        """
        ending = run.ending()
        self._metrics.ended(ending.status)
        while True:
            try:
                chat = await self._store.messages.finish(run.id, _fit(ending))
            except StoreError as error:
                if not run.ended.is_set():
                    log.warning("%s: its end is not saved yet: %s", run.id, error)
                    run.end(ending)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                break
        if not run.ended.is_set():
            run.end(ending)
        if chat is not None and chat.deleted_at is None:
            self._hub.publish(chat)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Save, sweep and forget while the context lasts; at its end stop what still runs and save it."""
        mirror = asyncio.create_task(self._mirror.run()) if self._mirror is not None else None
        tasks = [asyncio.create_task(each) for each in (self._saving(), self._sweeping(), self._forgetting())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await self.close()
            if mirror is not None:  # last: it tells the others how the runs ended
                mirror.cancel()
                with suppress(asyncio.CancelledError):
                    await mirror

    async def close(self) -> None:
        """Interrupt what still runs, and wait until every end is saved, or cannot be."""
        for run in self._runs.values():
            if run.task is not None and not run.task.done():
                run.task.cancel()
        await asyncio.gather(*(run.task for run in self._runs.values() if run.task), return_exceptions=True)
        await asyncio.sleep(0)  # the callbacks of those tasks
        if self._endings:
            _, unsaved = await asyncio.wait(self._endings, timeout=RETRY_SECONDS)
            for task in unsaved:
                task.cancel()

    async def _saving(self) -> None:
        while True:
            await asyncio.sleep(self._settings.save_seconds)
            with _later():
                texts = [
                    (run.id, fit(run.answer.content), fit(run.answer.reasoning))
                    for run in self._runs.values()
                    if not run.ended.is_set()
                ]
                if texts:  # also those that are as they were: `saved_at` says that somebody makes them
                    await self._store.messages.save(texts, time.time())

    async def _sweeping(self) -> None:
        while True:
            with _later():
                await self.sweep()
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Mark the answers whose makers are gone as interrupted."""
        now = time.time()
        for orphan in await self._store.messages.unfinished():
            if orphan.id in self._runs or not self._is_orphan(orphan, now):
                continue
            await self._interrupt(orphan, now)
        if self._mirror is not None:
            await self._end_followed(self._mirror)

    async def _interrupt(self, orphan: Unfinished, now: float) -> None:
        """End an answer in its maker's place, with all that was saved or shown of it."""
        shown = Replay(orphan.id) if self._mirror is None else await self._mirror.whole(orphan.id)
        reasoning, content = map(fit, shown.texts())
        error = {"code": "interrupted", "message": _GONE, "status": 503, "request_id": None}
        chat = await self._store.messages.interrupt(orphan, now, error, content=content, reasoning=reasoning)
        if chat is None:
            return
        log.warning("%s: interrupted, its worker is gone", orphan.id)
        self._metrics.ended(Status.INTERRUPTED)
        self._hub.publish(chat)
        message = await self._store.messages.get(orphan.id)
        if self._mirror is not None and message is not None and shown.seq and shown.ended_at is None:
            there = shown.seq
            complete(shown, message)
            self._mirror.carry(shown, there)

    async def _end_followed(self, mirror: Mirror) -> None:
        """End the runs of others whose last frame never came, though the message says that they have ended."""
        overdue = set()
        for run_id, replay in list(mirror.followed.items()):
            if replay.ended_at is not None:
                continue
            message = await self._store.messages.get(run_id)
            if message is not None and message.status == Status.RUNNING:
                continue
            if run_id not in self._overdue:  # the frame may be on its way
                overdue.add(run_id)
            elif message is not None:
                complete(replay, message)
        self._overdue = overdue

    def _is_orphan(self, message: Unfinished, now: float) -> bool:
        silent = now - message.saved_at > max(ORPHANED_SECONDS, 4 * self._settings.save_seconds)
        return silent or is_gone(message.worker)

    async def _forgetting(self) -> None:
        purged_at = -PURGE_SECONDS
        while True:
            now = time.monotonic()
            for run in list(self._runs.values()):
                ended_at = run.replay.ended_at
                if ended_at is not None and now - ended_at > self._settings.replay_seconds:
                    del self._runs[run.id]
            if now - purged_at >= PURGE_SECONDS:
                purged_at = now
                with _later():
                    before = time.time() - self._settings.keep_deleted_days * 86_400
                    while await self._store.chats.purge(before):
                        pass
            await asyncio.sleep(1.0)


def _fit(ending: Ending) -> Ending:
    return replace(ending, content=fit(ending.content), reasoning=fit(ending.reasoning))


@contextmanager
def _later() -> Iterator[None]:
    """While the database is away: the next round will do."""
    try:
        yield
    except StoreError as error:
        log.info("chat: %s", error)
