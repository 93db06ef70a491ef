"""The gateway under mixed load for a long time: does memory grow, do descriptors or leases stay behind?

    python -m bench.gateway.soak [--minutes 30] [--out FILE]

In turns: requests on 16 connections, 64 streams, 64 streams that all clients leave at once. After each turn are noted:
resident memory, open descriptors, leases and reservations in Redis, and how many requests there were. At the end
nothing may be left but what was there after the first tenth of the time. Exit code 1 if something is. Memory goes up
and down from turn to turn: what is compared are medians, of the second tenth of the turns and of the last.
"""

import argparse
import contextlib
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import redis as redis_py

from bench.gateway import host, report
from bench.gateway.measures import Bench, started
from bench.gateway.peers import Running, gatehouse

GROWTH = 1.05  # memory at the end beside memory after the first tenth: caches fill, allocators keep what they had
BOOKED_MS = 3_600_000
SETTLE_SECONDS = 30.0  # for what is not awaited; a busy machine takes its time
DRAWN = {"memory, MB": ["mb"], "descriptors": ["descriptors"], "in Redis": ["leases", "reservations"]}
Sample = dict[str, float]


def main() -> int:
    """Run, print, write; 1 if something grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    machine = host.describe()
    samples = run(chosen.minutes * 60)
    memory, problems = growth(samples), verdict(samples)
    requests = int(samples[-1]["requests"])
    print(f"{requests} requests; {memory}; after a tenth {settled(samples)[0]}; at the end {samples[-1]}")
    print(*problems or ["nothing grows"], sep="\n")
    if chosen.out:
        report.lines(
            {
                title: {name: [(each["at"] / 60, each[name]) for each in samples] for name in names}
                for title, names in DRAWN.items()
            },
            "minutes",
            chosen.out.with_suffix(".png"),
        )
        host.write(chosen.out, machine | {"requests": requests, "problems": problems, **memory, "samples": samples})
    return 1 if problems else 0


def run(seconds: float) -> list[Sample]:
    """The samples."""
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(started())
        peer = stack.enter_context(bench.before(gatehouse()))
        books = stack.enter_context(redis_py.Redis.from_url(peer.redis))
        begun = time.monotonic()
        samples: list[Sample] = []
        while time.monotonic() - begun < seconds:
            turn(bench, peer)
            settled_by = time.monotonic() + SETTLE_SECONDS  # what stays held is told, and no bad moment is
            while (now := sample(peer, books))["leases"] and time.monotonic() < settled_by:
                time.sleep(0.2)
            at, requests = round(time.monotonic() - begun, 1), bench.stats()["requests"]
            samples.append({"at": at, "requests": requests, **now})
            print(samples[-1], file=sys.stderr)
        return samples


def turn(bench: Bench, peer: Running) -> None:
    """A few seconds of each kind of load."""
    bench.control(chunks=50)
    bench.load(peer, "closed", "whole", c=16, t=2)
    bench.load(peer, "stream", "stream", c=64, n=64, t=2, e=50)
    bench.load(peer, "abort", "stream", c=64, n=64, a=5, t=2)
    time.sleep(2)  # the newest streams' ends are still under way


def sample(peer: Running, books: Any) -> Sample:
    """What is held now; nothing runs, so leases and reservations should be none."""
    keys = [key.decode() for key in books.scan_iter("*", count=1000)]
    held = [books.pttl(key) for key in keys if ":r:" in key]
    return {
        "mb": round(host.memory(peer.pids), 1),
        "descriptors": host.descriptors(peer.pids),
        # what was used while Redis was away is booked under an id that it keeps for a day: no reservation
        "reservations": sum(left < BOOKED_MS for left in held),
        "leases": sum(books.zcard(key) for key in keys if ":l:" in key),
    }


def settled(samples: list[Sample]) -> list[Sample]:
    """The second tenth of the samples, or the first that there is after a tenth."""
    tenth = len(samples) // 10
    return samples[max(1, tenth) : max(2, 2 * tenth)] or samples


def growth(samples: list[Sample]) -> Sample:
    """Memory after a tenth of the time and at its end, medians in MB, and what each request in between has added."""
    before, after = settled(samples), samples[-max(1, len(samples) // 10) :]
    mb, requests = (
        [statistics.median(each[name] for each in some) for some in (before, after)] for name in ("mb", "requests")
    )
    added = (mb[1] - mb[0]) * 2**20 / max(1, requests[1] - requests[0])
    return {"settled_mb": round(mb[0], 1), "end_mb": round(mb[1], 1), "bytes_a_request": round(added, 1)}


def verdict(samples: list[Sample]) -> list[str]:
    """What has grown, or is left."""
    first, last, memory = settled(samples)[0], samples[-1], growth(samples)
    problems = [f"{name} left: {last[name]:g}" for name in ("reservations", "leases") if last[name]]
    if memory["end_mb"] > memory["settled_mb"] * GROWTH:
        problems.append(
            f"memory grew from {memory['settled_mb']} to {memory['end_mb']} MB,"
            f" by {memory['bytes_a_request']} bytes a request"
        )
    if last["descriptors"] > first["descriptors"] + 8:
        problems.append(f"descriptors grew from {first['descriptors']:g} to {last['descriptors']:g}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
