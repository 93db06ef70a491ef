"""2,000 heads that never end and 500 answers that nobody reads: what does a normal user notice, and what does it cost?

    .venv/bin/python -m bench.edge.slow [--loris 2000] [--stalled 500] [--rounds 3]

A gateway of its own before an engine that answers at once. One user asks, one request after the other on four
connections, in interleaved windows: quiet; while the attack goes to a second gateway on the same machine, which costs
the machine as much; and while it goes to this one. The attackers are a process of their own and come from eight
addresses; who is ended comes again. Printed: the user's latencies in each kind of window, the gateway's CPU,
its memory before and at the height of the attack, how many bytes the engine could get rid of for each stalled reader
(all that the gateway, the kernel on all four sides and the engine's own buffer took), and how long an attacker's
connection lived.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from typing import Any

import aiohttp

from tests.support.scripted import Script, chunked, http_answer, scripted_engine
from tests.support.slow_clients import Ended, slow_loris, stalled_reader
from tests.support.stack import Stack, running_stack

WINDOW_SECONDS = 12.0
HEAD_SECONDS = WRITE_SECONDS = 10
PIECE = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 8000 + b'"}}]}\n\n'
PIECES = 250  # 2 MB: more than all buffers together
ENGINE_BYTES = 16 * 1024  # of the engine's own send buffer, which the kernel doubles; left alone it grows to 4 MB
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
CHAT = "/v1/chat/completions"


@dataclass
class Engine:
    """What the engine got rid of."""

    taken: dict[int, int] = field(default_factory=dict)  # bytes of each endless answer

    def answer(self, _head: bytes, body: bytes) -> Script:
        """An endless stream, or a short answer."""
        if b'"stream":true' in body:
            return Script(self._endless(), hang=True)
        said = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
        return Script([http_answer(json.dumps(said).encode(), "content-type: application/json")])

    def _endless(self) -> Any:
        number = len(self.taken)
        self.taken[number] = 0
        yield chunked([PIECE], "content-type: text/event-stream", end=b"")
        framed = b"%x\r\n%s\r\n" % (len(PIECE), PIECE)
        for _ in range(PIECES):
            self.taken[number] += len(framed)  # the one before it was taken
            yield framed


async def attack(port: int, loris: int, stalled: int, request: bytes, stop: Event) -> tuple[Ended, Ended]:
    """Keep so many of each going until told to stop."""
    heads, readers = Ended(), Ended()

    async def again(one: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                await one()

    async with asyncio.timeout(WINDOW_SECONDS + 3 * WRITE_SECONDS):
        await asyncio.gather(
            *(again(lambda i=i: slow_loris(port, i, heads)) for i in range(loris)),
            *(again(lambda i=i: stalled_reader(port, i, request, readers)) for i in range(stalled)),
        )
    return heads, readers


def attackers(port: int, counts: tuple[int, int], request: bytes, stop: Event, found: Any) -> None:
    """The process of the attackers."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    heads, readers = asyncio.run(attack(port, *counts, request, stop))
    found.put((heads.seconds, readers.seconds))


async def user(stack: Stack, seconds: float) -> list[float]:
    """One normal user: the latencies of their requests, in milliseconds."""
    took: list[float] = []
    ends = time.monotonic() + seconds
    headers = {"Authorization": f"Bearer {stack.token()}"}
    async with aiohttp.ClientSession(headers=headers) as http:

        async def one() -> None:
            while time.monotonic() < ends:
                start = time.perf_counter()
                async with http.post(stack.url + CHAT, json=HELLO) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()
                took.append((time.perf_counter() - start) * 1000)
                await asyncio.sleep(0.005)

        await asyncio.gather(*(one() for _ in range(4)))
    return took


@contextlib.asynccontextmanager
async def gateway_before(engine_url: str) -> AsyncIterator[Stack]:
    """`gatehouse up` with an external engine."""
    sections = {
        "engine": {"kind": "external", "url": engine_url},
        "gateway": {"head_seconds": HEAD_SECONDS, "write_seconds": WRITE_SECONDS},
    }
    with contextlib.ExitStack() as exits:
        stack = await asyncio.to_thread(lambda: exits.enter_context(running_stack(sections)))
        await asyncio.to_thread(stack.wait_ready)
        yield stack
        await asyncio.to_thread(exits.close)


async def main(loris: int, stalled: int, rounds: int) -> None:
    """Measure, and print."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    engine = Engine()
    windows: dict[str, Window] = {kind: Window() for kind in ("quiet", "elsewhere", "attacked")}
    async with (
        scripted_engine(ENGINE_BYTES) as scripted,
        gateway_before(scripted.url) as ours,
        gateway_before(scripted.url) as other,
    ):
        scripted.answer = engine.answer
        await user(ours, 2)
        memory = [await figure(ours, "gatehouse_process_resident_memory_bytes")]
        for _ in range(rounds):
            for kind, window in windows.items():
                target = {"quiet": None, "elsewhere": other, "attacked": ours}[kind]
                if target is None:
                    await window.watch(ours)
                    continue
                async with under_attack(target, loris, stalled, window):
                    await window.watch(ours)
                    memory.append(await figure(ours, "gatehouse_process_resident_memory_bytes"))
        await until(ours, lambda count: count == 0)
        memory.append(await figure(ours, "gatehouse_process_resident_memory_bytes"))
    print(f"{loris} heads that never end, {stalled} readers that stall, {rounds} rounds of {WINDOW_SECONDS:g} s")
    for kind, window in windows.items():
        took = window.took
        print(
            f"{kind:9} {len(took):6} requests  p50 {percentile(took, 50):7.2f}  p99 {percentile(took, 99):7.2f} ms"
            f"  gateway {statistics.mean(window.cpu) / WINDOW_SECONDS:5.1%} of a core"
        )
    ratio = percentile(windows["attacked"].took, 99) / percentile(windows["elsewhere"].took, 99)
    print(f"p99 attacked / attacked elsewhere: {ratio:.2f}")
    print(
        f"memory {memory[0] / 2**20:.0f} MiB before, {max(memory) / 2**20:.0f} at the height, {memory[-1] / 2**20:.0f}"
        f" after: {(max(memory) - memory[0]) / (loris + stalled) / 1024:.0f} KiB a slow connection"
    )
    taken = list(engine.taken.values())
    print(f"bytes taken for a stalled reader: median {statistics.median(taken):.0f}, most {max(taken)}")
    for what, seconds in (("a head", windows["attacked"].heads), ("a stalled reader", windows["attacked"].readers)):
        print(f"{what}'s connection lived {min(seconds):.1f} to {max(seconds):.1f} s ({len(seconds)} of them)")


@dataclass
class Window:
    """What was measured while one thing was so."""

    took: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    heads: list[float] = field(default_factory=list)
    readers: list[float] = field(default_factory=list)

    async def watch(self, stack: Stack) -> None:
        """One window: the user's latencies, the gateway's CPU."""
        before = await figure(stack, "gatehouse_process_cpu_seconds_total")
        self.took += await user(stack, WINDOW_SECONDS)
        self.cpu.append(await figure(stack, "gatehouse_process_cpu_seconds_total") - before)


@contextlib.asynccontextmanager
async def under_attack(stack: Stack, loris: int, stalled: int, window: Window) -> AsyncIterator[None]:
    """Attack a gateway from when all attackers are connected."""
    port = int(stack.url.rpartition(":")[2])
    body = json.dumps({**HELLO, "stream": True}).encode()
    request = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {stack.token()}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    context = multiprocessing.get_context("spawn")
    stop, found = context.Event(), context.SimpleQueue()
    process = context.Process(target=attackers, args=(port, (loris, stalled), request, stop, found))
    process.start()
    await until(stack, lambda count: count >= loris + stalled)
    yield
    stop.set()
    heads, readers = await asyncio.to_thread(found.get)
    window.heads += heads
    window.readers += readers
    await asyncio.to_thread(process.join)


async def figure(stack: Stack, name: str) -> float:
    """One metric of the gateway."""
    return (await asyncio.to_thread(stack.metrics))[name]


async def until(stack: Stack, done: Callable[[float], bool]) -> None:
    """Wait until the gateway has as many connections."""
    async with asyncio.timeout(120):
        while not done(await figure(stack, "gatehouse_connections")):  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.2)


def percentile(values: list[float], share: int) -> float:
    """The value that so many percent are not above."""
    return statistics.quantiles(values, n=100)[share - 1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--loris", type=int, default=2000)
    parser.add_argument("--stalled", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.loris, arguments.stalled, arguments.rounds))
