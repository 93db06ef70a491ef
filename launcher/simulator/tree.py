"""The processes that `vllm serve` starts, played by forks that hold nothing but their names and their ties.

    parent ── resource tracker          removes shared memory when all others are gone
          └── VLLM::EngineCore          ends when a worker ends
              └── VLLM::Worker_TP0 …    end when EngineCore ends

All share the parent's process group. As with vLLM they outlive a killed parent; what they leave when they are killed
are `/dev/shm/psm_*` (mapped by EngineCore and the workers), `/dev/shm/sem.loky-PID-*` (a worker's) and a Unix socket in
VLLM_RPC_BASE_PATH. The parent only watches them: a dead one is an engine death, a stopped one a hang.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import signal
import socket
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

_SHM = Path("/dev/shm")  # noqa: S108  # where vLLM's message queues live
_POLL_SECONDS = 0.02
_GRACE_SECONDS = 1.0
_SHM_BYTES = 4096
_SEMAPHORE_BYTES = 32


@dataclass(frozen=True, slots=True)
class Tree:
    """The children of a running simulator."""

    tracker: int
    core: int
    workers: tuple[int, ...]
    lifeline: int
    """The write end of the tracker's pipe: it cleans up when nobody holds one any more."""
    rpc: socket.socket
    """The parent's end of what the processes would talk over."""

    def anyone_dead(self) -> bool:
        """EngineCore or a worker is gone."""
        return not all(map(_alive, (self.core, *self.workers)))

    def anyone_stopped(self) -> bool:
        """EngineCore or a worker is stopped by a signal."""
        return any(_state(pid) == "T" for pid in (self.core, *self.workers))

    def stop(self) -> None:
        """End EngineCore, whereupon the workers end, whereupon the tracker cleans up. Who does not is killed."""
        _kill(self.core)
        _wait(self.core)
        deadline = time.monotonic() + _GRACE_SECONDS
        while any(map(_alive, self.workers)) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        for pid in self.workers:
            _kill(pid)
        os.close(self.lifeline)
        _wait(self.tracker)
        path = Path(self.rpc.getsockname())
        self.rpc.close()
        path.unlink(missing_ok=True)


def grow(tensor_parallel_size: int, listener: socket.socket) -> Tree:
    """Fork the children, which give up `listener`. Call before any thread or event loop exists."""
    names = [f"VLLM::Worker_TP{rank}" for rank in range(tensor_parallel_size)]
    names = names if tensor_parallel_size > 1 else ["VLLM::Worker"]
    files = [_SHM / f"psm_{secrets.token_hex(4)}" for _ in range(2 * tensor_parallel_size)]
    for file in files:
        file.write_bytes(bytes(_SHM_BYTES))
    base = os.environ.get("VLLM_RPC_BASE_PATH") or tempfile.gettempdir()
    rpc = socket.socket(socket.AF_UNIX)
    rpc.bind(str(Path(base) / str(uuid.uuid4())))
    ear, lifeline = os.pipe()
    tracker = os.fork()
    if tracker == 0:
        os.close(lifeline)
        listener.close()
        rpc.close()
        _track(ear, files)
    os.close(ear)
    report, said = os.pipe()
    core = os.fork()
    if core == 0:
        os.close(report)
        listener.close()
        rpc.close()
        _core(names, files, said)
    os.close(said)
    with os.fdopen(report) as pids:
        workers = tuple(int(pid) for pid in pids.read().split())
    return Tree(tracker, core, workers, lifeline, rpc)


def _track(ear: int, files: list[Path]) -> None:
    """Python's resource tracker: deaf to SIGINT and SIGTERM, ends when the last writer is gone."""
    _name("python3")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.read(ear, 1)
    for file in files:
        file.unlink(missing_ok=True)
    os._exit(0)


def _core(names: list[str], files: list[Path], said: int) -> None:
    """Map the shared memory, start the workers, end when one of them does."""
    _name("VLLM::EngineCore")
    _mortal()
    queues = []
    for file in files:
        with file.open("r+b") as handle:
            queues.append(mmap.mmap(handle.fileno(), _SHM_BYTES))
    workers = []
    for name in names:
        pid = os.fork()
        if pid == 0:
            os.close(said)
            _worker(name)
        workers.append(pid)
    os.write(said, " ".join(map(str, workers)).encode())
    os.close(said)
    while all(map(_alive, workers)):
        time.sleep(_POLL_SECONDS)
    os._exit(1)


def _worker(name: str) -> None:
    """Hold a semaphore and the inherited mappings until EngineCore is gone."""
    _name(name)
    _mortal()
    core = os.getppid()
    semaphore = _SHM / f"sem.loky-{os.getpid()}-{secrets.token_hex(4)}"
    semaphore.write_bytes(bytes(_SEMAPHORE_BYTES))
    while os.getppid() == core:
        time.sleep(_POLL_SECONDS)
    semaphore.unlink(missing_ok=True)
    os._exit(0)


def _mortal() -> None:
    """Signals act as on any process, whatever the parent had set."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _name(name: str) -> None:
    """What `ps -o comm` shows; the kernel keeps 15 characters."""
    Path("/proc/self/comm").write_text(name)


def _state(pid: int) -> str | None:
    """The process's state letter in /proc, or None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat.rpartition(")")[2].split()[0]


def _alive(pid: int) -> bool:
    return _state(pid) not in ("Z", "X", None)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _wait(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
