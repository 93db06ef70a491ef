"""`gatehouse engine restart` under load: nobody must notice but by waiting."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.support.stack import Stack
from tests.support.traffic import APIS, Request, traffic

CALLERS = 8


@dataclass
class Outcome:
    """What the callers saw. `longest`: seconds that the slowest answer took."""

    answers: int = 0
    longest: float = 0.0


async def restart_under_load(stack: Stack, *, tokens: int, seconds: float) -> Outcome:
    """Keep eight callers asking on all four APIs, streaming and not, while the engine is restarted by the command.

    Every answer must be 200 and whole, also in the record. Fails when the restart, and as many answers after it as
    there are callers, take more than `seconds`.
    """
    before = stack.status()
    outcome, done, ids = Outcome(), asyncio.Event(), []
    async with traffic(stack, timeout=seconds + 60) as sender:

        async def caller(number: int) -> None:
            request = Request(APIS[number % len(APIS)], stream=number < len(APIS), max_tokens=tokens, endless=True)
            while not done.is_set():
                began, request_id = time.monotonic(), f"restart-{number}-{len(ids)}"
                ids.append(request_id)
                body = await sender.whole(request, "Go on.", request_id)
                assert body
                outcome.longest = max(outcome.longest, time.monotonic() - began)
                outcome.answers += 1

        async with asyncio.TaskGroup() as tasks:
            for number in range(CALLERS):
                tasks.create_task(caller(number))
            await sender.until_running(CALLERS // 2)
            await _command(stack, "restart")
            async with asyncio.timeout(seconds):
                while (now := await asyncio.to_thread(stack.status))["restarts"] == before["restarts"] or now[
                    "state"
                ] != "ready":
                    await asyncio.sleep(0.05)
                goal = max(outcome.answers + CALLERS, 2 * CALLERS + 1)  # they go on with the new engine
                while outcome.answers < goal:
                    await asyncio.sleep(0.05)
            done.set()
    assert now["pid"] != before["pid"]
    assert now["reason"] == ""
    stack.observe()
    outcomes = {(line := stack.logged(request_id))["outcome"]: line for request_id in ids}
    assert set(outcomes) == {"complete"}, outcomes
    return outcome


async def _command(stack: Stack, word: str) -> None:
    argv = [sys.executable, "-m", "gatehouse", "engine", word, "--state-dir", str(stack.state_dir)]
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = await process.communicate()
    assert (process.returncode, out) == (0, b""), err.decode()
