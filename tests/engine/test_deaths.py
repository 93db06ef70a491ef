"""The real vLLM dies, process by process and phase by phase: how soon it is noticed, and that nothing of it is left.

One launcher goes through all of it, since each start of the real engine takes half a minute. Rows of the table of deaths.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from launcher.config import EngineSettings
from tests.support.deaths import Belongings, tell
from tests.support.launchers import Running, running, until
from tests.support.processes import titled
from tests.support.real_engine import install, real_engine

START_SECONDS = 240.0
STALL_SECONDS = 10.0
MARGIN = 5
"""The generous multiple of a promised time that a busy machine may take."""


class Ward:
    """Takes the engine through one death after the other."""

    def __init__(self, run: Running, record_property) -> None:
        self.run, self.record_property = run, record_property

    async def reach(self, state: str) -> None:
        """Wait for ready, or for a phase of the start-up."""
        if state == "ready":
            await until(lambda: self.run.status.state == "ready", "ready", START_SECONDS)
        else:
            await until(lambda: self.run.status.phase == state, state, START_SECONDS)

    async def dies(self, death: str, number: int, title: str, state: str, within: float, reason: str) -> None:
        """Send the signal to the process with this title ("" is the first one), and watch what comes of it."""
        await self.reach(state.partition(",")[0])
        had = Belongings.of(self.run.state_dir)
        stream = asyncio.create_task(self.run.stream(1500)) if "streaming" in state else None
        if stream is not None:
            await asyncio.sleep(1)
        victim = titled(had.session, title) if title else had.session
        heard = len(self.run.seen)
        began = time.monotonic()
        os.kill(victim, number)
        await until(lambda: self.run.status.state in {"restarting", "stalled"}, death, within * MARGIN)
        detected = time.monotonic() - began
        await until(lambda: self.run.status.pid not in {None, had.session}, "the next engine", START_SECONDS)
        assert had.left() == []
        assert any(reason in status.reason for status in self.run.seen[heard:]), self.run.seen[heard:]
        seen = _outcome(await stream) if stream is not None else "–"
        assert seen != "complete"
        tell(self.record_property, "real", death, state, detected, [], seen)


def _outcome(frames: list[dict]) -> str:
    """What a direct caller saw."""
    if not frames:
        return "cut"
    if "error" in frames[-1]:
        return "error frame"
    reason = frames[-1]["choices"][0]["finish_reason"] if frames[-1].get("choices") else None
    return {"length": "complete", None: "cut"}.get(reason, f"ended with {reason}")


@pytest.mark.timeout(900, func_only=True)
async def test_deaths_of_the_real_engine(tmp_path: Path, record_property) -> None:
    """Worker stopped, killed in two phases of the start, worker and server killed, stopped in a start: found, and gone."""
    settings = EngineSettings(
        **{
            **real_engine(*install())["engine"],
            "port": 0, "stall_seconds": STALL_SECONDS, "stall_grace_seconds": 0, "restart_delay": 0.1,
            "crash_loop_failures": 100, "warmup_batches": [1], "stop_timeout": 3, "shutdown_timeout": 2,
        }
    ).model_dump()  # fmt: skip
    async with running(tmp_path, **settings) as run:
        ward = Ward(run, record_property)
        await ward.dies(
            "SIGSTOP worker", signal.SIGSTOP, "VLLM::Worker", "ready, streaming", STALL_SECONDS + 5, "no step for 10 s"
        )
        await ward.dies("SIGKILL parent", signal.SIGKILL, "", "importing", 1.0, "SIGKILL")
        await ward.dies("SIGKILL EngineCore", signal.SIGKILL, "VLLM::EngineCor", "loading", 6.0, "EngineC")
        await ward.dies("SIGKILL worker", signal.SIGKILL, "VLLM::Worker", "ready, streaming", 1.0, "Worker (pid")
        await ward.dies("SIGKILL parent", signal.SIGKILL, "", "ready, streaming", 1.0, "SIGKILL")
        await ward.reach("importing")
        had = Belongings.of(tmp_path)
        began = time.monotonic()
        run.stop.set()
        await run.state("stopped")
        took = time.monotonic() - began
        left = had.left()
    assert left == []
    tell(record_property, "real", "SIGTERM, asked", "importing", took, left)
