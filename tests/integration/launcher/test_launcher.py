"""The launcher with the simulated engine: up, watched, restarted, stopped, and nothing left behind."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from launcher.config import EngineSettings
from launcher.service import Launcher
from launcher.status import LauncherRunningError
from tests.support.launchers import DEADLINE, Running, running, session_members, until


async def test_up_and_down(tmp_path: Path):
    """The engine goes through its states to ready, answers with its key only, and is gone at the end."""
    async with running(tmp_path) as run:
        status = await run.ready()
        assert run.states == ["starting", "warming", "ready"]
        assert (status.kind, status.model, status.percent, status.phase) == ("simulated", "gpt-oss-20b", 100, None)
        assert status.version
        assert session_members(status.pid or 0)
        assert len(await run.stream(5)) >= 5
        run.api_key = "wrong"
        assert await run.stream(5) == []
    assert run.states == ["starting", "warming", "ready", "draining", "stopped"]


async def test_a_stall_that_ends_is_no_restart(tmp_path: Path):
    """An engine that moves again within the grace time goes on: stalled, then ready, same process."""
    async with running(tmp_path, stall_seconds=0.5, stall_grace_seconds=DEADLINE) as run:
        first = await run.ready()
        await run.knobs(fault="hang", fault_after=2, fault_times=1)
        stream = asyncio.create_task(run.stream(50))
        await run.state("stalled")
        await run.knobs(fault="none")
        stream.cancel()
        await run.ready()
        assert run.status.pid == first.pid
        assert run.status.restarts == 0
        await asyncio.gather(stream, return_exceptions=True)


async def test_a_saturated_engine_is_not_dead(tmp_path: Path):
    """Far more work than it can take, for many times stall_seconds: no false alarm."""
    async with running(
        tmp_path, stall_seconds=1.5, stall_grace_seconds=0.5, max_num_seqs=2, simulator={"tps": 100}
    ) as run:
        await run.ready()
        answers = await asyncio.gather(*(run.stream(80) for _ in range(20)))  # 8 s
        assert all(len(frames) >= 80 for frames in answers)
        assert run.states == ["starting", "warming", "ready"]


async def test_a_crash_loop_stays_down_and_says_why(tmp_path: Path):
    """So many failures in a row end in failed, with the engine's last lines; a restart tries again."""
    async with running(tmp_path, crash_loop_failures=2, simulator={"start_fault": "oom"}) as run:
        status = await run.state("failed")
        assert "2 failures within" in status.reason
        assert status.tail
        assert run.states.count("starting") == 2
        run.launcher.restart()
        await until(lambda: run.states.count("starting") == 4)
        await run.state("failed")


async def test_a_wrong_flag_is_not_retried(tmp_path: Path):
    """Exit code 2 means that the same command line would fail again."""
    async with running(tmp_path, extra_args=["--no-such-flag"]) as run:
        status = await run.state("failed")
        assert "--no-such-flag" in status.reason
        assert run.states == ["starting", "failed"]


async def test_a_missing_program_says_how_to_install_it(tmp_path: Path):
    """Without vLLM the message names the package and the demo."""
    async with running(tmp_path, kind="vllm", command=["vllm-that-is-not-here"]) as run:
        status = await run.state("failed")
        assert "'vllm-that-is-not-here' was not found" in status.reason
        assert "vllm-gatehouse[vllm]" in status.reason
        assert "--demo" in status.reason


async def test_a_restart_loses_no_request(tmp_path: Path):
    """A planned restart says draining at once, lets what runs finish, and starts a fresh engine."""
    async with running(tmp_path, simulator={"tps": 100}, shutdown_timeout=30) as run:
        first = await run.ready()
        stream = asyncio.create_task(run.stream(80))
        await until_in_flight(run)
        async with run.control() as control, control.post("/restart") as answer:
            assert answer.status == 202
        await run.state("draining")
        assert len([frame for frame in await stream if frame["choices"]]) >= 80
        await run.ready()
        assert run.status.pid != first.pid
        assert (run.status.restarts, run.status.attempt) == (1, 0)


async def test_drain_stays_down_until_restart(tmp_path: Path):
    """Drained: stopped, no engine. Restart: ready again."""
    async with running(tmp_path) as run:
        first = await run.ready()
        async with run.control() as control:
            async with control.post("/drain") as answer:
                assert answer.status == 202
            status = await run.state("stopped")
            assert (status.pid, status.url) == (None, None)
            assert session_members(first.pid or 0) == []
            async with control.post("/restart") as answer:
                assert answer.status == 202
            await run.ready()


async def test_an_engine_deaf_to_sigterm_is_killed(tmp_path: Path):
    """TERM, TERM, KILL: it ends."""
    async with running(tmp_path, simulator={"ignore_sigterm": True}, stop_timeout=0.2) as run:
        await run.ready()


async def test_a_start_that_never_ends_is_given_up(tmp_path: Path):
    """Not healthy within startup_timeout: ended, with the reason."""
    settings = {"startup_timeout": 0.5, "crash_loop_failures": 1, "simulator": {"startup": 600}}
    async with running(tmp_path, **settings) as run:
        status = await run.state("failed")
        assert "not healthy within startup_timeout" in status.reason


async def test_garbage_is_no_answer(tmp_path: Path):
    """Healthy, but no real answer to a one-token request: not ready."""
    async with running(tmp_path, crash_loop_failures=1, simulator={"fault": "garbage_http"}) as run:
        status = await run.state("failed")
        assert "healthy, but" in status.reason
        assert "ready" not in run.states


async def test_system_prompts_are_warmed(tmp_path: Path):
    """The configured prompts are sent before ready, so that the first user finds them in the prefix cache."""
    async with running(tmp_path, warmup_prompts=["You are a helper."], warmup_batches=[2]) as run:
        await run.ready()
        async with run.engine() as engine, engine.get("/sim/requests") as answer:
            bodies = [one["body"] for one in await answer.json() if one["target"].startswith("/v1/")]
        assert len(bodies) == 1 + 2 + 1, "the one-token probe, the batch, the prompt"
        assert "You are a helper." in bodies[-1]


async def test_prompts_of_given_lengths_are_warmed(tmp_path: Path):
    """Prompts of exactly so many tokens are sent one after another, no two alike: none lies in the prefix cache."""
    lengths = [130, {"first": 133, "last": 230, "step": 32}]
    async with running(tmp_path, warmup_lengths=lengths, warmup_batches=[]) as run:
        await run.ready()
        async with run.engine() as engine, engine.get("/sim/requests") as answer:
            bodies = [one["body"] for one in await answer.json() if one["target"].startswith("/v1/")]
        prompts = [json.loads(body)["prompt"] for body in bodies[1:]]
    assert [len(prompt) for prompt in prompts] == [130, 133, 165, 197, 229]
    assert len({tuple(prompt[:16]) for prompt in prompts}) == len(prompts)


async def test_a_warm_up_says_how_far_it_is(tmp_path: Path):
    """The percent of the start rises with each part of a long warm-up, so that it does not look like a hang."""
    async with running(tmp_path, warmup_lengths=[{"first": 1, "last": 20, "step": 1}], warmup_batches=[]) as run:
        await run.ready()
        told = [status.percent for status in run.seen if status.state == "warming"]
    assert told == sorted(told)
    assert set(told) == {95, 96, 97, 98, 99, 100}


async def test_a_broken_warm_up_is_no_failure(tmp_path: Path):
    """A prompt too long for the model is a pity; the engine serves all the same."""
    async with running(tmp_path, warmup_prompts=["word " * 5000], max_model_len=512) as run:
        await run.ready()
        assert run.status.restarts == 0


async def test_the_canary_sings_in_quiet_times(tmp_path: Path):
    """An idle engine is asked for a token now and then; one that does not answer is replaced."""
    async with running(tmp_path, canary_seconds=0.2, canary_timeout=0.5) as run:
        first = await run.ready()
        await run.knobs(fault="hang", fault_after=0)
        await until(lambda: run.status.restarts >= 1 and run.status.state == "ready", str(run.status))
        assert run.status.pid != first.pid
        assert any("within 0 s" in status.reason or "answered" in status.reason for status in run.seen)


async def test_a_program_that_cannot_run(tmp_path: Path, monkeypatch):
    """A file that is no program: said, not retried."""
    program = tmp_path / "vllm"
    program.write_bytes(b"\x7fnot a program")
    program.chmod(0o755)
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "cpu")
    async with running(tmp_path / "state", kind="vllm", command=[str(program)]) as run:
        status = await run.state("failed")
        assert "cannot be started" in status.reason


def script(path: Path, body: str) -> None:
    """Write a small program."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


async def test_a_start_is_followed(tmp_path: Path):
    """Phases in their order, a percentage that never falls, loading and capturing counted."""
    async with running(tmp_path, simulator={"startup": 2}) as run:
        await run.ready()
        rising = [status for status in run.seen if status.state in {"starting", "warming"}]
        phases = list(dict.fromkeys(status.phase for status in rising))
        assert phases == ["importing", "loading", "compiling", "capturing", "serving", "warming"]
        percents = [status.percent for status in rising]
        assert percents == sorted(percents)
        assert len(set(percents)) > 10


async def test_a_cancelled_program_leaves_nothing(tmp_path: Path):
    """The surrounding program is cancelled instead of asking for a stop: the engine still goes."""
    async with running(tmp_path) as run:
        await run.ready()
        assert run.task is not None
        run.task.cancel()


async def test_one_launcher_a_state_directory(tmp_path: Path):
    """A second one is refused, with the first one's pid; the first goes on."""
    async with running(tmp_path) as run:
        await run.ready()
        second = Launcher(EngineSettings(), tmp_path, "key")
        with pytest.raises(LauncherRunningError, match=f"another launcher is running, pid {os.getpid()}"):
            await second.run(asyncio.Event())
        async with run.control() as control, control.get("/status") as answer:
            assert (await answer.json())["state"] == "ready"


async def test_an_external_engine_is_watched_not_owned(tmp_path: Path):
    """kind: external follows an engine that somebody else starts and stops, and never touches its process."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with running(tmp_path / "a") as owner:
        url = (await owner.ready()).url
        async with running(tmp_path / "b", kind="external", url=url, health_failures=1) as watcher:
            watcher.launcher._api_key = owner.api_key
            status = await watcher.ready()
            assert (status.url, status.pid, status.phase) == (url, None, None)
            owner.launcher.drain()
            await watcher.state("starting")
            await owner.state("stopped")
        assert owner.status.state == "stopped"


async def until_in_flight(run: Running) -> None:
    """Wait until the engine works on a request."""
    probe = run.launcher._run.probe if run.launcher._run else None
    assert probe is not None
    async with asyncio.timeout(DEADLINE):
        while not ((load := await probe.load(DEADLINE)) and load.in_flight):
            await asyncio.sleep(0.01)
