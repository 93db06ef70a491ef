"""Each death in each state of the simulated engine: how soon it is noticed, what is left, what callers see.

A real gateway stands before the engine. One caller's stream runs when the engine dies; another caller's request comes at
that moment. The rows are printed as a table at the end of the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.deaths import Belongings, tell
from tests.support.gateways import RunningGateway, gateway
from tests.support.launchers import Running, running, until
from tests.support.processes import titled

PHASES = ("importing", "loading", "compiling", "capturing")
AFRESH = json.dumps({"start_hold": "none", "tps": 2000, "ttft": 0})
"""Knobs of the engine that follows: it is up at once."""
TOKENS = 300
MARGIN = 5
"""The generous multiple of a promised time that a busy machine may take."""


# -- deaths --------------------------------------------------------------------------------------------------------------


def signalled(number: int, title: str | None = None) -> Callable[[Running], Awaitable[None]]:
    """A signal to the first process, or to the one with this title."""

    async def strike(run: Running) -> None:
        first = run.status.pid or 0
        os.kill(first if title is None else titled(first, title), number)

    return strike


async def exit_0(run: Running) -> None:
    """The engine ends as if all were well, at the next request."""
    await run.knobs(fault="die_mid_stream", exit_code=0, fault_times=1, fault_after=0)
    await run.stream(5)


async def engine_dead(run: Running) -> None:
    """EngineCore gives up; the server says so and ends with code 0 a moment later."""
    await run.knobs(fault="engine_death", fault_times=1, fault_after=0)
    await run.stream(5)


async def health_503(run: Running) -> None:
    await run.knobs(health_503=True)


KILL_PARENT = signalled(signal.SIGKILL)
KILL_CORE = signalled(signal.SIGKILL, "VLLM::EngineCor")
KILL_WORKER = signalled(signal.SIGKILL, "VLLM::Worker_TP")
STOP_WORKER = signalled(signal.SIGSTOP, "VLLM::Worker_TP")
STOP_PARENT = signalled(signal.SIGSTOP)
TERM_PARENT = signalled(signal.SIGTERM)

# While it starts, a server whose worker died gets up to five seconds to say why.
ROWS: list[tuple[str, Any, str, str, float]] = [
    *(("SIGKILL parent", KILL_PARENT, phase, "SIGKILL", 1.0) for phase in PHASES),
    ("SIGKILL parent", KILL_PARENT, "warming", "", 1.0),
    ("SIGKILL parent", KILL_PARENT, "ready", "SIGKILL", 1.0),
    ("SIGKILL parent", KILL_PARENT, "streaming", "SIGKILL", 1.0),
    ("SIGKILL parent", KILL_PARENT, "draining", "", 1.0),
    ("SIGKILL EngineCore", KILL_CORE, "loading", "EngineCor", 6.0),
    ("SIGKILL EngineCore", KILL_CORE, "capturing", "EngineCor", 6.0),
    ("SIGKILL EngineCore", KILL_CORE, "warming", "", 1.0),
    ("SIGKILL EngineCore", KILL_CORE, "ready", "EngineCor (pid", 1.0),
    ("SIGKILL EngineCore", KILL_CORE, "streaming", "EngineCor (pid", 1.0),
    ("SIGKILL EngineCore", KILL_CORE, "draining", "", 1.0),
    ("SIGKILL worker", KILL_WORKER, "loading", "Worker_TP", 6.0),
    ("SIGKILL worker", KILL_WORKER, "warming", "", 1.0),
    ("SIGKILL worker", KILL_WORKER, "ready", "Worker_TP", 1.0),
    ("SIGKILL worker", KILL_WORKER, "streaming", "Worker_TP", 1.0),
    ("SIGKILL worker", KILL_WORKER, "draining", "", 1.0),
    ("SIGSTOP worker", STOP_WORKER, "warming", "after its warm-up", 4.0),
    ("SIGSTOP worker", STOP_WORKER, "ready, canary", "answered nothing|no step for 1 s", 3.0),
    ("SIGSTOP worker", STOP_WORKER, "streaming", "no step for 1 s", 1.0 + 5.0),
    ("SIGSTOP worker", STOP_WORKER, "draining", "", 8.0),
    ("SIGSTOP parent", STOP_PARENT, "ready", "gave no answer 3 times", 5.0),
    *(("SIGTERM by a stranger", TERM_PARENT, phase, "SIGTERM", 1.0) for phase in PHASES),
    ("SIGTERM by a stranger", TERM_PARENT, "ready", "died|exited with code 0", 1.0),
    ("exit 0 unasked", exit_0, "ready", "exited with code 0", 1.0),
    ("exit 0 unasked", exit_0, "streaming", "exited with code 0", 1.0),
    ("engine gives up", engine_dead, "streaming", "503|exited with code 0", 2.0),
    ("/health 503", health_503, "ready", "503", 2.0),
]


@pytest.mark.parametrize(
    ("name", "strike", "state", "reason", "within"), ROWS, ids=[f"{row[0]} - {row[2]}" for row in ROWS]
)
async def test_every_death_is_found_and_repaired(
    tmp_path: Path, monkeypatch, record_property, name: str, strike, state: str, reason: str, within: float
):
    """Noticed in time, nothing of it left, a fresh engine serves; a stream that ran is not made to look whole, and who comes
    now is held and answered.
    """
    async with house(tmp_path, state) as (run, gate), contextlib.AsyncExitStack() as calls:
        stream = await reach(run, gate, state)
        had = Belongings.of(run.state_dir)
        monkeypatch.setenv("VLLM_SIM_KNOBS", AFRESH)
        began = time.monotonic()
        struck = asyncio.create_task(strike(run))
        if strike not in (exit_0, engine_dead):
            await struck
        if strike is engine_dead:  # while it gives up it answers 500 to everybody
            await until(lambda: noticed(run, had.session), f"{name} is noticed: {run.status}")
        late = asyncio.create_task(request(gate))
        calls.push_async_callback(asyncio.wait, [late])
        await until(lambda: noticed(run, had.session), f"{name} is noticed: {run.status}")
        detected = time.monotonic() - began
        await until(lambda: run.status.state == "ready" and run.status.pid != had.session, str(run.status))
        left = had.left()
        await struck
        seen = await stream if stream else "–"
        answered = await late
        said = " ".join(status.reason for status in run.seen)
    assert left == []
    assert detected < within * MARGIN
    assert any(one in said for one in reason.split("|")), said
    assert "complete" not in seen
    assert answered.startswith("answered"), answered
    tell(record_property, "simulated", name, state, detected, left, seen, answered)


@contextlib.asynccontextmanager
async def house(tmp_path: Path, state: str) -> AsyncIterator[tuple[Running, RunningGateway]]:
    """A launcher and a gateway in this process; the engine is slow where that keeps it in the state."""
    simulator: dict[str, Any] = {"tree": True, "worker_death_delay": 600}
    simulator |= {"start_hold": state} if state in PHASES else {"tps": 8} if state == "warming" else {"tps": 50}
    settings = {
        "stall_seconds": 1, "stall_grace_seconds": 0.1, "health_timeout": 0.5, "warmup_timeout": 3, "stop_timeout": 0.5,
        "canary_timeout": 0.5, "canary_seconds": 0.3 if "canary" in state else 0, "crash_loop_failures": 1000,
        "shutdown_timeout": 6, "warmup_batches": [1] if state == "warming" else [], "simulator": simulator,
    }  # fmt: skip
    async with running(tmp_path / "engine", **settings) as run:
        target = {"url": None, "status_socket": tmp_path / "engine" / "engine.sock", "api_key": run.api_key}
        async with gateway("", tmp_path / "gateway", wait=False, engine=target) as gate:
            yield run, gate


async def reach(run: Running, gate: RunningGateway, state: str) -> asyncio.Task[str] | None:
    """Wait for the state, or make it; the task of the caller's stream where there is one."""
    if state in PHASES:
        await until(lambda: run.status.phase == state and run.has_tree, state)
        return None
    if state == "warming":
        await run.state("warming")
        await asyncio.sleep(0.3)
        return None
    await run.ready()
    await gate.ready()
    if state.startswith("ready"):
        return None
    streaming = asyncio.Event()
    stream = asyncio.create_task(follow_stream(gate, streaming))
    await asyncio.wait_for(streaming.wait(), 60)
    if state == "draining":
        run.launcher.restart()
        await run.state("draining")
    return stream


def noticed(run: Running, session: int) -> bool:
    """Whether the launcher has said that this engine is no more."""
    return run.status.state in {"restarting", "stalled", "failed"} or run.status.pid not in {session}


async def follow_stream(gate: RunningGateway, begun: asyncio.Event) -> str:
    """What a caller sees of a stream."""
    body = {
        "model": "gpt-oss-20b", "stream": True, "max_tokens": TOKENS, "ignore_eos": True,
        "messages": [{"role": "user", "content": "Go on."}],
    }  # fmt: skip
    received = b""
    with contextlib.suppress(aiohttp.ClientError):
        async with gate.post("/v1/chat/completions", body) as answer:
            async for data in answer.content.iter_any():
                received += data
                if received.count(b"data: ") > 3:
                    begun.set()
    begun.set()
    if b"[DONE]" in received:
        return "complete"
    return "error event, then cut" if b'"error"' in received else "cut"


async def request(gate: RunningGateway) -> str:
    """What a caller sees of a request that comes at the moment of the death."""
    began = time.monotonic()
    body = {"model": "gpt-oss-20b", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello."}]}
    async with gate.post("/v1/chat/completions", body) as answer:
        text = await answer.text()
        took = time.monotonic() - began
    return f"answered after {took:.1f} s" if answer.status == 200 else f"{answer.status} {text[:80]}"
