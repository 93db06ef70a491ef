"""Which processes belong to an engine: found by what was recorded at their start, never by name.

vLLM is a tree (server, EngineCore, one worker a GPU, compilers now and then) in one session. A process is known by its
pid and its birth, because pids are used again. Three marks tell the engine's processes from all others:
the session id, a pair (pid, birth) seen in the session earlier, and a random marker in the environment that every
descendant inherits, also one that left the session.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

MARKER_VARIABLE = "GATEHOUSE_ENGINE_ID"
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def become_subreaper() -> None:
    """Have orphans of this process's descendants become its own children, so that it can reap them. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def birth(pid: int) -> float | None:
    """When the process started, in a form that the same process always gives; None when there is none.

    On Linux: clock ticks since boot (proc(5), stat field 22), which a change of the wall clock does not move.
    """
    try:
        if sys.platform == "linux":
            return float(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
        return psutil.Process(pid).create_time()
    except (OSError, IndexError, psutil.Error):
        return None


def boot_id() -> str:
    """Name this run of the kernel, or "" where it has no name: pids mean nothing after a reboot."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def is_dead(pid: int) -> bool:
    """Whether the process has ended; a zombie has, though its parent has not looked yet."""
    try:
        return psutil.Process(pid).status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.Error:
        return True


def is_gone(pid: int) -> bool:
    """Whether all of the process has ended: a zombie's other threads may still hold its memory, that of the GPU too."""
    if not is_dead(pid):
        return False
    try:
        return len(os.listdir(f"/proc/{pid}/task")) <= 1  # noqa: PTH208 - only their number counts
    except OSError:
        return True


class Family:
    """The processes of one engine, as far as they have been seen."""

    def __init__(self, session: int, marker: str, seen: dict[int, float] | None = None) -> None:
        self.session = session
        self.marker = marker
        self.seen: dict[int, float] = dict(seen or {})

    def scan(self) -> set[int]:
        """Pids of the session at this moment, zombies too. Cheap enough for several times a second."""
        members = set()
        for pid in psutil.pids():
            with contextlib.suppress(OSError):
                if os.getsid(pid) == self.session:
                    members.add(pid)
        self._note(members)
        return members

    def _note(self, pids: Iterable[int]) -> None:
        for pid in pids:
            if (born := birth(pid)) is not None:
                self.seen[pid] = born

    def anchored(self) -> bool:
        """Whether a process seen before still lives in the session, so that its number has not gone to another one."""
        return any(_session(pid) == self.session and birth(pid) == born for pid, born in self.seen.items())

    def living(self, *, trust_session: bool = True) -> set[int]:
        """Pids of all that is left of the engine, also outside of its session. Reads every process's environment."""
        found = self.scan() if trust_session or self.anchored() else set()
        found |= {pid for pid, born in self.seen.items() if birth(pid) == born}
        mark = f"{MARKER_VARIABLE}={self.marker}".encode()
        for pid in psutil.pids():
            with contextlib.suppress(OSError):  # somebody else's process, or gone meanwhile
                if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found.add(pid)
        for pid in tuple(found):
            with contextlib.suppress(psutil.Error):
                found |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
        found.discard(os.getpid())
        self._note(found)
        return {pid for pid in found if not is_gone(pid)}

    def kill(self, pids: Iterable[int]) -> None:
        """SIGKILL each of these, if it still is the process that was seen."""
        for pid in pids:
            if birth(pid) == self.seen.get(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def reap(self, leader: int | None) -> bool:
        """Take in the orphans of the engine that came to this process when their parent died; not its direct child.

        Whether there were any: their own children come next.
        """
        reaped = False
        for pid in tuple(self.seen):
            if pid != leader and birth(pid) == self.seen[pid]:
                with contextlib.suppress(ChildProcessError, psutil.Error):
                    if psutil.Process(pid).ppid() == os.getpid():
                        reaped |= os.waitpid(pid, os.WNOHANG)[0] != 0
        return reaped


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None
