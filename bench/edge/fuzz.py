"""Mutations of the attack corpus against a gateway of its own, for as long as one likes.

    .venv/bin/python -m bench.edge.fuzz --minutes 30 [--seed 1] [--parallel 16]

A line a minute: connections so far, resident memory, descriptors, requests in flight. At the end: the answers by
status, what was left open, and how memory moved between the first third and the last. Exit 1 on a 5xx that is ours, a
worker that died, anything that stayed open, or memory that grew by more than GROWTH.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

from tests.edge.corpus.case import ID, ORIGIN, SECRET, SESSION, Case
from tests.support.fuzzing import Found, Mutator, fuzz
from tests.support.stack import SIMULATED, Stack, running_stack
from tests.support.wire import Wire

FILES = ("framing", "request_line", "paths", "headers", "credentials", "cookies", "json_bodies", "fields", "media")
GROWTH = 0.05
SECONDS_A_LOOK = 60.0


def seeds() -> list[bytes]:
    """The requests of the corpus."""
    cases: list[Case] = [each for name in FILES for each in import_module(f"tests.edge.corpus.{name}").CASES]
    values = {ID: "mutated0", SESSION: "s" * 43, ORIGIN: "https://localhost"}
    found = []
    for case in cases:
        data = case.send
        for name, value in values.items():
            data = data.replace(name.encode(), value.encode())
        found.append(data)
    return found


async def run(stack: Stack, minutes: float, seed: int, parallel: int) -> bool:
    """Fuzz and look; whether all was well."""
    port = int(stack.url.rpartition(":")[2])
    mutator = Mutator(seeds(), seed)
    memory: list[float] = []
    all_of_it = Found()
    start = time.monotonic()
    began = stack.metrics()["gatehouse_process_start_time_seconds"]
    while (left := minutes * 60 - (time.monotonic() - start)) > 0:
        seconds = min(SECONDS_A_LOOK, left)
        found = await fuzz(lambda: Wire.open(port), mutator, seconds=seconds, parallel=parallel)
        all_of_it.sent += found.sent
        all_of_it.refused += found.refused
        all_of_it.statuses.update(found.statuses)
        all_of_it.server_errors += found.server_errors
        now = await asyncio.to_thread(stack.metrics)
        memory.append(now["gatehouse_process_resident_memory_bytes"])
        print(
            f"{(time.monotonic() - start) / 60:5.1f} min {all_of_it.sent:9} connections {memory[-1] / 2**20:7.1f} MiB "
            f"{now['gatehouse_process_open_fds']:4.0f} descriptors {now['gatehouse_in_flight']:3.0f} in flight "
            f"{now['gatehouse_connections']:3.0f} connected",
            flush=True,
        )
    return await judge(stack, all_of_it, memory, began)


async def judge(stack: Stack, found: Found, memory: list[float], began: float) -> bool:
    """Wait until all is quiet, and say what was found."""
    for _ in range(100):
        now = await asyncio.to_thread(stack.metrics)
        quiet = now["gatehouse_in_flight"] == 0 and now["gatehouse_connections"] == 0
        if quiet:
            break
        await asyncio.sleep(1)
    same = now["gatehouse_process_start_time_seconds"] == began
    third = max(1, len(memory) // 3)
    first, last = statistics.median(memory[:third]), statistics.median(memory[-third:])
    errors = found.server_errors
    print("answers:", ", ".join(f"{status}: {count}" for status, count in sorted(found.statuses.items())))
    print(f"5xx of ours: {len(errors)}; connections refused: {found.refused}; same process: {same}; all quiet: {quiet}")
    print(f"memory, median of the first third and of the last: {first / 2**20:.1f}, {last / 2**20:.1f} MiB")
    for data, answer in errors[:3]:
        print(repr(data[:2000]), "→", repr(answer[:500]))
    return not errors and not found.refused and same and quiet and last <= first * (1 + GROWTH)


def main() -> None:
    """Start the stack, fuzz it, and exit 0 if all was well."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--parallel", type=int, default=16)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "corpus.key"
        secret.write_bytes(SECRET)
        secret.chmod(0o600)
        limits = {"max_body_bytes": 1_000_000, "media_domains": ["images.example.com"], "model_aliases": ["alias"]}
        with running_stack({"engine": SIMULATED, "auth": {"secret_file": str(secret)}, "gateway": limits}) as stack:
            stack.wait_ready()
            well = asyncio.run(run(stack, arguments.minutes, arguments.seed, arguments.parallel))
    sys.exit(not well)


if __name__ == "__main__":
    main()
