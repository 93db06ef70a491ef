"""The parent of several workers: starts them, starts another when one dies, replaces them, ends them.

Each worker has a place, numbered from 1, whose listening sockets outlive it. A worker is

    starting ──▶ serving ──another serves in its place──▶ retiring ──▶ gone
        └──────────┴── dies, or hangs and is killed: another starts at once; dies again soon: after a back-off ──▶ gone
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from gateway.config import GatewaySettings
from gateway.listening import Listeners
from gateway.streak import Streak
from gateway.waiting import first
from gateway.workers.channel import Channel
from gateway.workers.metrics import ParentMetrics
from gateway.workers.process import State, Worker
from gateway.workers.sums import Sums

_log = logging.getLogger("gatehouse.workers")

LOOK_SECONDS = 5.0  # between two looks at a worker: what one that is killed counted since is lost
STEADY_SECONDS = 10.0  # a worker that lived so long died of something new
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 10.0  # seconds
GRACE_SECONDS = 10.0  # beyond drain_seconds, before a worker that does not end is told to hurry, and then killed


class WorkersFailed(Exception):
    """No worker could start; it has said why."""


class _Place:
    """Where a worker serves, and then its successor."""

    def __init__(self, number: int, listeners: Listeners) -> None:
        self.number, self.listeners = number, listeners
        self.worker: Worker | None = None


class Parent:
    """Keeps as many workers as the settings say."""

    def __init__(
        self, settings: GatewaySettings, argv: Callable[[int, Sequence[int]], Sequence[str]], env: dict[str, str]
    ) -> None:
        """`argv(number, descriptors)` starts a worker: the channel's descriptor first, then its listening sockets'."""
        self._settings, self._argv, self._env = settings, argv, env
        self._places: list[_Place] = []
        self._workers: list[Worker] = []  # all that live
        self._ended, self._streak = Sums(), Streak()  # of those that have ended
        self._metrics = ParentMetrics(settings.workers, self._running)
        self._stop = asyncio.Event()
        self._one_serves, self._all_serve = asyncio.Event(), asyncio.Event()  # or have served
        self._replacing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def bind(self) -> int:
        """Bind every place's sockets; returns the port that they share. Raises OSError."""
        port = None
        for number in range(1, self._settings.workers + 1):
            listeners = Listeners(self._settings, number, port)
            self._places.append(_Place(number, listeners))
            listeners.open()
            port = listeners.port
        return self._places[0].listeners.port

    def close(self) -> None:
        """Listen no more."""
        for place in self._places:
            place.listeners.close()

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event, on_serving: Callable[[], None]) -> None:
        """Keep the workers until `stop`, then let them drain, or end them on `hurry`.

        `on_serving` is called once all of them serve. Raises WorkersFailed when the first of them cannot start.
        """
        keepers = [asyncio.create_task(self._keep(place)) for place in self._places]
        greeting = asyncio.create_task(self._greet(on_serving))
        kept = asyncio.gather(*keepers)
        await first(stop.wait(), asyncio.wait({kept}))
        self._stop.set()
        greeting.cancel()
        gone = asyncio.create_task(self._all_gone(keepers))
        for worker in self._workers:
            worker.stop()
        patience = self._settings.drain_seconds + GRACE_SECONDS
        await first(asyncio.wait({gone}), hurry.wait(), asyncio.sleep(patience))
        for worker in self._workers:
            worker.hurry()
        await asyncio.wait({gone}, timeout=GRACE_SECONDS)
        for worker in self._workers:
            worker.kill()
        await gone
        await kept

    def reload(self) -> None:
        """Let every worker take over plans and limits."""
        for worker in self._workers:
            worker.reload()

    def replace(self) -> None:
        """Begin to replace one worker after another, unless that is under way.

        Each has a successor that serves before it goes, so no request is lost. Successors are new processes, which read
        the configuration anew. When one cannot start, the worker that it should have followed goes on, and those after.
        """
        if self._replacing is None or self._replacing.done():
            self._replacing = self._begin(self._replace_all())

    async def expose(self) -> bytes:
        """The metrics of all workers in Prometheus' text format, those that have ended included."""
        await self._refresh()
        sums, streak = self._ended.copy(), self._streak
        for worker in self._workers:
            sums.add(worker.figures.families)
            streak = streak.with_(worker.figures.streak)
        sums.set("gatehouse_consecutive_timeouts", len(streak))
        return sums.text() + self._metrics.text()

    async def why_not_ready(self) -> list[str]:
        """Why none of the workers can serve a request now; empty as soon as one of them can."""
        told: list[str] = []
        serving = [worker for worker in self._workers if worker.state is State.SERVING]
        for answer in asyncio.as_completed([worker.why_not_ready() for worker in serving]):
            reasons = await answer
            if not reasons:
                return []
            told += (each for each in reasons if each not in told)
        return told or ["no worker serves"]

    async def requests(self) -> list[dict[str, Any]]:
        """The requests that are being served, oldest first."""
        lists = await asyncio.gather(*(worker.requests() for worker in self._workers))
        return sorted((each for some in lists for each in some), key=lambda each: -float(each["age_s"]))

    def workers(self) -> list[dict[str, Any]]:
        """The workers that live, as the admin listener shows them."""
        return [
            {"number": worker.number, "pid": worker.pid, "state": worker.state, "age_s": round(worker.age, 1)}
            for worker in self._workers
        ]

    async def _keep(self, place: _Place) -> None:
        """See to it that a worker serves in this place."""
        deaths = 0  # soon after one another
        while not self._stop.is_set():
            if place.worker is None:
                place.listeners.open()
                place.worker = await self._start(place)
            worker = place.worker
            await worker.gone.wait()
            if place.worker is not worker:  # it was replaced
                continue
            place.worker = None
            if not self._one_serves.is_set():
                raise WorkersFailed
            deaths = 1 if worker.age > STEADY_SECONDS else deaths + 1
            if deaths > 1:  # who waits in its queue would wait for long; the others' are open
                place.listeners.close()
                await first(self._stop.wait(), asyncio.sleep(min(FIRST_BACKOFF * 2 ** (deaths - 2), LONGEST_BACKOFF)))

    async def _replace_all(self) -> None:
        for place in self._places:
            old = place.worker
            if old is None or self._stop.is_set():  # another one is on its way anyway, or none
                continue
            successor = await self._start(place)
            await first(successor.serving.wait(), successor.gone.wait())
            if not successor.serving.is_set():
                _log.error("worker %d: its successor could not start; it goes on", place.number)
                return
            place.worker = successor
            old.retire()
        _log.warning("all workers are replaced; the old ones end with their last connection")

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _start(self, place: _Place) -> Worker:
        ours, its = socket.socketpair()
        with its:
            descriptors = [each.fileno() for each in (its, *place.listeners.sockets)]
            process = await asyncio.create_subprocess_exec(
                *self._argv(place.number, descriptors),
                pass_fds=descriptors,
                env=self._env,
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends the workers in order
            )
        worker = Worker(place.number, process, await Channel.over(ours), on_serving=self._note_serving)
        self._workers.append(worker)
        self._begin(self._attend(worker))
        if self._stop.is_set():
            worker.stop()
        return worker

    async def _attend(self, worker: Worker) -> None:
        watching = asyncio.create_task(self._watch(worker))
        await worker.attend()
        watching.cancel()
        self._workers.remove(worker)
        self._ended.keep(worker.figures.families)
        self._streak = self._streak.with_(worker.figures.streak)
        went = worker.state is State.RETIRING and worker.exit_code == 0
        if not went and not self._stop.is_set():
            _log.error("worker %d (pid %d) died: exit %s", worker.number, worker.pid, worker.exit_code)
            self._metrics.died(worker.exit)

    def _running(self) -> int:
        return sum(place.worker is not None and place.worker.state is State.SERVING for place in self._places)

    async def _all_gone(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        await asyncio.wait(keepers)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _note_serving(self) -> None:
        self._one_serves.set()
        if all(place.worker is not None and place.worker.serving.is_set() for place in self._places):
            self._all_serve.set()

    async def _greet(self, on_serving: Callable[[], None]) -> None:
        await self._all_serve.wait()
        on_serving()

    async def _watch(self, worker: Worker) -> None:
        """Keep its figures, and end it when it hangs: it would hold its connections and take new ones for ever."""
        patience = self._settings.worker_hang_seconds
        await worker.serving.wait()
        while await worker.answers_within(patience):
            await worker.look()
            await asyncio.sleep(min(LOOK_SECONDS, patience))
        _log.error("worker %d (pid %d) hangs: no answer for %g s; it is killed", worker.number, worker.pid, patience)
        worker.hung = True
        worker.kill()

    async def _refresh(self) -> None:
        await asyncio.gather(*(worker.look() for worker in self._workers))
