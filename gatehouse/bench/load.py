"""Many requests: all at once, a fixed number at a time, or arriving at a rate.

The load may be spread over processes, so that the generator does not become what is measured. Each keeps its own
connections.
"""

import asyncio
import contextlib
import math
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate

import msgspec
import uvloop

from gatehouse.bench.client import Answer, Target, ask, session
from gatehouse.bench.workload import Workload


@dataclass(frozen=True)
class Load:
    """How many requests, and how they come: with a `rate` (per second, Poisson) whether or not others have ended."""

    concurrency: int
    requests: int
    rate: float | None = None
    timeout: float = 600.0


@dataclass(frozen=True)
class Round:
    """One load on one server."""

    target: str
    load: Load
    answers: list[Answer]

    @property
    def seconds(self) -> float:
        """From the first request to the end of the last answer."""
        return max(answer.ended for answer in self.answers) - min(answer.began for answer in self.answers)

    @property
    def full_tokens_per_second(self) -> float | None:
        """Tokens/s while `concurrency` streams ran: from when all had begun until the first found no further request.

        A round's begin and end, where fewer run, are not in it. None where that never was: requests came at a rate,
        or one had no answer.
        """
        if self.load.rate is not None or any(answer.first is None for answer in self.answers):
            return None
        at_once = min(self.load.concurrency, len(self.answers))
        first = sorted(self.answers, key=lambda answer: answer.began)[:at_once]
        begin = max(answer.first or 0.0 for answer in first)
        end = sorted(answer.ended for answer in self.answers)[-at_once]
        tokens = sum(answer.completion_tokens * _share_within(answer, begin, end) for answer in self.answers)
        return tokens / (end - begin) if end > begin else None

    @property
    def flowing(self) -> "Round":
        """Without each user's first answer, for all of them begin at one moment; the whole where nobody had another.

        What failed stays: it is counted, and in no other figure.
        """
        ordered = sorted(self.answers, key=lambda answer: answer.began)
        first, later = ordered[: self.load.concurrency], ordered[self.load.concurrency :]
        failed = [answer for answer in first if answer.error is not None]
        return replace(self, answers=failed + later) if later and self.load.rate is None else self


def _share_within(answer: Answer, begin: float, end: float) -> float:
    """How much of an answer came in this time, its tokens taken as evenly spread."""
    first, last = answer.first or answer.ended, answer.ended
    return max(min(last, end) - max(first, begin), 0.0) / (last - first) if last > first else 0.0


async def _run(target: Target, workload: Workload, load: Load, first: int) -> list[Answer]:
    bodies = [msgspec.json.encode(workload.body(first + at)) for at in range(load.requests)]
    async with session() as http:

        def one(body: bytes) -> "asyncio.Task[Answer]":
            return asyncio.create_task(ask(http, target, workload.path, body, load.timeout))

        if load.rate is not None:
            pauses = random.Random(f"{workload.seed}/{first}")  # noqa: S311 - not a secret
            tasks = []
            for body in bodies:
                tasks.append(one(body))
                await asyncio.sleep(pauses.expovariate(load.rate))
            return await asyncio.gather(*tasks)

        answers: list[Answer] = []
        waiting = iter(bodies)

        async def user() -> None:
            for body in waiting:
                answers.append(await one(body))  # noqa: PERF401 - one after the other

        await asyncio.gather(*(user() for _ in range(load.concurrency)))
        return answers


def _share(target: Target, workload: Workload, load: Load, first: int, begin: float) -> list[Answer]:
    time.sleep(max(begin - time.monotonic(), 0))  # all processes begin together
    return uvloop.run(_run(target, workload, load, first))


class Generator:
    """Runs loads on servers. The prompts of one generator never repeat: no answer comes from an earlier one's cache."""

    _HEAD_START = 0.25  # seconds until all processes have got their work

    def __init__(self, pool: ProcessPoolExecutor | None, processes: int) -> None:
        self._pool, self._processes = pool, processes
        self._next = 0

    def run(self, target: Target, workload: Workload, load: Load) -> Round:
        """Run one load to its end."""
        return self.together([(target, workload, load)])[0]

    def together(self, loads: Sequence[tuple[Target, Workload, Load]]) -> list[Round]:
        """Run loads that begin at the same moment, each to its end. A process makes one of them, or all."""
        requests = [load.requests for _, _, load in loads]
        *firsts, self._next = accumulate(requests, initial=self._next)
        if self._pool is None or self._processes < len(loads):
            answers = uvloop.run(_run_all(loads, firsts))
        else:
            begin = time.monotonic() + self._HEAD_START
            processes = _allot([load.concurrency for _, _, load in loads], self._processes)
            parts = [self._submit(self._pool, *each, begin) for each in zip(loads, firsts, processes, strict=True)]
            answers = [[answer for part in each for answer in part.result()] for each in parts]
        return [Round(target.name, load, found) for (target, _, load), found in zip(loads, answers, strict=True)]

    @staticmethod
    def _submit(
        pool: ProcessPoolExecutor, what: tuple[Target, Workload, Load], first: int, processes: int, begin: float
    ) -> list[Future[list[Answer]]]:
        target, workload, load = what
        shares = _split(load, processes)
        firsts = accumulate((share.requests for share in shares), initial=first)
        return [
            pool.submit(_share, target, workload, share, at, begin) for share, at in zip(shares, firsts, strict=False)
        ]


async def _run_all(loads: Sequence[tuple[Target, Workload, Load]], firsts: list[int]) -> list[list[Answer]]:
    return await asyncio.gather(*(_run(*each, first) for each, first in zip(loads, firsts, strict=True)))


def _allot(sizes: list[int], processes: int) -> list[int]:
    """How many of the processes each gets: one at least, the others where most is left for each."""
    given = [1] * len(sizes)
    for _ in range(processes - len(sizes)):
        given[max(range(len(sizes)), key=lambda at: sizes[at] / given[at])] += 1
    return given


def _split(load: Load, processes: int) -> list[Load]:
    """Divide a load; no part is empty."""
    count = min(processes, load.concurrency, load.requests)

    def part(whole: int, at: int) -> int:
        return whole * (at + 1) // count - whole * at // count

    rate = None if load.rate is None else load.rate / count
    return [
        replace(load, concurrency=part(load.concurrency, at), requests=part(load.requests, at), rate=rate)
        for at in range(count)
    ]


@contextlib.contextmanager
def generator(processes: int = 1) -> Iterator[Generator]:
    """A generator with so many processes; they end with it."""
    if processes == 1:
        yield Generator(None, 1)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield Generator(pool, processes)


def interleave(
    targets: list[Target],
    rounds: int,
    run: Callable[[Target], Round],
    until: float = math.inf,
) -> list[Round]:
    """Run every target once a round, in turning order (A B, B A, …): a slow drift of the machine hits all alike.

    No round but the first begins after the moment `until`.
    """
    results: list[Round] = []
    for number in range(rounds):
        if results and time.monotonic() > until:
            break
        results += [run(target) for target in (targets if number % 2 == 0 else targets[::-1])]
    return results
