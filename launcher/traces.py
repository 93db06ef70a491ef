"""What an engine leaves outside its processes: shared memory, sockets. Only what this one was seen to use is removed.

Left by a killed vLLM (recorded on two GPUs): `/dev/shm/psm_*` (message queues between its processes), `sem.loky-PID-*`
(semaphores, named after the process that made them), `sem.mp-*` (multiprocessing's), Unix sockets in
`VLLM_RPC_BASE_PATH`, metrics of many API servers in `PROMETHEUS_MULTIPROC_DIR`, and the file at which CPU workers meet,
named in the log.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

SHM = Path("/dev/shm")  # noqa: S108 - this is where POSIX shared memory lives on Linux
_KINDS = re.compile(r"(psm_|sem\.loky-|sem\.mp-|torch_|nccl-)")
_SOCKETS_PREFIX = "gatehouse-"


def names() -> set[str]:
    """All names in /dev/shm of the kinds that vLLM leaves, whosever they are."""
    with contextlib.suppress(OSError):
        return {entry.name for entry in os.scandir(SHM) if _KINDS.match(entry.name)}
    return set()


def shared_memory(pids: Iterable[int]) -> set[str]:
    """Names in /dev/shm of what these processes have mapped now, of the kinds that vLLM leaves.

    Compared by inode: sem_open(3) makes a semaphore under another name, and that name is what /proc/PID/maps shows.
    """
    names: dict[tuple[str, int], str] = {}
    with contextlib.suppress(OSError):
        for entry in os.scandir(SHM):
            if _KINDS.match(entry.name):
                about = entry.stat(follow_symlinks=False)
                names[f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}", about.st_ino] = entry.name
    found = set()
    for pid in pids if names else ():
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
                _, _, _, device, inode, *_ = line.split(maxsplit=5)  # proc(5): address, permissions, offset, …
                if name := names.get((device, int(inode))):
                    found.add(name)
    return found


def semaphores(pids: Iterable[int]) -> set[str]:
    """Names of the semaphores in /dev/shm that carry the pid of one of these processes."""
    if not SHM.is_dir():
        return set()
    wanted = set(pids)
    made_by = re.compile(r"sem\.loky-(\d+)-")
    return {entry.name for entry in SHM.iterdir() if (match := made_by.match(entry.name)) and int(match[1]) in wanted}


def make_socket_directory() -> Path:
    """Make a private folder for the engine's sockets. In /tmp: a Unix socket's path has at most 107 characters."""
    return Path(tempfile.mkdtemp(prefix=_SOCKETS_PREFIX))


def clear(shared: Iterable[str], files: Iterable[str], socket_directory: str | None) -> list[str]:
    """Remove what is left of these shared-memory names, files and the folder; say what was there."""
    removed = []
    for path in [*(SHM / name for name in shared if "/" not in name), *map(Path, files)]:
        if path.is_file():
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(str(path))
    if socket_directory and Path(socket_directory).name.startswith(_SOCKETS_PREFIX):
        if any(Path(socket_directory).glob("*")):
            removed.append(socket_directory)
        shutil.rmtree(socket_directory, ignore_errors=True)
    return removed
