"""The GPUs of this machine, as NVML tells: the driver's own library, which `nvidia-smi` asks too.

It is loaded when it is asked and let go of at once: a launcher that lives for months keeps no handle to a driver that
may be updated under it.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

_MIB = 1 << 20
# Devices of the accelerators other than NVIDIA's that vLLM runs on: WSL, AMD, Intel Gaudi and others, TPU.
_OTHER_DEVICES = ("/dev/dxg", "/dev/kfd", "/dev/accel", "/dev/accel0", "/dev/vfio/0")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU at one moment. Memory in MiB; `users` are the pids that compute on it, with what each holds."""

    index: int
    name: str
    uuid: str
    total_mib: int
    free_mib: int
    users: tuple[tuple[int, int | None], ...] = ()

    @property
    def used_mib(self) -> int:
        """What is taken, by whomever."""
        return self.total_mib - self.free_mib


@dataclass(frozen=True, slots=True)
class Accelerators:
    """All that vLLM could compute on. `driver` is None where no NVIDIA driver answers; `others` are device files."""

    driver: str | None = None
    gpus: tuple[Gpu, ...] = ()
    others: tuple[str, ...] = ()


class Driver(Protocol):
    """Whoever knows the GPUs."""

    def look(self) -> Accelerators:
        """Tell what is there now. May block for seconds: call it in a thread."""
        ...


class Nvml:
    """The driver of this machine."""

    def look(self) -> Accelerators:
        """Ask NVML; without it, or without its driver, there are no NVIDIA GPUs."""
        others = tuple(device for device in _OTHER_DEVICES if Path(device).exists())
        try:
            import pynvml  # noqa: PLC0415 - most commands never ask, and the demo needs no such library
        except ImportError:
            return Accelerators(others=others)
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return Accelerators(others=others)
        try:
            count = pynvml.nvmlDeviceGetCount()
            gpus = tuple(_gpu(pynvml, index) for index in range(count))
            return Accelerators(str(pynvml.nvmlSystemGetDriverVersion()), gpus, others)
        except pynvml.NVMLError:
            return Accelerators(others=others)
        finally:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    users: list[tuple[int, int | None]] = []
    with contextlib.suppress(nvml.NVMLError):  # not every driver tells (WSL, MIG)
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            held = process.usedGpuMemory
            users.append((int(process.pid), None if held is None else int(held) // _MIB))
    return Gpu(
        index=index,
        name=str(nvml.nvmlDeviceGetName(handle)),
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        total_mib=int(memory.total) // _MIB,
        free_mib=int(memory.free) // _MIB,
        users=tuple(users),
    )


def memory_holders(accelerators: Accelerators, pids: Iterable[int]) -> set[int]:
    """Those of these processes that hold GPU memory now."""
    return {pid for gpu in accelerators.gpus for pid, _ in gpu.users} & set(pids)


def visible(gpus: tuple[Gpu, ...], chosen: str | None) -> tuple[Gpu, ...] | None:
    """Pick the GPUs that CUDA_VISIBLE_DEVICES (`chosen`, None for unset) leaves; None when it names what NVML does not.

    CUDA stops at the first entry that it does not know: CUDA C++ Programming Guide, "CUDA Environment Variables".
    """
    if chosen is None:
        return gpus
    picked: list[Gpu] = []
    for word in (part.strip() for part in chosen.split(",")):
        if word.startswith("MIG"):
            return None
        found = [
            gpu for gpu in gpus if word == str(gpu.index) or (word.startswith("GPU-") and gpu.uuid.startswith(word))
        ]
        if not found:
            break
        picked += found
    return tuple(picked)
