"""What is measured, each in one function: the load, and the figures that are read from it."""

import contextlib
import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.gateway import bodies, host
from bench.gateway.host import cpu, get, memory
from bench.gateway.peers import REST, Peer, Running

Figures = dict[str, float | None]
TRIES = 4
STREAMS_BEGIN_SECONDS = 1.5  # for 256 of them


@dataclass
class Bench:
    """The mock engine, the load generator, and how long to measure (seconds)."""

    folder: Path
    engine: int  # port
    seconds: float = 3.0
    _before: dict[str, float] = field(default_factory=dict)

    def memory_before(self, peer: Running) -> float:
        """A peer's memory (MB) when it had seen some requests and nothing else was measured, for every later pass."""
        self.control()
        if peer.name not in self._before:
            self.load(peer, "closed", "whole", c=64, t=0.3)
            self._before[peer.name] = memory(peer.pids)
        return self._before[peer.name]

    @contextlib.contextmanager
    def before(self, start: Peer) -> Iterator[Running]:
        """A peer before the engine, in a folder of its own."""
        with start(Path(tempfile.mkdtemp(dir=self.folder)), self.engine) as peer:
            yield peer

    def control(self, **knobs: int) -> None:
        """Set what the engine does: chunks; interval, first and delay in microseconds; together."""
        defaults = {"chunks": 100, "interval": 20_000, "first": 0, "delay": 0, "together": 0}
        settings = "&".join(f"{name}={value}" for name, value in (defaults | knobs).items())
        get(f"http://127.0.0.1:{self.engine}/ctl?{settings}")

    def stats(self) -> dict[str, Any]:
        """The engine's counters."""
        return dict(json.loads(get(f"http://127.0.0.1:{self.engine}/stats")))

    def load(self, peer: Running, mode: str, body: str, **options: float) -> dict[str, Any]:
        """Run the load generator against a peer; its report."""
        with self.loading(peer, mode, body, **options) as process:
            output, _ = process.communicate(timeout=600)
        if process.returncode:
            raise RuntimeError(f"{peer.name}, {mode}: the load generator failed")
        return dict(json.loads(output))

    @contextlib.contextmanager
    def loading(self, peer: Running, mode: str, body: str, **options: float) -> Iterator[subprocess.Popen[bytes]]:
        """The same, while it runs."""
        argv = [str(self.folder / "load"), mode, "-p", str(peer.port), "-b", str(self.folder / f"{body}.json")]
        argv += [part for name, value in options.items() for part in (f"-{name}", f"{value:g}")]
        only = ",".join(map(str, sorted(REST)))
        with subprocess.Popen(["taskset", "-c", only, *argv, *peer.options], stdout=subprocess.PIPE) as process:
            yield process


@contextlib.contextmanager
def started(seconds: float = 3.0) -> Iterator[Bench]:
    """Build the mock engine and the load generator in a folder of their own, and start the engine."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatehouse-bench-", dir="/tmp")))
        host.build(folder)
        bodies.write(folder)
        engine = host.free_port()
        stack.enter_context(host.running([str(folder / "engine"), str(engine)], folder / "engine.log", on=REST))
        host.until("the engine", lambda: get(f"http://127.0.0.1:{engine}/health"))
        yield Bench(folder, engine, seconds)


def take(name: str, bench: Bench, peer: Running) -> Figures:
    """One measure of one peer; again where Redis was away meanwhile, for then the limits were not what was measured.

    On a busy machine its answers come too late now and then. `redis` says whether it was there in the end: 1 or 0.
    """
    for _ in range(TRIES):
        returns = _ways_back(peer)
        figures = MEASURES[name](bench, peer)
        if peer.admin is None:
            return {**figures, "redis": None}
        there = b'gatehouse_limiter_mode{mode="redis"} 1.0' in get(f"{peer.admin}/metrics")
        if there and returns == _ways_back(peer):
            return {**figures, "redis": 1.0}
    return {**figures, "redis": 0.0}


def _ways_back(peer: Running) -> int:
    """How often Redis has come back, by the gateway's log."""
    return peer.log.read_bytes().count(b"it counts") if peer.log is not None else 0


def request(bench: Bench, peer: Running) -> Figures:
    """64 connections, one request after another on each, answers in one piece."""
    return _closed(bench, peer, "whole", 64)


def long_prompt(bench: Bench, peer: Running) -> Figures:
    """A prompt of 100 KB."""
    return _closed(bench, peer, "long", 8)


def chinese_chat(bench: Bench, peer: Running) -> Figures:
    """A chat of 250 messages in Chinese."""
    return _closed(bench, peer, "chinese", 8)


def _closed(bench: Bench, peer: Running, body: str, connections: int) -> Figures:
    bench.control()
    bench.load(peer, "closed", body, c=connections, t=0.2)
    before = cpu(peer.pids)
    report = bench.load(peer, "closed", body, c=connections, t=bench.seconds)
    used = cpu(peer.pids) - before
    return {
        "cpu_us": used / report["ok"] if peer.process and report["ok"] else None,
        "per_second": report["per_second"],
        "latency_p50_ms": _ms(report, "latency"),
        "failed": _expect(peer, report, "failed"),
    }


def chunk(bench: Bench, peer: Running) -> Figures:
    """256 streams that all emit in the same 20 ms tick, as an engine's step does; the client asked for no usage.

    Of the time in which all of them flow: what it costs to begin and to end one is `stream`'s figure.
    """
    chunks = round((bench.seconds + STREAMS_BEGIN_SECONDS) * 50)
    bench.control(chunks=chunks, interval=20_000, together=1)
    with bench.loading(peer, "stream", "stream", c=256, n=256, t=bench.seconds + 10, e=chunks) as process:
        with contextlib.suppress(RuntimeError):  # some begin only as others end
            host.until("all streams flow", lambda: bench.stats()["active"] == 256 or process.poll() is not None)
        sent, used, began = bench.stats()["chunks"], cpu(peer.pids), time.monotonic()
        while time.monotonic() - began < bench.seconds and process.poll() is None:
            time.sleep(0.02)
        sent, used = bench.stats()["chunks"] - sent, cpu(peer.pids) - used
        report = json.loads(process.communicate()[0])
    lost = _expect(peer, report, "lost", "cut_short")
    if peer.name == "gatehouse":
        _expect(peer, report, "with_usage")
    return {
        "cpu_us": used / sent if peer.process and sent else None,
        "transit_p50_ms": _ms(report, "transit"),
        "lost": lost,
    }


def stream(bench: Bench, peer: Running) -> Figures:
    """64 connections, one stream of ten chunks after another on each, without a pause: CPU time of a whole stream."""
    bench.control(chunks=10, interval=0)
    bench.load(peer, "stream", "stream", c=64, n=64, t=10, e=10)
    before = cpu(peer.pids)
    report = bench.load(peer, "stream", "stream", c=64, n=round(500 * bench.seconds), t=60, e=10)
    used = cpu(peer.pids) - before
    lost = _expect(peer, report, "lost", "cut_short")
    return {"cpu_us": used / report["ok"] if peer.process and report["ok"] else None, "lost": lost}


def latency(bench: Bench, peer: Running) -> Figures:
    """150 requests a second, whether answered or not."""
    bench.control()
    report = bench.load(peer, "open", "whole", r=150, t=bench.seconds)
    failed = _expect(peer, report, "failed")
    return {"p50_ms": _ms(report, "latency"), "p99_ms": _ms(report, "latency", "p99"), "failed": failed}


def first_chunk(bench: Bench, peer: Running) -> Figures:
    """256 streams, begun evenly over a second: first chunk from the engine after 100 ms, the others each 20 ms."""
    bench.control(chunks=75, first=100_000)
    report = bench.load(peer, "stream", "stream", c=256, n=256, t=10, e=75, s=4000)
    lost = _expect(peer, report, "lost", "cut_short")
    return {"p50_ms": _ms(report, "first_chunk"), "p99_ms": _ms(report, "first_chunk", "p99"), "lost": lost}


def idle(bench: Bench, peer: Running) -> Figures:
    """1,000 connections that have had one request each and are kept open: memory of each."""
    before = bench.memory_before(peer)
    with bench.loading(peer, "idle", "whole", c=1000, t=3, s=1000) as process:
        time.sleep(2.5)
        after = memory(peer.pids)
        process.communicate()
    return {"kb_each": (after - before) * 1024 / 1000 if peer.process else None}


def thousand(bench: Bench, peer: Running) -> Figures:
    """1,000 streams at once: memory at the peak, in all and of each, and whether any is lost."""
    before = peak = bench.memory_before(peer)
    bench.control(chunks=40, interval=100_000)
    with bench.loading(peer, "stream", "stream", c=1000, n=1000, t=20, e=40, s=1000) as process:
        done = threading.Event()
        output: list[bytes] = []
        reader = threading.Thread(target=lambda: (output.append(process.communicate()[0]), done.set()))
        reader.start()
        while not done.wait(0.05):
            peak = max(peak, memory(peer.pids))
        reader.join()
    report = json.loads(output[0])
    lost = report["lost"] + report["cut_short"]
    if not peer.process:
        return {"mb": None, "kb_each": None, "lost": lost}
    return {"mb": peak, "kb_each": (peak - before) * 1024 / 1000, "lost": lost}


def disconnect(bench: Bench, peer: Running) -> Figures:
    """64 clients close their streams at once: how long until the engine sees each of them closed."""
    get(f"http://127.0.0.1:{bench.engine}/reset")
    bench.control(chunks=1000, interval=20_000)
    report = bench.load(peer, "abort", "stream", c=64, n=64, a=5, t=10)
    time.sleep(1)
    closed = bench.stats()["aborts"]
    late = sorted((at - report["aborted_from"]) / 1e6 for at in closed)
    return {"p50_ms": statistics.median(late) if late else None, "max_ms": late[-1] if late else None,
            "never": 64 - len(late)}  # fmt: skip


def startup(_bench: Bench, peer: Running) -> Figures:
    """From the start of its process to its listening, on a state folder that is there: time, and CPU time."""
    return {"seconds": peer.startup_seconds, "cpu_seconds": peer.startup_cpu_seconds, "mb": peer.startup_mb}


def _ms(report: dict[str, Any], series: str, point: str = "p50") -> float | None:
    return float(report[series][point]) / 1000 if report[series]["count"] else None


def _expect(peer: Running, report: dict[str, Any], *none_of: str) -> float:
    """How many of these there were: none, or the figures are of another load. What others fail at is shown."""
    count = float(sum(report[each] for each in none_of))
    if count and not peer.others:
        raise RuntimeError(f"{peer.name}: {report}")
    return count


MEASURES = {
    each.__name__: each
    # what takes memory comes last, the larger after the smaller: it is not given back
    for each in (
        startup,
        request,
        stream,
        latency,
        idle,
        long_prompt,
        chinese_chat,
        first_chunk,
        chunk,
        disconnect,
        thousand,
    )
}
