"""Starting and stopping: exit statuses, signals, and what happens to the processes behind the server."""

import asyncio
import json
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from launcher.simulator.errors import ENGINE_DEAD, SHUT_DOWN
from tests.support.engines import Simulator, simulator, start_simulator

CHAT = "/v1/chat/completions"
LONG: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 400, "ignore_eos": True}


async def stream(engine: Simulator, path: str = CHAT, body: dict[str, Any] | None = None) -> tuple[str, bool]:
    """(what a stream brought, whether it ended as HTTP says it must)."""
    received = b""
    try:
        async with engine.http.post(engine.url + path, json={**(body or LONG), "stream": True}) as answer:
            async for chunk in answer.content.iter_any():
                received += chunk
    except aiohttp.ClientError:
        return received.decode(), False
    return received.decode(), True


async def fails(tmp_path: Path, *flags: str, **how: Any) -> tuple[int, str]:
    """Exit status and output of a start that fails."""
    log = tmp_path / "log"
    process = start_simulator(*flags, log=log, **how)
    async with asyncio.timeout(60):
        while process.poll() is None:
            await asyncio.sleep(0.01)
    return process.wait(), log.read_text()


async def test_start_up_prints_its_phases() -> None:
    """Start-up takes as long as told and prints vLLM's lines in their order."""
    async with simulator(knobs={"startup": 0.3}) as engine:
        text = engine.log
    marks = [
        "version 0.32.0",
        "Resolved architecture",
        "Initializing a V1 LLM engine",
        "Loading safetensors checkpoint shards:  33% Completed | 1/3 [",
        "torch.compile took",
        "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):   1%|1/83 [",
        "Graph capturing finished",
        "init engine (profile",
        "Starting vLLM server on http://127.0.0.1:",
        "Application startup complete.",
    ]
    places = [text.find(mark) for mark in marks]
    assert -1 not in places, text
    assert places == sorted(places)


async def test_nobody_listens_during_start_up(tmp_path: Path) -> None:
    """The port is taken at once but refuses connections until the engine is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start_simulator("--port", str(port), log=tmp_path / "log", knobs={"startup": 60})
    try:
        async with asyncio.timeout(60):
            while "Resolved" not in (text := (tmp_path / "log").read_text()) and "non-default" not in text:
                await asyncio.sleep(0.01)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()


async def test_failed_starts(tmp_path: Path) -> None:
    """The exit statuses and last words of vLLM's failed starts."""
    status, text = await fails(tmp_path, "--no-such-flag")
    assert (status, text.splitlines()[-1]) == (2, "vllm: error: unrecognized arguments: --no-such-flag")
    status, text = await fails(tmp_path, model="/tmp/no-such-model")
    assert status == 1
    assert "HFValidationError: Repo id must be in the form" in text
    status, text = await fails(tmp_path, knobs={"start_fault": "oom"})
    assert status == 1
    assert "torch.OutOfMemoryError: CUDA out of memory" in text
    status, _ = await fails(tmp_path, knobs={"start_fault": "exit", "exit_code": 7})
    assert status == 7
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, text = await fails(tmp_path, port=taken.getsockname()[1])
    assert (status, text.splitlines()[-1]) == (1, "OSError: [Errno 98] Address already in use")


async def test_flags_of_vllm_are_accepted(tmp_path: Path) -> None:
    """Flags that mean nothing here are taken with their values; underscores and nested settings too."""
    flags = ["--dtype", "bfloat16", "--enforce-eager", "--gpu_memory_utilization", "0.9", "-cc.mode=none", "-O3"]
    async with (
        simulator(*flags, "--max-model-len", "4k", "--no-enable-prefix-caching") as engine,
        engine.http.get(engine.url + "/v1/models") as answer,
    ):
        assert (await answer.json())["data"][0]["max_model_len"] == 4000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_sigterm_aborts_streams(number: int) -> None:
    """Default: chat and completions end with finish reason abort and [DONE], the others as if the engine died; exit 0."""
    async with simulator(knobs={"tps": 20}) as engine:
        others = {
            "/v1/completions": {"prompt": "hi", "max_tokens": 400, "ignore_eos": True},
            "/v1/responses": {"input": "hi", "max_output_tokens": 400},
            "/v1/messages": {**LONG},
        }
        streams = [stream(engine), *(stream(engine, path, body) for path, body in others.items())]
        going = asyncio.gather(*streams)
        plain = asyncio.create_task(engine.http.post(engine.url + CHAT, json=LONG).__aenter__())
        await engine.until("vllm:num_requests_running", 5)
        await engine.until("vllm:generation_tokens_total", lambda seen: seen >= 10)
        engine.kill(number)
        chat, completion, response, message = await going
        for text, whole in (chat, completion):
            assert whole
            frames = text.strip().split("\n\n")
            assert frames[-1] == "data: [DONE]"
            assert json.loads(frames[-2][6:])["choices"][0]["finish_reason"] == "abort"
        assert not response[1]
        assert message[0].strip().split("\n\n")[-1].startswith("event: error")
        answer = await plain
        assert answer.status == 500
        assert (await answer.json())["error"]["message"] == ENGINE_DEAD
        assert await engine.wait() == 0


async def test_shutdown_timeout_drains() -> None:
    """With --shutdown-timeout work in flight finishes, /health stays 200, new work is refused; then exit 0."""
    async with simulator("--shutdown-timeout", "20", knobs={"fault": "hang", "fault_times": 1}) as engine:
        going = asyncio.create_task(stream(engine))
        await engine.until("vllm:generation_tokens_total", 3)
        engine.kill(signal.SIGTERM)
        async with asyncio.timeout(60):
            while True:
                # wrong in its range, so that it is refused with 400 while the engine still takes work
                async with engine.http.post(engine.url + CHAT, json={**LONG, "n": 0}) as answer:
                    if answer.status == 500:
                        assert (await answer.json())["error"]["message"] == SHUT_DOWN
                        break
                await asyncio.sleep(0.01)
        assert await engine.health() == 200
        engine.kill(signal.SIGTERM)  # a second one does not hurry it
        await engine.knobs(fault="none")
        text, whole = await going
        assert whole
        assert '"finish_reason":"length"' in text
        assert await engine.wait() == 0


async def test_shutdown_timeout_runs_out() -> None:
    """Work that outlasts --shutdown-timeout ends with EngineCore's error frame; exit 0."""
    async with simulator("--shutdown-timeout", "0.2", knobs={"tps": 5}) as engine:
        going = asyncio.create_task(stream(engine))
        await engine.until("vllm:generation_tokens_total", lambda seen: seen >= 1)
        engine.kill(signal.SIGTERM)
        text, whole = await going
        assert whole
        assert ENGINE_DEAD in text.strip().split("\n\n")[-2]
        assert await engine.wait() == 0


async def test_ignore_sigterm() -> None:
    """An engine told to ignore SIGTERM goes on; only SIGKILL ends it."""
    async with simulator(knobs={"ignore_sigterm": True}) as engine:
        engine.kill(signal.SIGTERM)
        assert (await engine.chat(max_tokens=1))["object"] == "chat.completion"
        engine.kill()
        assert await engine.wait() == -9


async def test_sigterm_during_start_up(tmp_path: Path) -> None:
    """It can be ignored (the server comes up), or hang until a second one."""
    async with simulator("--sim-start-signal", "ignore", knobs={"startup": 0.5}) as engine:
        assert await engine.health() == 200
    process = start_simulator(log=tmp_path / "log", knobs={"startup": 60, "start_signal": "hang"})
    try:
        async with asyncio.timeout(60):
            while "non-default" not in (tmp_path / "log").read_text():
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert process.poll() is None
        async with asyncio.timeout(60):
            while process.poll() is None:  # again: a busy machine may make one of two that come close together
                process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.1)
        assert process.returncode == 1
    finally:
        process.kill()
        process.wait()


def shared_memory(*pids: int) -> set[Path]:
    """The shared-memory files these processes have mapped or are named after."""
    mapped = set()
    for pid in pids:
        mapped |= set(re.findall(r"/dev/shm/psm_\w+", Path(f"/proc/{pid}/maps").read_text()))
        mapped |= {str(path) for path in Path("/dev/shm").glob(f"sem.loky-{pid}-*")}
    return {Path(name) for name in mapped}


async def settled(*pids: int, files: int) -> set[Path]:
    """The processes' shared-memory files, once there are as many as expected."""
    async with asyncio.timeout(60):
        while len(found := shared_memory(*pids)) != files:
            await asyncio.sleep(0.01)
    return found


def family(pid: int) -> dict[str, list[int]]:
    """The process's descendants by name."""
    found: dict[str, list[int]] = {}
    for child in psutil.Process(pid).children(recursive=True):
        comm = Path(f"/proc/{child.pid}/comm").read_text().strip()
        found.setdefault(comm, []).append(child.pid)
    return found


async def gone(*pids: int) -> None:
    """Wait until no such process runs (a zombie does not run)."""
    async with asyncio.timeout(60):
        while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
            await asyncio.sleep(0.01)


async def test_tree_has_vllms_processes_and_leaves_nothing(tmp_path: Path) -> None:
    """EngineCore, one worker a GPU, a tracker, shared memory, a socket; all gone after SIGTERM."""
    rpc = {"VLLM_RPC_BASE_PATH": str(tmp_path)}
    async with simulator("--sim-tree", "--tensor-parallel-size", "2", env=rpc) as engine:
        tree = family(engine.pid)
        assert sorted((name, len(pids)) for name, pids in tree.items()) == [
            ("VLLM::EngineCor", 1),
            ("VLLM::Worker_TP", 2),
            ("python3", 1),
        ]
        pids = [pid for each in tree.values() for pid in each]
        assert {os.getpgid(pid) for pid in pids} == {engine.pid}
        files = await settled(*pids, files=6)
        assert len(list(tmp_path.iterdir())) == 1
        assert await engine.stop() == 0
        await gone(*pids)
        assert not any(path.exists() for path in files)
        assert list(tmp_path.iterdir()) == []


async def test_killed_parent_leaves_its_children(tmp_path: Path) -> None:
    """SIGKILL of the parent: port free, children and shared memory stay; when the children go, the files go."""
    rpc = {"VLLM_RPC_BASE_PATH": str(tmp_path)}
    async with simulator("--sim-tree", "--tensor-parallel-size", "2", env=rpc) as engine:
        tree = family(engine.pid)
        core, workers = tree["VLLM::EngineCor"], tree["VLLM::Worker_TP"]
        files = await settled(*core, *workers, files=6)
        engine.kill()
        assert await engine.wait() == -9
        assert await engine.health() is None
        assert all(psutil.pid_exists(pid) for pid in (*core, *workers))
        assert all(path.exists() for path in files)
        async with simulator(port=engine.port) as second:
            assert await second.health() == 200
        os.kill(core[0], signal.SIGKILL)
        await gone(*core, *workers, *tree["python3"])
        assert not any(path.exists() for path in files)
        assert len(list(tmp_path.iterdir())) == 1  # the dead parent's socket stays


async def test_killed_group_leaves_its_files() -> None:
    """SIGKILL of the whole group leaves the shared memory: nobody is left to remove it."""
    async with simulator("--sim-tree", "-tp", "2") as engine:
        pids = [pid for each in family(engine.pid).values() for pid in each]
        files = await settled(*pids, files=6)
        os.killpg(engine.pid, signal.SIGKILL)
        await engine.wait()
        await gone(*pids)
        assert all(path.exists() for path in files)
        for path in files:
            path.unlink()


@pytest.mark.parametrize("victim", ["VLLM::EngineCor", "VLLM::Worker_TP"])
async def test_killed_child_ends_with_exit_0(victim: str) -> None:
    """SIGKILL of EngineCore or a worker: error frame, /health 503, exit 0."""
    async with simulator("--sim-tree", "-tp", "2", knobs={"tps": 20, "death_linger": 1.0}) as engine:
        tree = family(engine.pid)
        pids = [pid for each in tree.values() for pid in each]
        files = await settled(*pids, files=6)
        going = asyncio.create_task(stream(engine))
        await engine.until("vllm:generation_tokens_total", lambda seen: seen >= 1)
        os.kill(tree[victim][0], signal.SIGKILL)
        text, whole = await going
        assert whole
        assert ENGINE_DEAD in text.strip().split("\n\n")[-2]
        assert await engine.health() == 503
        assert await engine.wait() == 0
        await gone(*pids)
        left = [path for path in files if path.exists()]
        # a killed worker's semaphore stays, as it does with vLLM; nothing else
        assert [path.name.split("-")[0] for path in left] == (["sem.loky"] if "Worker" in victim else [])
        for path in left:
            path.unlink()


async def test_stopped_worker_is_a_hang() -> None:
    """SIGSTOP of a worker: /health 200, counters frozen; SIGCONT and the stream goes on."""
    async with simulator("--sim-tree", knobs={"tps": 50}) as engine:
        worker = family(engine.pid)["VLLM::Worker"][0]
        going = asyncio.create_task(stream(engine, body={**LONG, "max_tokens": 100}))
        await engine.until("vllm:generation_tokens_total", lambda seen: seen >= 2)
        os.kill(worker, signal.SIGSTOP)
        async with asyncio.timeout(60):
            seen = [0.0]
            while len(seen) < 12 or len(set(seen[-10:])) > 1:
                seen.append((await engine.metrics())["vllm:iteration_tokens_total_count"])
                await asyncio.sleep(0.03)
        assert await engine.health() == 200
        assert not going.done()
        os.kill(worker, signal.SIGCONT)
        _, whole = await going
        assert whole
