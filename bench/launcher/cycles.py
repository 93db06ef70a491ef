"""Kills the simulated engine again and again and measures what the launcher is left with after each restart.

    python bench/launcher/cycles.py [CYCLES]        (100 by default: about three minutes on two cores)

Killed in turn are the first process, EngineCore and a worker of a tree like vLLM's. Prints a line every ten cycles and
a summary; exit code 1 when something leaked. Shared memory and socket folders are those that these engines had.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

import psutil

from launcher.config import EngineSettings
from launcher.service import Launcher
from launcher.status import Status

SHM = Path("/dev/shm")
TRACES = ("shared_memory", "socket_folders")
VICTIMS = ("python", "VLLM::EngineCor", "VLLM::Worker_TP")
SETTLED = 20  # cycles after which memory is compared: the first ones fill caches
GROWTH_KIB = 2048  # of resident memory, from then to the end


@dataclass(frozen=True)
class Sample:
    """What the launcher's process is and has, when the engine is ready again."""

    cycle: int
    seconds: float
    rss_kib: int
    descriptors: int
    threads: int
    processes: int
    shared_memory: int
    socket_folders: int


class Observer:
    """Measures this process, its descendants, and what its engines have outside of them."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._traces: dict[str, set[Path]] = {name: set() for name in TRACES}

    def sample(self, cycle: int, seconds: float) -> Sample:
        """Take one; the engine is ready, or gone for good."""
        if self._record.exists():
            engine = json.loads(self._record.read_text())
            self._traces["shared_memory"] |= {SHM / name for name in engine["shared_memory"]}
            self._traces["socket_folders"].add(Path(engine["socket_directory"]))
        me = psutil.Process()
        return Sample(
            cycle=cycle,
            seconds=seconds,
            rss_kib=me.memory_info().rss >> 10,
            descriptors=me.num_fds(),
            threads=me.num_threads(),
            processes=len(me.children(recursive=True)),
            **{name: sum(path.exists() for path in paths) for name, paths in self._traces.items()},
        )


def leaks(samples: list[Sample]) -> list[str]:
    """What grew from the settled state on, or is left at the end; nothing, if all is well."""
    *living, end = samples
    first, last = living[min(SETTLED, len(living) // 2)], living[-1]
    found = [
        f"{name}: {getattr(first, name)} after cycle {first.cycle}, {getattr(last, name)} after cycle {last.cycle}"
        for name in ("descriptors", "threads", "processes", *TRACES)
        if getattr(last, name) > getattr(first, name)
    ]
    if last.rss_kib > first.rss_kib + GROWTH_KIB:
        found.append(f"resident memory: {first.rss_kib} KiB after cycle {first.cycle}, {last.rss_kib} KiB at the end")
    found += [f"{name}: {getattr(end, name)} left" for name in ("processes", *TRACES) if getattr(end, name)]
    return found


async def cycles(count: int, state_dir: Path) -> list[Sample]:
    """Kill and restart so many times; the samples, the first of them before any death, the last after the end."""
    settings = EngineSettings(
        kind="simulated", port=0, restart_delay=0.01, health_interval=0.1, warmup_batches=[1],
        crash_loop_failures=10 * count, simulator={"tree": True, "ttft": 0, "tps": 2000, "worker_death_delay": 600},
    )  # fmt: skip
    changed = asyncio.Event()

    def hear(_: Status) -> None:
        changed.set()

    launcher = Launcher(settings, state_dir, "key", on_change=hear)
    stop = asyncio.Event()
    running = asyncio.create_task(launcher.run(stop))

    async def ready(restarts: int) -> None:
        while launcher.snapshot().restarts != restarts or launcher.snapshot().state != "ready":
            changed.clear()
            await asyncio.wait_for(changed.wait(), 60)

    observer, samples = Observer(state_dir / "engine.json"), []
    try:
        await ready(0)
        samples.append(observer.sample(0, 0.0))
        for cycle in range(1, count + 1):
            began = time.monotonic()
            os.kill(_victim(launcher.snapshot().pid, VICTIMS[cycle % len(VICTIMS)]), signal.SIGKILL)
            await ready(cycle)
            samples.append(observer.sample(cycle, time.monotonic() - began))
    finally:
        stop.set()
        await running
    return [*samples, observer.sample(count + 1, 0.0)]


def _victim(first: int | None, title: str) -> int:
    assert first is not None
    tree = [psutil.Process(first), *psutil.Process(first).children(recursive=True)]
    return next(each.pid for each in tree if each.name().startswith(title))


def main() -> int:
    """Run and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as folder:
        samples = asyncio.run(cycles(count, Path(folder)))
    names = [field.name for field in fields(Sample)]
    print("  ".join(f"{name:>14}" for name in names))
    for one in [*samples[:-1:10], samples[-1]]:
        print("  ".join(f"{round(getattr(one, name), 2):>14}" for name in names))
    times = sorted(one.seconds for one in samples[1:-1])
    print(f"death to ready again: median {times[len(times) // 2]:.2f} s, longest {times[-1]:.2f} s")
    found = leaks(samples)
    print("\n".join(found) if found else f"nothing leaked over {count} cycles")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
