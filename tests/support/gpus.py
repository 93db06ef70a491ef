"""A GPU driver that tells what a test puts into it."""

from __future__ import annotations

from dataclasses import dataclass, field

from launcher.gpus import Accelerators, Gpu

H200_MIB = 143771


@dataclass
class SimulatedDriver:
    """Answers as NVML does; `there` may be changed at any time."""

    there: Accelerators = field(default_factory=Accelerators)

    def look(self) -> Accelerators:
        """What is there now."""
        return self.there


def box(
    *free_mib: int,
    total_mib: int = H200_MIB,
    name: str = "NVIDIA H200",
    users: dict[int, tuple[tuple[int, int | None], ...]] | None = None,
) -> Accelerators:
    """A machine with one GPU for each of these amounts of free memory; `users` by GPU: pids and MiB."""
    gpus = tuple(
        Gpu(index, name, f"GPU-{index}0000000-feed", total_mib, free, (users or {}).get(index, ()))
        for index, free in enumerate(free_mib)
    )
    return Accelerators("570.86.15", gpus)
