"""The gateway under mixed load for a long time: does memory grow, do descriptors or leases stay behind?

    python -m bench.gateway.soak [--minutes 30] [--out FILE]

In turns: requests on 16 connections, 64 streams, 64 streams that all clients leave at once. After each turn are noted:
resident memory, open descriptors, leases and reservations in Redis. At the end nothing may be left but what was there
after the first tenth of the time. Exit code 1 if something is.
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import redis as redis_py

from bench.gateway import host, report
from bench.gateway.measures import Bench, started
from bench.gateway.peers import Running, gatehouse

GROWTH = 1.10  # memory at the end beside memory after the first tenth: caches fill, allocators keep what they had
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
    samples, requests = run(chosen.minutes * 60)
    settled = samples[max(1, len(samples) // 10)]
    problems = verdict(settled, samples[-1])
    print(f"{requests} requests; after a tenth {settled}; at the end {samples[-1]}; {problems or 'nothing grows'}")
    if chosen.out:
        report.lines(
            {
                title: {name: [(each["at"] / 60, each[name]) for each in samples] for name in names}
                for title, names in DRAWN.items()
            },
            "minutes",
            chosen.out.with_suffix(".png"),
        )
        host.write(chosen.out, machine | {"requests": requests, "problems": problems, "samples": samples})
    return 1 if problems else 0


def run(seconds: float) -> tuple[list[Sample], int]:
    """The samples, and how many requests were sent."""
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
            samples.append({"at": round(time.monotonic() - begun, 1), **now})
            print(samples[-1], file=sys.stderr)
        return samples, int(bench.stats()["requests"])


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


def verdict(settled: Sample, last: Sample) -> list[str]:
    """What has grown, or is left."""
    problems = [f"{name} left: {last[name]:g}" for name in ("reservations", "leases") if last[name]]
    if last["mb"] > settled["mb"] * GROWTH:
        problems.append(f"memory grew from {settled['mb']} to {last['mb']} MB")
    if last["descriptors"] > settled["descriptors"] + 8:
        problems.append(f"descriptors grew from {settled['descriptors']:g} to {last['descriptors']:g}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
