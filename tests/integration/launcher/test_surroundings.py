"""What goes wrong around the engine: its port, its GPUs, the disk, the launcher itself. Rows of the table of deaths."""

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from launcher.record import load
from launcher.supervisor import Engine
from tests.support.commands import Command, command
from tests.support.deaths import Belongings, tell
from tests.support.gpus import H200_MIB, SimulatedDriver, box
from tests.support.launchers import DEADLINE, running, session_members, until
from tests.support.needs import free_port
from tests.support.processes import alive_in_session

PHASES = ("importing", "loading", "compiling", "capturing")


@pytest.mark.parametrize("state", ["stopped", "restarting"])
async def test_a_stolen_port_is_named_and_waited_for(tmp_path: Path, record_property, state: str):
    """Somebody else listens on the engine's port: said who, tried again until it is free."""
    port = free_port()
    thief = socket.create_server(("127.0.0.1", port))
    if state == "restarting":
        thief.close()
    async with running(tmp_path, port=port, restart_delay=0.5, crash_loop_failures=10_000) as run:
        if state == "restarting":
            first = await run.ready()
            had = Belongings.of(tmp_path)
            os.kill(first.pid or 0, signal.SIGKILL)
            await until(lambda: not had.left(), "the engine is gone")
            thief = socket.create_server(("127.0.0.1", port))
        began = time.monotonic()
        with thief:
            await until(lambda: f"port {port} on 127.0.0.1 is in use by" in run.status.reason)
            detected = time.monotonic() - began
            assert f"(pid {os.getpid()})" in run.status.reason
        await run.ready()
    tell(record_property, "simulated", "port stolen", state, detected, [], late="held until it is free")


def as_vllm(tmp_path: Path) -> dict:
    """Settings under which the simulated engine counts as a real one, which takes GPU memory."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    command = [sys.executable, "-m", "launcher.simulator"]
    return {"kind": "vllm", "command": command, "model": str(tmp_path / "model"), "tensor_parallel_size": 1}


@pytest.mark.parametrize("state", ["stopped", "restarting"])
async def test_gpu_memory_held_by_others_is_waited_for(tmp_path: Path, record_property, state: str):
    """Somebody else fills a GPU before the start, or between death and restart: said which and by whom, tried again."""
    full, free = box(12771, users={0: ((os.getpid(), 131_000),)}), box(H200_MIB)
    driver = SimulatedDriver(full if state == "stopped" else free)
    settings = {**as_vllm(tmp_path), "crash_loop_failures": 100, "kill_timeout": 0.5}
    async with running(tmp_path / "state", driver, **settings) as run:
        if state == "restarting":
            first = await run.ready()
            os.kill(first.pid or 0, signal.SIGKILL)
            driver.there = full
        began = time.monotonic()
        await until(lambda: "GPU 0 (NVIDIA H200) has 12771 of 143771 MiB free" in run.status.reason)
        detected = time.monotonic() - began
        assert f"(pid {os.getpid()}) with 131000 MiB" in run.status.reason
        driver.there = free
        await run.ready()
    tell(record_property, "simulated", "GPU memory held", state, detected, [], late="held until it is free")


async def test_the_next_engine_waits_for_the_gpu(tmp_path: Path):
    """The dead engine's memory is not back at once: nothing starts before it is."""
    driver = SimulatedDriver(box(H200_MIB))
    async with running(tmp_path / "state", driver, **as_vllm(tmp_path)) as run:
        first = await run.ready()
        driver.there = box(12771)  # held, and as in a container nobody can be seen to hold it
        os.kill(first.pid or 0, signal.SIGKILL)
        await run.state("restarting")
        await until(lambda: not session_members(first.pid or 0), "its processes are gone")
        assert run.launcher._state.engine is Engine.STOPPING
        driver.there = box(H200_MIB)
        await until(lambda: run.status.restarts == 1 and run.status.state == "ready")


async def test_an_engine_that_keeps_its_gpu_is_said(tmp_path: Path):
    """A process that is dead and still holds memory, as a broken driver makes them: failed, with its pid."""
    driver = SimulatedDriver(box(H200_MIB))
    async with running(tmp_path / "state", driver, kill_timeout=0.5, **as_vllm(tmp_path)) as run:
        first = await run.ready()
        driver.there = box(12771, users={0: ((first.pid or 0, 131_000),)})
        os.kill(first.pid or 0, signal.SIGKILL)
        status = await run.state("failed")
        assert f"processes [{first.pid}] cannot be killed or still hold GPU memory" in status.reason
        driver.there = box(H200_MIB)
        run.launcher.restart()
        await run.ready()


async def test_memory_that_strangers_took_is_no_obstacle(tmp_path: Path, caplog):
    """Somebody else has moved in meanwhile: logged, and the start is tried."""
    driver = SimulatedDriver(box(H200_MIB))
    async with running(tmp_path / "state", driver, kill_timeout=0.5, **as_vllm(tmp_path)) as run:
        first = await run.ready()
        driver.there = box(H200_MIB - 10_000, users={0: ((os.getpid(), 10_000),)})
        os.kill(first.pid or 0, signal.SIGKILL)
        await until(lambda: run.status.restarts == 1 and run.status.state == "ready")
        assert "GPU 0 has not got all of its memory back" in caplog.text


async def test_a_full_disk_costs_the_log_only(tmp_path: Path, record_property, caplog):
    """Neither the engine's log nor its record can be written: said once each, and the engine starts and serves."""
    for name in ("engine.log", "engine.new"):
        (tmp_path / name).symlink_to("/dev/full")
    async with running(tmp_path) as run:
        began = time.monotonic()
        await until(lambda: "the engine's log" in caplog.text and "No space left on device" in caplog.text)
        detected = time.monotonic() - began
        await run.ready()
        assert len(await run.stream(50)) >= 50
        assert run.status.restarts == 0
        session = run.status.pid or 0
    assert alive_in_session(session, zombies=True) == []
    assert caplog.text.count("the engine's log") == 1
    for name in ("engine.log", "engine.new"):
        (tmp_path / name).unlink(missing_ok=True)
    tell(record_property, "simulated", "disk full", "importing", detected, [], "complete", "answered")


@pytest.mark.parametrize("how", ["die", "hang", "ignore"])
@pytest.mark.parametrize("phase", PHASES)
async def test_stop_in_each_phase(tmp_path: Path, record_property, phase: str, how: str):
    """Stopped while the engine starts, which then dies of TERM, hangs, or does not care: it is gone in any case."""
    simulator = {"start_hold": phase, "start_signal": how, "tree": True}
    async with running(tmp_path, simulator=simulator, stop_timeout=0.2) as run:
        await until(lambda: run.status.phase == phase and run.has_tree, phase)
        had = Belongings.of(tmp_path)
        began = time.monotonic()
        run.stop.set()
        await run.state("stopped")
        took = time.monotonic() - began
        assert "ready" not in run.states
        left = had.left()
    assert left == []
    tell(record_property, "simulated", f"SIGTERM, asked ({how})", phase, took, left)


def has_tree(engine: Command) -> bool:
    """Whether the engine's processes are there, as they are recorded."""
    record = load(engine.state_dir / "engine.json")
    return record is not None and record.session is not None and len(alive_in_session(record.session)) >= 4


@pytest.mark.parametrize("state", ["loading", "ready", "restarting"])
async def test_ctrl_c_twice(tmp_path: Path, record_property, state: str):
    """An engine that is deaf to TERM and has ten minutes' patience is gone at once with the second Ctrl-C."""
    simulator = {"ignore_sigterm": True, "start_signal": "ignore", "tps": 5, "tree": True}
    simulator |= {"start_hold": "loading"} if state == "loading" else {}
    settings = {"simulator": simulator, "stop_timeout": 600, "shutdown_timeout": 600, "warmup_batches": []}
    async with command(tmp_path, **settings, restart_delay=600) as engine:
        said = tmp_path / "stderr"
        if state == "loading":
            await until(lambda: "loading" in said.read_text() and has_tree(engine))
            had = Belongings.of(engine.state_dir)
        else:
            first = await engine.ready()
            had = Belongings.of(engine.state_dir)
            if state == "restarting":
                os.kill(first["pid"], signal.SIGKILL)
                await until(lambda: "restarting" in said.read_text())
        began = time.monotonic()
        engine.process.send_signal(signal.SIGINT)
        await until(lambda: "draining" in said.read_text() or engine.process.returncode == 0)
        if engine.process.returncode is None:
            engine.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(engine.process.wait(), DEADLINE) == 0
        took = time.monotonic() - began
        left = had.left()
    assert (left, took < 30) == ([], True)
    tell(record_property, "simulated", "Ctrl-C twice", state, took, left)


@pytest.mark.parametrize("state", ["loading", "ready", "draining"])
async def test_a_killed_launcher_is_succeeded(tmp_path: Path, record_property, state: str):
    """SIGKILL of the launcher leaves its engine on its own; the next start clears it, then serves."""
    simulator = {"tree": True, "start_hold": "loading" if state == "loading" else "none", "ignore_sigterm": True}
    async with command(tmp_path, simulator=simulator, stop_timeout=60) as engine:
        said = tmp_path / "stderr"
        if state == "loading":
            await until(lambda: "loading" in said.read_text() and has_tree(engine))
        else:
            await engine.ready()
        had = Belongings.of(engine.state_dir)
        if state == "draining":
            await engine.call("drain")
            await until(lambda: "draining" in said.read_text())
        engine.process.kill()
        await engine.process.wait()
        assert len(alive_in_session(had.session)) >= 4
    began = time.monotonic()
    async with command(tmp_path, simulator={"tree": True}) as engine:
        await until(lambda: not alive_in_session(had.session), "the orphans are gone")
        took = time.monotonic() - began
        assert (await engine.ready())["pid"] != had.session
        left = [str(path) for path in had.paths if path.exists()]
    assert left == []
    assert not (tmp_path / "state" / "engine.json").exists()
    tell(record_property, "simulated", "SIGKILL launcher", state, took, left)
