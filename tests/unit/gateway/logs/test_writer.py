"""The request log as the gateway uses it: nothing lost, nothing waited for, drops counted and announced."""

import asyncio
import json
import logging
import os
import resource
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.bodies import Bodies
from gateway.config import LoggingSettings
from gateway.logs import RequestLog, writer
from gateway.logs.line import LogLine
from gateway.timing import Timing
from tests.unit.gateway.exchanges import finished


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def make(folder: Path, drops: Counter, copy_to: int | None = None, **settings: object) -> RequestLog:
    return RequestLog(
        LoggingSettings(stdout=copy_to is not None, **settings),
        folder,
        on_drop=lambda sink, count: drops.update({sink: count}),
        stdout=copy_to or 1,
    )


def ids(path: Path) -> list[str]:
    return [json.loads(line)["request_id"] for line in path.read_bytes().splitlines()]


async def test_a_hundred_thousand_lines_none_lost_memory_flat(tmp_path: Path) -> None:
    """Every line of a busy hour is in the file, in order, and the process has not grown."""
    drops: Counter = Counter()
    log = make(tmp_path, drops)
    log.start()
    timing = Timing.of(finished(), ended=101)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    exchange = finished()
    for number in range(100_000):
        exchange.request_id = f"r{number}"
        log.write(exchange, timing)
        if number % 2000 == 0:
            await until(lambda: len(log._queue) < 2000)
    await log.close()
    assert ids(tmp_path / "requests.jsonl") == [f"r{number}" for number in range(100_000)]
    assert not drops
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # KiB; reading it back included


async def test_a_full_queue_drops_counts_and_announces_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What does not fit is dropped at once, and the metric and the process's log say so."""
    drops: Counter = Counter()
    log = make(tmp_path, drops, queue_lines=10)
    for number in range(25):
        log.write(finished(number))
    log.start()
    await log.close()
    assert ids(tmp_path / "requests.jsonl") == [f"r{number}" for number in range(10)]
    assert drops == {"queue": 15}
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_disk_that_fills_and_empties(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing can be written the newest lines are kept and the rest counted; then they are written, announced."""
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.05)
    drops: Counter = Counter()
    target = tmp_path / "log"
    target.symlink_to("/dev/full")
    log = make(tmp_path, drops, file=target, queue_lines=10)
    log.start()
    for number in range(25):
        log.write(finished(number))
        await until(lambda: not log._queue)
    await until(lambda: drops["file"] == 15)
    target.unlink()
    log.write(finished(25))
    await until(lambda: not log._pending and not log._queue)
    await log.close()
    kept = ids(target)
    assert kept[-1] == "r25"
    assert len(kept) + drops["file"] == 26
    assert ["cannot be written" in record.message for record in caplog.records] == [True, False]
    assert f"{drops['file']} lines were lost" in caplog.records[1].message


async def test_lines_that_find_no_disk_until_the_end_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing disappears silently, not even at the end."""
    drops: Counter = Counter()
    log = make(tmp_path, drops, file=Path("/dev/full"))
    log.start()
    log.write(finished())
    await log.close()
    assert drops == {"file": 1}
    assert "1 lines of requests are lost" in caplog.records[-1].message


@pytest.mark.parametrize("form", ["json", "console"])
async def test_stdout_has_a_copy(tmp_path: Path, form: str) -> None:
    """In JSON for a log shipper, or in a form for people; the file is JSON either way."""
    read, write = os.pipe()
    log = make(tmp_path, Counter(), copy_to=write, format=form)
    log.start()
    exchange = finished()
    timing = Timing.of(exchange, ended=101)
    log.write(exchange, timing)
    await log.close()
    line = LogLine.of(exchange, timing)
    assert os.read(read, 10_000) == (line.json() if form == "json" else line.console())
    assert (tmp_path / "requests.jsonl").read_bytes() == line.json()
    os.close(read)
    os.close(write)


async def test_a_reader_of_stdout_that_is_gone_costs_only_the_copy(tmp_path: Path) -> None:
    """`gatehouse up | head` ends the copy; the file goes on, and what was not copied is counted."""
    read, write = os.pipe()
    os.close(read)
    drops: Counter = Counter()
    log = make(tmp_path, drops, copy_to=write)
    log.start()
    log.write(finished())
    await log.close()
    assert drops == {"stdout": 1}
    assert ids(tmp_path / "requests.jsonl") == ["r0"]
    os.close(write)


async def test_an_error_in_the_writer_does_not_end_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A line that cannot be written for an unforeseen reason costs itself, not the record."""
    log = make(tmp_path, Counter())
    log._queue.append(None)
    log.start()
    log._wake.set()
    await until(lambda: bool(caplog.records))
    log.write(finished())
    await log.close()
    assert ids(tmp_path / "requests.jsonl") == ["r0"]


async def test_a_failing_drop_counter_does_not_end_the_writer(tmp_path: Path) -> None:
    """Counting what was lost must not lose more."""
    log = RequestLog(LoggingSettings(stdout=False, file=Path("/dev/full")), tmp_path, on_drop=lambda *_: 1 / 0)
    log.start()
    log.write(finished())
    await log.close()
    assert not log._thread.is_alive()


async def test_bodies_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk is full, lines soon go without their bodies, counted; with room again they have them as before."""
    monkeypatch.setattr(writer, "BODIES_BYTES", 10_000)
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.05)
    drops: Counter = Counter()
    target = tmp_path / "log"
    target.symlink_to("/dev/full")
    log = make(tmp_path, drops, file=target, bodies={"enabled": True})

    def write(number: int) -> None:
        exchange = finished(number)
        exchange.bodies = Bodies(b"x" * 3000, 16_384)
        log.write(exchange)

    log.start()
    for number in range(10):
        write(number)
    assert drops == {"bodies": 7}
    assert log.burden == 9000
    target.unlink()
    write(10)
    await until(lambda: not log.burden)
    write(11)
    await log.close()
    lines = [json.loads(line) for line in target.read_bytes().splitlines()]
    assert [line["request_id"] for line in lines if "request_body" in line] == ["r0", "r1", "r2", "r11"]
    assert len(lines) == 12


async def test_what_waits_for_a_full_disk_is_in_memory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often writing is tried: no try leaves a copy behind."""
    monkeypatch.setattr(writer, "BODIES_BYTES", 4 * 2**20)
    log = make(tmp_path, Counter(), file=Path("/dev/full"), bodies={"enabled": True, "max_bytes": 2**20})
    log.start()
    tracemalloc.start()
    for number in range(60):
        exchange = finished(number)
        exchange.bodies = Bodies(b"x" * 200_000, 2**20)
        log.write(exchange)
        await until(lambda: not log._queue)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await log.close()
    assert peak < 16 * 2**20


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("shown", [True, False])
async def test_the_stream_has_bodies_only_where_asked(tmp_path: Path, form: str, shown: bool) -> None:
    """The file has them; its copy, in either form, where `bodies.stdout` says so; indented for people."""
    read, write = os.pipe()
    log = make(tmp_path, Counter(), copy_to=write, format=form, bodies={"enabled": True, "stdout": shown})
    exchange = finished()
    exchange.bodies = Bodies(b'{"prompt":"ask me"}', 1000)
    exchange.bodies.streamed(b'data: {"choices":[{"text":"two\\nlines\\u001b[2J"}]}\n\n')
    log.start()
    log.write(exchange)
    await log.close()
    [line] = [json.loads(text) for text in (tmp_path / "requests.jsonl").read_bytes().splitlines()]
    assert (line["request_body"], line["response_body"]) == ('{"prompt":"ask me"}', "two\nlines\\x1b[2J")
    copied = os.read(read, 10_000).decode()
    assert ("ask me" in copied) == shown
    if shown and form == "console":
        assert copied.splitlines()[1:] == ['  asked: {"prompt":"ask me"}', "  answered: two", "    lines\\x1b[2J"]
    os.close(read)
    os.close(write)
