"""What the record and the metrics cost: CPU a request, lines a second, memory over a million lines, and none lost.

    .venv/bin/python -m bench.observe.cost [--lines 1000000]

CPU is that of the whole process (`time.process_time`): the writer's thread is in it. Requests are made beforehand; what
is measured is what `gateway/app.py` does with one that has ended. Nothing here is called for a chunk.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from gateway.bodies import Bodies
from gateway.config import LoggingSettings, TracingSettings
from gateway.context import Exchange
from gateway.logs import RequestLog
from gateway.metrics import Metrics
from gateway.timing import Timing
from gateway.tracing import Tracer
from tests.unit.gateway.exchanges import finished

SAMPLE = 50_000
BURST = 500  # requests between two looks at the queue, as fast as they can be written


def requests() -> list[Exchange]:
    """Some that differ in what the caches go by."""
    return [
        finished(number, model=["gpt-oss-20b", "other"][number % 2], user_agent=f"client/{number % 7}", ended=102.252)
        for number in range(1000)
    ]


def cpu(work: Callable[[Exchange, Timing], None], count: int = SAMPLE) -> float:
    """CPU microseconds a request, the least of five turns."""
    made = requests()
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for number in range(count // 5):
            exchange = made[number % 1000]
            work(exchange, Timing.of(exchange))
        best = min(best, (time.process_time() - start) / (count // 5) * 1e6)
    return best


def million(lines: int, folder: Path) -> None:
    """Count and record so many requests as fast as the disk takes them; say what it cost and what was lost."""
    metrics = Metrics(models=["gpt-oss-20b"], plans=["member"], version="0", teams=["red"])
    settings = LoggingSettings(stdout=False, keep_files=100)
    log = RequestLog(settings, folder, on_drop=metrics.dropped)
    log.start()
    queue = log._queue  # noqa: SLF001 - the load waits for its disk, as requests do by their number
    made, process = requests(), psutil.Process()
    began, start = time.monotonic(), time.process_time()
    most = 0
    for number in range(lines):
        exchange = made[number % 1000]
        timing = Timing.of(exchange)
        metrics.observe(exchange, timing)
        log.write(exchange, timing)
        if number % BURST == 0:
            most = max(most, len(queue))
            while len(queue) > settings.queue_lines // 2:
                time.sleep(0.001)
        if number % (lines // 10) == 0:
            print(f"{number:9} lines: {process.memory_info().rss / 2**20:6.1f} MiB")
    asyncio.run(log.close())
    used, took = time.process_time() - start, time.monotonic() - began
    written = sum(file.read_bytes().count(b"\n") for file in folder.glob("requests.jsonl*"))
    dropped = sum(
        sample.value for sample in metrics.log_lines_dropped.collect()[0].samples if sample.name.endswith("_total")
    )
    print(f"{lines:9} lines: {process.memory_info().rss / 2**20:6.1f} MiB")
    print(f"record and metrics together: {used / lines * 1e6:.1f} us CPU a request, {lines / took:,.0f} a second")
    print(
        f"{written} in {len(list(folder.glob('requests.jsonl*')))} files, {dropped:.0f} dropped, at most {most} waited"
    )


def chunks(count: int = 200_000) -> float:
    """CPU microseconds a chunk of a stream, with `logging.bodies`: the one thing that is done for each."""
    event = b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'
    best = float("inf")
    for _ in range(5):
        bodies = Bodies(b"{}", 1 << 30)
        start = time.process_time()
        for _ in range(count // 5):
            bodies.streamed(event)
        best = min(best, (time.process_time() - start) / (count // 5) * 1e6)
    return best


async def spans(count: int = SAMPLE) -> tuple[float, float]:
    """CPU microseconds of the event loop's thread a request for its span; the same of the whole process, with a
    collector that nobody runs.
    """
    settings = TracingSettings(endpoint="http://127.0.0.1:9/v1/traces", timeout_seconds=0.1, queue_spans=2 * count)
    tracer = Tracer(settings, "0", on_drop=lambda _reason, _count: None)
    made, thread, whole = requests(), float("inf"), float("inf")
    tracer.start()
    for _ in range(5):
        began, start = time.process_time(), time.thread_time()
        for number in range(count // 5):
            exchange = made[number % 1000]
            exchange.trace = tracer.begin([])
            tracer.write(exchange, Timing.of(exchange))
        thread = min(thread, (time.thread_time() - start) / (count // 5) * 1e6)
        whole = min(whole, (time.process_time() - began) / (count // 5) * 1e6)
    await tracer.close()
    return thread, whole


def main(lines: int) -> None:
    """Print the figures."""
    print(f"a chunk, with bodies: {chunks():.2f} us CPU; without: nothing is called")
    alone = Metrics(models=["gpt-oss-20b"], plans=["member"], version="0")
    teams = Metrics(models=["gpt-oss-20b"], plans=["member"], version="0", teams=["red"])
    print(f"timing alone: {cpu(lambda _exchange, _timing: None):.1f} us CPU a request")
    print(f"and metrics: {cpu(alone.observe):.1f}; with teams: {cpu(teams.observe):.1f}")
    thread, whole = asyncio.run(spans())
    print(f"a span, to a collector that is away: {thread:.1f} us on the event loop, {whole:.1f} in all threads")
    with tempfile.TemporaryDirectory(prefix="gatehouse-bench-") as folder:
        million(lines, Path(folder))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=int, default=1_000_000)
    main(parser.parse_args().lines)
