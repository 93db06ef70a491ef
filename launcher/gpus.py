"""The GPUs of this machine, as the driver's own `nvidia-smi` tells."""

import contextlib
import csv
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_QUERY_SECONDS = 10
# Devices of the accelerators vLLM runs on: NVIDIA, AMD, Intel Gaudi and others, TPU.
_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/accel", "/dev/accel0", "/dev/vfio/0")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Memory in MiB."""

    index: int
    name: str
    total_mib: int
    used_mib: int


def accelerator_present() -> bool:
    """Whether the kernel shows any accelerator that vLLM knows."""
    return any(Path(device).exists() for device in _DEVICES)


def nvidia_gpus() -> list[Gpu] | None:
    """List the NVIDIA GPUs; None when there is no driver to ask. Blocks for up to 10 s."""
    rows = _query("--query-gpu=index,name,memory.total,memory.used")
    if rows is None:
        return None
    gpus = []
    for row in rows:
        with contextlib.suppress(ValueError):
            index, name, total, used = row
            gpus.append(Gpu(int(index), name, int(total), int(used)))
    return gpus


def memory_holders(pids: Iterable[int]) -> set[int]:
    """Those of these processes that hold GPU memory now. Blocks for up to 10 s."""
    rows = _query("--query-compute-apps=pid") or []
    held = {int(row[0]) for row in rows if row and row[0].isdigit()}
    return held & set(pids)


def _query(what: str) -> list[list[str]] | None:
    try:
        answer = subprocess.run(
            ["nvidia-smi", what, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_QUERY_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return [[cell.strip() for cell in row] for row in csv.reader(answer.stdout.splitlines())]
