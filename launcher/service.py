"""The launcher: carries out what the state machine decides, and tells the world. Embeds in any asyncio program."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp

from launcher import supervisor as fsm
from launcher.config import EngineSettings
from launcher.engine import EngineRun
from launcher.family import become_subreaper
from launcher.gpus import Driver, Nvml
from launcher.metrics import LauncherMetrics, StartupClock
from launcher.probe import NotAnsweringError
from launcher.progress import Progress
from launcher.status import Board, Status, serve, sole_launcher
from launcher.supervisor import Name

log = logging.getLogger(__name__)

STARTUPS_NAME = "engine-startups.json"
_TAIL_LINES = 20
_TROUBLE = {Name.RESTARTING, Name.FAILED, Name.STALLED}


class Launcher:
    """Keeps one engine alive. `run` it once; `on_change` hears every new status, in the event loop's thread.

    `api_key` guards the engine: the gateway must send it. `driver` knows the GPUs, NVML by default.
    LauncherRunningError when the state directory is taken.
    """

    def __init__(
        self,
        settings: EngineSettings,
        state_dir: Path,
        api_key: str,
        *,
        on_change: Callable[[Status], None] | None = None,
        driver: Driver | None = None,
    ) -> None:
        self._driver = driver or Nvml()
        self._settings = settings
        self._state_dir = state_dir
        self._api_key = api_key
        self._on_change = on_change
        self._policy = fsm.Policy(
            owned=settings.owned,
            delay=settings.restart_delay,
            delay_max=settings.restart_delay_max,
            crash_loop_failures=settings.crash_loop_failures,
            crash_loop_seconds=settings.crash_loop_seconds,
        )
        self._state = fsm.State()
        self._since = time.time()
        self._restarts = 0
        self._progress = Progress()
        self._run: EngineRun | None = None
        self._session: aiohttp.ClientSession | None = None
        self._events: asyncio.Queue[fsm.Event] = asyncio.Queue()
        self._chores: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._board = Board()
        self._metrics = LauncherMetrics()
        key = f"{settings.kind} {settings.model} tp{settings.tensor_parallel_size} {' '.join(settings.extra_args)}"
        self._clock = StartupClock(state_dir / STARTUPS_NAME, key)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve the status socket and keep the engine alive until `stop` is set; then drain it and stop all of it."""
        with sole_launcher(self._state_dir):
            if self._settings.owned:
                become_subreaper()
            async with aiohttp.ClientSession() as self._session, serve(self, self._board, self._state_dir):
                stopping = asyncio.create_task(self._stop_when(stop))
                try:
                    self._events.put_nowait(fsm.Start())
                    while not self._state.over:
                        self._apply(await self._events.get())
                except BaseException:
                    await asyncio.shield(self._abandon())
                    raise
                finally:
                    stopping.cancel()
                    if self._timer is not None:
                        self._timer.cancel()
                    await asyncio.gather(stopping, *self._chores, return_exceptions=True)

    def restart(self) -> None:
        """Let running requests finish, then start a fresh engine; also the way out of `failed`."""
        self._events.put_nowait(fsm.RestartAsked())

    def drain(self) -> None:
        """Let running requests finish, then keep the engine down until a restart."""
        self._events.put_nowait(fsm.DrainAsked())

    def hurry(self) -> None:
        """Cut a stop short: whatever still runs is killed."""
        self._events.put_nowait(fsm.Hurry())

    async def reset_prefix_cache(self) -> int:
        """Empty the engine's prefix cache. Returns the engine's HTTP status, 0 when it gave none."""
        if self._run is None or self._run.probe is None:
            return 0
        try:
            return await self._run.probe.reset_prefix_cache()
        except NotAnsweringError:
            return 0

    def tail(self, lines: int) -> list[str]:
        """Return the engine's last lines, at most 200."""
        process = self._run.process if self._run else None
        return list(process.output.tail)[-lines:] if process and lines > 0 else []

    def render_metrics(self) -> bytes:
        """Render the text of /metrics."""
        return self._metrics.render()

    def snapshot(self) -> Status:
        """Take the status of this moment."""
        state, run = self._state, self._run
        now = asyncio.get_running_loop().time()
        rising = self._settings.owned and state.name in {Name.STARTING, Name.WARMING}
        remaining = self._clock.remaining(now)
        lives = state.engine is not fsm.Engine.NONE and run is not None
        return Status(
            state=state.name.value,
            phase=self._progress.phase.value if rising else None,
            percent=100 if state.name in {Name.READY, Name.STALLED} else self._progress.percent if rising else 0,
            elapsed_s=round(self._clock.elapsed(now), 1),
            eta_s=round(remaining, 1) if rising and remaining is not None else None,
            attempt=state.attempt,
            restarts=self._restarts,
            reason=state.reason,
            tail=tuple(self.tail(_TAIL_LINES)) if state.name in _TROUBLE else (),
            pid=run.process.pid if lives and run and run.process else None,
            url=run.url if lives and run else None,
            model=self._settings.served_model_name,
            version=run.version if run else None,
            kind=self._settings.kind,
            since=self._since,
        )

    async def _stop_when(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._events.put_nowait(fsm.StopAsked())

    def _apply(self, event: fsm.Event) -> None:
        before = self._state
        self._state, actions = fsm.step(self._policy, before, event)
        if self._state.name is not before.name:
            self._moved(before.name)
        for action in actions:
            self._act(action)
        if self._state != before:
            self._publish()

    def _moved(self, before: Name) -> None:
        now = self._state.name
        self._since = time.time()
        self._metrics.state(now)
        if now is Name.STALLED:
            self._metrics.stalled()
        if now is Name.READY and before is Name.WARMING:
            self._clock.finish(asyncio.get_running_loop().time())
            self._metrics.startup(self._clock.phases)
        log.info("engine %s%s", now, f": {self._state.reason}" if self._state.reason else "")

    def _publish(self) -> None:
        self._board.changed()
        if self._on_change is not None:
            self._on_change(self.snapshot())

    def _act(self, action: fsm.Action) -> None:
        match action:
            case fsm.Spawn():
                self._spawn()
            case fsm.Warm() if self._run is not None:
                self._run.warm()
            case fsm.Stop(graceful) if self._run is not None:
                self._chore(self._stop_engine(self._run, graceful=graceful))
            case fsm.Wait(seconds):
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(seconds, self._events.put_nowait, fsm.BackoffOver())
            case fsm.Kill() if self._run is not None:
                self._run.hurry()

    def _spawn(self) -> None:
        assert self._session is not None  # noqa: S101 - made before the first event
        if self._timer is not None:
            self._timer.cancel()
        if self._state.cause is not None:
            self._restarts += 1
            self._metrics.restarted(self._state.cause)
        self._clock.begin(asyncio.get_running_loop().time())
        run = EngineRun(
            self._settings,
            self._state_dir,
            self._api_key,
            self._session,
            driver=self._driver,
            report=self._events.put_nowait,
            on_progress=self._on_progress,
        )
        self._run, self._progress = run, run.progress
        run.begin()

    def _on_progress(self, progress: Progress) -> None:
        before, self._progress = self._progress, progress
        self._clock.enter(progress.phase, asyncio.get_running_loop().time())
        if (before.phase, before.percent) != (progress.phase, progress.percent):
            self._publish()

    async def _stop_engine(self, run: EngineRun, *, graceful: bool) -> None:
        try:
            left = await run.stop(graceful=graceful)
        except Exception as error:  # without an answer the machine would wait for ever
            log.exception("stopping the engine failed")
            self._events.put_nowait(fsm.NotGone(f"stopping the engine failed: {error!r}"))
            return
        if left:
            self._events.put_nowait(fsm.NotGone(f"processes {left} cannot be killed or still hold GPU memory"))
        else:
            self._events.put_nowait(fsm.Gone(random.random()))  # noqa: S311 - spreads a wait, guards nothing

    async def _abandon(self) -> None:
        """Leave nothing behind when the surrounding program cancels instead of asking, or something here breaks."""
        for chore in self._chores:
            chore.cancel()
        if self._run is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._run.stop(graceful=False)

    def _chore(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
