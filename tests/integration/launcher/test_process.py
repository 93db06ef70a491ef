"""One engine process and its tree, against real processes that do not want to go."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from launcher.family import Family, become_subreaper, birth, boot_id, is_dead, is_gone
from launcher.host import free_port, port_is_free
from launcher.output import LogFile
from launcher.process import EngineProcess, Ladder
from launcher.record import Record, clear_leftovers, load
from tests.support.launchers import until

TREE = Path(__file__).parent / "tree.py"
AT_ONCE = Ladder(0, 0, 30)


@dataclass
class Tree:
    """What tree.py told of itself."""

    process: EngineProcess
    record: Path
    semaphore: Path
    memory: Path
    pids: list[int]

    @property
    def first(self) -> int:
        """The first process."""
        return self.pids[0]

    def pid_of(self, title: str) -> int:
        """The process with this title."""
        return next(pid for pid in self.pids if Path(f"/proc/{pid}/comm").read_text().startswith(title))

    def left(self) -> list[str]:
        """What of it is there, processes and zombies and files."""
        processes = [f"pid {pid}" for pid in self.pids if birth(pid) is not None]
        return processes + [str(path) for path in (self.semaphore, self.memory, self.record) if path.exists()]


@pytest.fixture(autouse=True)
def subreaper() -> Iterator[None]:
    """Orphans come to this process, as they come to the launcher."""
    become_subreaper()
    yield
    import ctypes

    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


@contextlib.asynccontextmanager
async def tree(tmp_path: Path, *options: str) -> AsyncIterator[Tree]:
    """Start tree.py; whatever a test forgot is killed."""
    lines: list[str] = []
    record = tmp_path / "engine.json"
    process = EngineProcess.spawn(
        [sys.executable, str(TREE), *options],
        os.environ,
        port=1,
        record_path=record,
        log_file=LogFile(tmp_path / "engine.log", 10_000, 1),
        on_line=lines.append,
    )
    try:
        await until(lambda: any(line.startswith("tree") for line in lines), "the tree is up")
        _, semaphore, memory, *pids = next(line for line in lines if line.startswith("tree")).split()
        process.observe()
        shm = Path("/dev/shm")
        yield Tree(process, record, shm / f"sem.{semaphore.lstrip('/')}", shm / memory, [int(pid) for pid in pids])
    finally:
        await process.stop(AT_ONCE)


async def death(running: Tree) -> str:
    """Wait until a death is seen."""
    seen = []

    def look() -> bool:
        running.process.observe()
        seen.append(running.process.death())
        return seen[-1] is not None

    await until(look, "a death")
    return str(seen[-1])


@pytest.mark.parametrize("options", [[], ["deaf"], ["second-term"]])
async def test_nothing_is_left(tmp_path: Path, options: list[str]):
    """However the tree takes TERM: every process gone and reaped, its memory, semaphore, sockets and record too."""
    async with tree(tmp_path, *options) as running:
        assert len(running.pids) == 4
        assert len(running.left()) == 7
        recorded = load(running.record)
        assert recorded is not None
        assert recorded.session == running.first
        assert Path(recorded.socket_directory or "").is_dir()
        assert await running.process.stop(Ladder(0.3, 0.3, 30)) == []
        assert running.left() == []
        assert not Path(recorded.socket_directory or "").exists()


async def test_who_listens(tmp_path: Path):
    """A server that answers at the engine's port is the engine only if the socket is one of its processes'."""
    async with tree(tmp_path) as running:
        assert not running.process.listens()


async def test_term_is_tried_first(tmp_path: Path):
    """A tree that heeds TERM ends by itself."""
    proof = tmp_path / "proof"
    async with tree(tmp_path, f"writes={proof}") as running:
        await running.process.stop(Ladder(30, 30, 30))
        assert proof.read_text() == "ended"


async def test_a_second_term_helps_where_one_does_not(tmp_path: Path):
    """Seen with vLLM while it starts: the first TERM is lost."""
    proof = tmp_path / "proof"
    async with tree(tmp_path, "second-term", f"writes={proof}") as running:
        await running.process.stop(Ladder(0.2, 30, 30))
        assert proof.read_text() == "ended"


async def test_hurry_skips_the_waiting(tmp_path: Path):
    """A stop that would wait ten minutes is cut short."""
    async with tree(tmp_path, "deaf") as running:
        stop = asyncio.create_task(running.process.stop(Ladder(600, 600, 30)))
        await asyncio.sleep(0.1)
        assert not stop.done()
        running.process.hurry()
        assert await asyncio.wait_for(stop, 30) == []
        assert running.left() == []


@pytest.mark.parametrize(
    ("title", "said"), [("VLLM::EngineCor", "EngineCor (pid"), ("VLLM::Worker", "Worker (pid"), ("python", "SIGKILL")]
)
async def test_each_process_that_matters_is_watched(tmp_path: Path, title: str, said: str):
    """EngineCore or a worker dies while the first process lives on, or the first one dies: seen, and all is cleared."""
    async with tree(tmp_path) as running:
        victim = running.first if title == "python" else running.pid_of(title)
        assert running.process.death() is None
        os.kill(victim, signal.SIGKILL)
        assert said in await death(running)
        assert await running.process.stop(AT_ONCE) == []
        assert running.left() == []


@pytest.mark.parametrize(("options", "told"), [(["--api-server-count", "2"], True), ([], False)])
async def test_metrics_of_several_api_servers_lie_in_the_folder_that_is_cleared(
    tmp_path: Path, options: list[str], told: bool
):
    """Several API servers are told to gather their metrics beside the engine's sockets; a single one gathers none."""
    async with tree(tmp_path, *options) as running:
        recorded = load(running.record)
        assert recorded is not None
        environment = Path(f"/proc/{running.first}/environ").read_text().split("\0")
        assert (f"PROMETHEUS_MULTIPROC_DIR={recorded.socket_directory}" in environment) == told


async def test_others_are_not_touched(tmp_path: Path):
    """A stranger's process and shared memory survive the clearing."""
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    memory = shared_memory.SharedMemory(create=True, size=16)
    try:
        async with tree(tmp_path) as running:
            await running.process.stop(AT_ONCE)
        assert stranger.poll() is None
        assert (Path("/dev/shm") / memory.name.lstrip("/")).exists()
    finally:
        memory.close()
        memory.unlink()
        stranger.kill()
        stranger.wait()


async def test_leftovers_of_a_killed_launcher_are_cleared(tmp_path: Path):
    """The record alone is enough for the next start, also when the first process is dead already."""
    async with tree(tmp_path) as running:
        os.kill(running.first, signal.SIGKILL)
        await death(running)
        assert await clear_leftovers(running.record, 30)
        assert running.left() == []


async def test_a_process_that_only_the_marker_tells_is_cleared(tmp_path: Path):
    """The launcher was killed between start and record: the marker in the environment finds the engine."""
    path = tmp_path / "engine.json"
    Record(marker="m" * 32).save(path)
    stray = subprocess.Popen(
        ["sleep", "600"], start_new_session=True, env={**os.environ, "GATEHOUSE_ENGINE_ID": "m" * 32}
    )
    assert await clear_leftovers(path, 30)
    assert birth(stray.pid) is None
    stray.wait()


@pytest.mark.parametrize("reboot", [False, True])
async def test_a_reused_pid_is_not_killed(tmp_path: Path, reboot: bool):
    """A process with a recorded pid but another birth, or from before a reboot, is a stranger."""
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        born = birth(stranger.pid) or 0
        path = tmp_path / "engine.json"
        Record(
            marker="x" * 32,
            boot_id="another" if reboot else boot_id(),
            session=stranger.pid,
            members={stranger.pid: born if reboot else born - 1},
        ).save(path)
        assert await clear_leftovers(path, 30)
        assert stranger.poll() is None
        assert not path.exists()
    finally:
        stranger.kill()
        stranger.wait()


HALF_DEAD = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).syscall(60, 0)  # exit(2), not exit_group(2): this thread only
"""


async def test_a_zombie_with_living_threads_is_not_gone():
    """A large process ends thread by thread; while one lives its memory is held, though ps calls it a zombie already."""
    process = subprocess.Popen([sys.executable, "-c", HALF_DEAD], start_new_session=True)
    try:
        await until(lambda: is_dead(process.pid), "its first thread has ended")
        assert not is_gone(process.pid)
        assert Family(process.pid, "").living() == {process.pid}
        process.kill()
        await until(lambda: is_gone(process.pid), "all of it has ended")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"marker": 1, "surprise": 2}'])
async def test_a_broken_record_is_no_obstacle(tmp_path: Path, content: str):
    """A record cut off by a crash is ignored."""
    path = tmp_path / "engine.json"
    path.write_text(content)
    assert await clear_leftovers(path, 30)


def test_a_program_that_is_not_there_leaves_nothing(tmp_path: Path):
    """No such program: OSError, no record, no socket folder."""
    with pytest.raises(OSError, match="no-such-program"):
        EngineProcess.spawn(
            ["/no-such-program"],
            {},
            port=1,
            record_path=tmp_path / "engine.json",
            log_file=LogFile(tmp_path / "log", 10_000, 1),
            on_line=lambda line: None,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_ports(host: str):
    """A free port is free until somebody listens there."""
    import socket

    port = free_port(host)
    assert port_is_free(host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family):
        assert not port_is_free(host, port)
