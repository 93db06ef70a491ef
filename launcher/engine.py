"""One try at running an engine: from the checks before its start to the proof that it is gone.

What happens is told in events of the state machine; whether to try again is decided there.

| told | when |
|---|---|
| Answered | /health is 200 and one token was really generated |
| Warmed | the warm-up requests are through |
| StallBegan, StallEnded | work in flight and the step counter frozen for `stall_seconds`; moving again |
| Lost | the process or one of its tree died (whatever the exit code), /health says 503 or nothing, a stall went on |
"""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp

from launcher.config import EngineSettings, engine_argv, engine_environment, engine_url
from launcher.failure import explain
from launcher.gpus import Accelerators, Driver, memory_holders
from launcher.host import free_port
from launcher.output import LogFile
from launcher.preflight import preflight
from launcher.probe import Health, NotAnsweringError, Probe, StallClock, warm_up
from launcher.process import POLL_SECONDS, EngineProcess, Ladder
from launcher.progress import Phase, Progress, follow
from launcher.record import clear_leftovers
from launcher.supervisor import Answered, Cause, Event, Lost, StallBegan, StallEnded, Warmed

log = logging.getLogger(__name__)

LOG_NAME = "engine.log"
RECORD_NAME = "engine.json"
_STARTUP_POLL_SECONDS = 0.25
_STARTUP_STOP_SECONDS = 3.0  # nothing is lost by a start-up that is broken off
_LAST_WORDS_SECONDS = 5.0  # how long a server whose worker died in its start may take to say why
_REST_SECONDS = 0.3  # for what it has printed to be read; its children may hold the pipe open for longer
_MEMORY_SLACK_MIB = 512  # what others may take on a GPU while an engine lives
_SETTLE_SECONDS = 0.3  # requests that the gateway sent before it heard of the drain arrive within this


class EngineRun:
    """Runs one engine, or watches an external one. `report` gets the events, `on_progress` the start-up's progress."""

    def __init__(
        self,
        settings: EngineSettings,
        state_dir: Path,
        api_key: str,
        session: aiohttp.ClientSession,
        *,
        driver: Driver,
        report: Callable[[Event], None],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.url: str | None = None
        self.progress = Progress()
        self.version: str | None = None
        self.process: EngineProcess | None = None
        self.probe: Probe | None = None
        self._settings = settings
        self._state_dir = state_dir
        self._api_key = api_key
        self._session = session
        self._driver = driver
        self._before = Accelerators()
        self._report = report
        self._on_progress = on_progress
        self._answered = False
        self._dying = False  # something of it is dead, and why is being found out
        self._hurried = False
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Start the engine and watch it until `stop`."""
        self._task(self._start())

    def warm(self) -> None:
        """Send the warm-up requests, then watch the engine's health."""
        self._warming()
        self._task(self._warm_then_watch())

    def _warming(self, done: int | None = None, total: int | None = None) -> None:
        self.progress = Progress(Phase.WARMING, done, total, self.progress.version)
        self._on_progress(self.progress)

    def hurry(self) -> None:
        """Have a stop skip to the kill."""
        self._hurried = True
        if self.process is not None:
            self.process.hurry()

    async def stop(self, *, graceful: bool) -> list[int]:
        """End the engine; graceful lets running requests finish. Returns the pids that could not be killed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.process is None:
            return []
        patience = self._settings.stop_timeout
        ladder = Ladder(0, 0, self._settings.kill_timeout)
        if graceful and not self._answered:
            short = min(_STARTUP_STOP_SECONDS, patience)
            ladder = Ladder(short, short, self._settings.kill_timeout)
        elif graceful:
            drained = await self._quiet()
            first = patience if drained else patience + self._settings.shutdown_timeout
            ladder = Ladder(first, patience, self._settings.kill_timeout)
        left = await self.process.stop(ladder)
        return left or sorted(await self._gpu_memory_back(self.process))

    def _task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("watching the engine failed", exc_info=error)
            self._lost(Cause.UNHEALTHY, f"the launcher cannot watch the engine: {error!r}")

    def _lost(self, cause: Cause, reason: str, *, fatal: bool = False) -> None:
        self._report(Lost(cause, reason, asyncio.get_running_loop().time(), fatal))

    async def _start(self) -> None:
        settings = self._settings
        if not await clear_leftovers(self._state_dir / RECORD_NAME, settings.kill_timeout):
            self._lost(Cause.STARTUP, "the engine of an earlier launcher cannot be killed", fatal=True)
            return
        if problems := await asyncio.to_thread(preflight, settings, self._driver):
            reason = "; ".join(str(problem) for problem in problems)
            self._lost(Cause.STARTUP, reason, fatal=not all(problem.passing for problem in problems))
            return
        port = settings.port or free_port(settings.host)
        self.url = engine_url(settings, port)
        self.probe = Probe(self._session, self.url, self._api_key, settings.served_model_name)
        if settings.kind == "vllm":
            self._before = await asyncio.to_thread(self._driver.look)
        if settings.owned:
            try:
                self.process = EngineProcess.spawn(
                    engine_argv(settings, port),
                    engine_environment(settings, self._api_key, os.environ),
                    port=port,
                    record_path=self._state_dir / RECORD_NAME,
                    log_file=LogFile(self._state_dir / LOG_NAME, settings.log_file_bytes, settings.log_file_count),
                    on_line=self._hear,
                )
            except OSError as error:
                self._lost(Cause.STARTUP, f"{settings.command[0]} cannot be started: {error}", fatal=True)
                return
            self._task(self._watch_tree(self.process))
        self._on_progress(self.progress)
        await self._await_answer(self.probe)

    def _hear(self, line: str) -> None:
        log.debug("engine: %.300s", line)
        if self._answered:
            return
        before, self.progress = self.progress, follow(self.progress, line)
        self.version = self.progress.version
        if self.progress != before:
            self._on_progress(self.progress)

    async def _await_answer(self, probe: Probe) -> None:
        clock = asyncio.get_running_loop().time
        end = clock() + self._settings.startup_timeout
        while await probe.health(self._settings.health_timeout) is not Health.OK:
            if self._settings.owned and clock() > end:
                self._lost(
                    Cause.STARTUP, f"not healthy within startup_timeout ({self._settings.startup_timeout:.0f} s)"
                )
                return
            await asyncio.sleep(_STARTUP_POLL_SECONDS)
        if self._dying:
            return
        if self.process is not None and not self.process.listens():
            self._lost(Cause.STARTUP, f"{self.url} is answered by another program: the engine's port was taken")
            return
        try:
            await probe.one_token(self._settings.canary_timeout)
        except NotAnsweringError as error:
            if not self._dying:
                self._lost(Cause.STARTUP, f"healthy, but {error}")
            return
        self.version = await probe.version() or self.version
        if self._dying:
            return
        self._answered = True
        if self.process is not None:
            self.process.observe()  # by now it has all its shared memory: known before anything can kill it
        self._report(Answered())

    async def _warm_then_watch(self) -> None:
        assert self.probe is not None  # noqa: S101 - Answered comes from it
        settings = self._settings
        if settings.owned:
            try:
                async with asyncio.timeout(settings.warmup_timeout):
                    await warm_up(self.probe, settings, self._warming)
            except (NotAnsweringError, TimeoutError) as error:
                log.warning("the warm-up was broken off: %s", str(error) or "it took too long")
                try:
                    await self.probe.one_token(settings.canary_timeout)
                except NotAnsweringError as silence:
                    self._lost(Cause.STARTUP, f"after its warm-up {silence}")
                    return
        self._report(Warmed())
        await self._watch_health(self.probe)

    async def _watch_tree(self, process: EngineProcess) -> None:
        while True:
            process.observe()
            if (death := process.death()) is not None:
                break
            await asyncio.sleep(POLL_SECONDS)
        cause = Cause.PROCESS_DIED if death.exit_code is None else Cause.EXITED
        if self._answered:
            self._lost(cause, str(death))
            return
        self._dying = True
        code = await process.exit_code(_LAST_WORDS_SECONDS)
        await process.output.ended(_REST_SECONDS)
        failure = explain(str(death), code, process.output.tail)
        self._lost(Cause.STARTUP, failure.reason, fatal=failure.fatal)

    async def _watch_health(self, probe: Probe) -> None:
        settings = self._settings
        clock = asyncio.get_running_loop().time
        stall = StallClock(settings.stall_seconds)
        silent, stalled_at, asked_at = 0, None, clock()
        while True:
            await asyncio.sleep(settings.health_interval)
            health, load = await asyncio.gather(
                probe.health(settings.health_timeout), probe.load(settings.health_timeout)
            )
            silent = silent + 1 if health is Health.SILENT else 0
            if health is Health.DEAD:
                self._lost(Cause.UNHEALTHY, "/health of the engine says that it is dead (503)")
            elif silent >= settings.health_failures:
                self._lost(Cause.UNHEALTHY, f"/health of the engine gave no answer {silent} times in a row")
            if stall.observe(load, clock()):
                if stalled_at is None:
                    stalled_at = clock()
                    running = f"{load.in_flight} requests in flight" if load else "requests in flight"
                    self._report(StallBegan(f"{running} and no step for {settings.stall_seconds:.0f} s"))
                elif settings.owned and clock() - stalled_at >= settings.stall_grace_seconds:
                    self._lost(Cause.STALLED, f"no step for {settings.stall_seconds:.0f} s with requests in flight")
            elif stalled_at is not None:
                stalled_at = None
                self._report(StallEnded())
            if load is None or load.in_flight:
                asked_at = clock()
            elif settings.canary_seconds and clock() - asked_at >= settings.canary_seconds:
                try:
                    await probe.one_token(settings.canary_timeout)
                except NotAnsweringError as error:
                    self._lost(Cause.UNHEALTHY, str(error))
                asked_at = clock()

    async def _quiet(self) -> bool:
        """Wait until no request is in flight, at most `shutdown_timeout`. False when the engine cannot tell."""
        assert self.probe is not None  # noqa: S101 - an engine that answered has one
        clock = asyncio.get_running_loop().time
        end = clock() + self._settings.shutdown_timeout
        idle = 0
        while idle < 2 and clock() < end and not self._hurried:
            await asyncio.sleep(_SETTLE_SECONDS / 2)
            if self.process is None or self.process.death() is not None:
                return True
            load = await self.probe.load(self._settings.health_timeout)
            if load is None:
                return False
            idle = idle + 1 if load.in_flight == 0 else 0
        return True

    async def _gpu_memory_back(self, process: EngineProcess) -> set[int]:
        """Wait until the GPUs have the engine's memory back; which of its processes still hold some at the deadline.

        A container may not see who holds memory, so what is used now is compared with what was before the start.
        """
        clock = asyncio.get_running_loop().time
        end = clock() + self._settings.kill_timeout
        was = {gpu.uuid: gpu.used_mib for gpu in self._before.gpus}
        while was:
            now = await asyncio.to_thread(self._driver.look)
            held = memory_holders(now, process.known_pids())
            full = [gpu for gpu in now.gpus if gpu.used_mib > was.get(gpu.uuid, gpu.used_mib) + _MEMORY_SLACK_MIB]
            if not held and not full:
                break
            if clock() > end:
                for gpu in full:
                    log.warning("GPU %d has not got all of its memory back: %d MiB are used, %d were before the"
                                " engine started", gpu.index, gpu.used_mib, was[gpu.uuid])  # fmt: skip
                return held
            await asyncio.sleep(_STARTUP_POLL_SECONDS)
        return set()
