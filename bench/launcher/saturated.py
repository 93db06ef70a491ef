"""Keeps the simulated engine saturated and counts what the launcher takes for a hang: it must be nothing.

    python bench/launcher/saturated.py [SECONDS]        (600 by default)

Eight requests run, eight times as many wait; `stall_seconds` is 5 where the default is 120, so
that a step that is merely slow would be found. Exit code 1 after any state but ready.
"""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from launcher.config import EngineSettings
from launcher.probe import Probe
from launcher.service import Launcher
from launcher.status import Status

RUNNING = 8
CALLERS = 8 * RUNNING
TOKENS = 100
STALL_SECONDS = 5.0
KEY = "key"


@dataclass
class Outcome:
    """What happened."""

    seconds: float = 0.0
    answers: int = 0
    failures: int = 0
    longest_queue: int = 0
    restarts: int = 0
    states: Counter[str] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        """No false alarm, and everybody was answered."""
        return self.restarts == 0 and self.failures == 0 and self.answers > 0 and set(self.states) <= {"ready"}


async def saturate(seconds: float, state_dir: Path) -> Outcome:
    """Run it for so long."""
    settings = EngineSettings(
        kind="simulated", port=0, health_interval=0.5, max_num_seqs=RUNNING, stall_seconds=STALL_SECONDS,
        stall_grace_seconds=0, simulator={"ttft": 0.5, "tps": 50},
    )  # fmt: skip
    outcome, ready = Outcome(), asyncio.Event()

    def hear(status: Status) -> None:
        if status.state == "ready":
            ready.set()
        if ready.is_set() and not stop.is_set():
            outcome.states[status.state] += 1

    stop = asyncio.Event()
    launcher = Launcher(settings, state_dir, KEY, on_change=hear)
    running = asyncio.create_task(launcher.run(stop))
    await ready.wait()
    began = time.monotonic()
    url = launcher.snapshot().url or ""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {KEY}"}) as http:
        callers = [asyncio.create_task(_call(http, url, outcome)) for _ in range(CALLERS)]
        probe = Probe(http, url, KEY, settings.served_model_name)
        while time.monotonic() - began < seconds:
            await asyncio.sleep(1)
            if (load := await probe.load(10)) is not None:
                outcome.longest_queue = max(outcome.longest_queue, load.waiting)
        outcome.restarts, outcome.seconds = launcher.snapshot().restarts, time.monotonic() - began
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    stop.set()
    await running
    return outcome


async def _call(http: aiohttp.ClientSession, url: str, outcome: Outcome) -> None:
    body = {"model": "gpt-oss-20b", "prompt": "one two " * 200, "max_tokens": TOKENS, "ignore_eos": True}
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            async with http.post(
                url + "/v1/completions", json=body, timeout=aiohttp.ClientTimeout(total=None)
            ) as answer:
                if answer.status == 200 and (await answer.json())["usage"]["completion_tokens"] == TOKENS:
                    outcome.answers += 1
                    continue
        outcome.failures += 1
        await asyncio.sleep(1)


def main() -> int:
    """Run and print."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    with tempfile.TemporaryDirectory() as folder:
        outcome = asyncio.run(saturate(seconds, Path(folder)))
    print(
        f"{outcome.seconds:.0f} s, {outcome.answers} answers of {TOKENS} tokens, {outcome.failures} failed, at most"
        f" {outcome.longest_queue} waiting; states {dict(outcome.states)}, {outcome.restarts} restarts"
    )
    print("no false alarm" if outcome.good else "FALSE ALARM")
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
