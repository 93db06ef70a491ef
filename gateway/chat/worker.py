"""Who makes an answer, and whether that process is gone, as far as can be said from here."""

import functools
import os
from pathlib import Path


def this_worker() -> str:
    """This process: where its number means something, its number, and when it was started, for numbers come again."""
    return f"{_space()}:{os.getpid()}:{_started(os.getpid())}"


def is_gone(worker: str) -> bool:
    """Whether that process is surely gone. Of one on another host, or in another container, nothing can be said."""
    space, _, process = worker.rpartition(":")[0].rpartition(":")
    return space == _space() and process.isdigit() and f"{space}:{process}:{_started(int(process))}" != worker


@functools.cache
def _space() -> str:
    """Two processes with the same see each other: the boot of the kernel, and the namespace of process ids."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"


def _started(pid: int) -> str:
    """When a process was started, in ticks since the boot (proc(5), field 22); empty when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()  # the command in brackets may contain anything
    return "" if state in {"Z", "X"} else fields[18]
