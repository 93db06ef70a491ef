"""Usage from the record: real files, real databases (SQLite and PostgreSQL), killed readers, rotation, damage."""

import asyncio
import datetime as dt
import gc
import json
import random
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway.logs.file import LogFile
from gateway.store import Store
from gateway.store.usage import FIGURES, UsageKey, UsageSum
from gateway.usage_book import UsageBook, sums
from tests.support.postgresql import PostgresqlServer
from tests.unit.gateway.store.conftest import address, postgresql

__all__ = ["address", "postgresql"]


@pytest.fixture
async def store(address: str | Path):
    store = await Store.open(address)
    yield store
    await store.close()


def line(number: int, subject: str = "alice", **fields: object) -> bytes:
    usual = {
        "ts": f"2026-11-{1 + number % 20:02}T12:00:00.{number % 1000:03}Z", "request_id": f"r{number}",
        "subject": subject, "team": None, "model": "m", "outcome": "complete",
        "prompt_tokens": 10, "cached_tokens": 1, "completion_tokens": 5, "reasoning_tokens": 2,
    }  # fmt: skip
    return json.dumps({**usual, **fields}).encode() + b"\n"


def book(store: Store, tmp_path: Path) -> UsageBook:
    return UsageBook(store, tmp_path / "requests.jsonl", 5, "UTC")


async def total(store: Store) -> dict[str, int]:
    (row,) = await store.usage.totals(())
    return row


async def test_every_line_counts_once_however_often_it_is_read(store: Store, tmp_path: Path) -> None:
    """Reading again, by the same reader or a new one, adds only what is new; a half line waits for its end."""
    record = tmp_path / "requests.jsonl"
    one = book(store, tmp_path)
    await one.catch_up()
    assert (await total(store))["requests"] == 0
    for count in range(1, 4):
        with record.open("ab") as file:
            file.write(line(count) + line(99)[:30])
        for reader in (one, book(store, tmp_path)):
            await reader.catch_up()
        assert await total(store) == {
            "requests": count, "rejected": 0, "prompt_tokens": 10 * count, "cached_tokens": count,
            "completion_tokens": 5 * count, "reasoning_tokens": 2 * count,
        }  # fmt: skip
        with record.open("r+b") as file:
            file.truncate(record.stat().st_size - 30)


async def test_rotation_loses_nothing(store: Store, tmp_path: Path) -> None:
    """Rotated by us, moved by logrotate, deleted after it was counted: each line counts once."""
    record = tmp_path / "requests.jsonl"
    one = book(store, tmp_path)
    log = LogFile(record, max_bytes=3000, keep=5)
    for number in range(90):
        assert log.append([line(number)]) == (1, None)
        if number % 11 == 0:
            await one.catch_up()
    log.close()
    await one.catch_up()
    assert (tmp_path / "requests.jsonl.4").exists()
    assert (await total(store))["requests"] == 90
    shutil.move(record, tmp_path / "requests.jsonl.1")
    record.write_bytes(line(500))
    await one.catch_up()
    await book(store, tmp_path).catch_up()
    assert (await total(store))["requests"] == 91


async def test_a_file_that_is_rotated_while_it_is_opened_is_not_taken_for_the_other(
    store: Store, tmp_path: Path
) -> None:
    """What was asked for under one first line is not read from a file that has another."""
    record = tmp_path / "requests.jsonl"
    record.write_bytes(line(1))
    one = book(store, tmp_path)
    assert one._read(record, "the name of the file that was here before", 0) is None
    await one.catch_up()
    assert (await total(store))["requests"] == 1


async def test_many_readers_at_once_count_once(store: Store, tmp_path: Path) -> None:
    """Four workers read the same record while it grows: the sums are exact."""
    record = tmp_path / "requests.jsonl"
    readers = [book(store, tmp_path) for _ in range(4)]
    for start in range(0, 400, 100):
        with record.open("ab") as file:
            file.writelines(line(number) for number in range(start, start + 100))
        await asyncio.gather(*(reader.catch_up() for reader in readers))
    assert (await total(store))["requests"] == 400


async def test_sums_are_added_without_leaving_anything_to_the_garbage_collector(store: Store) -> None:
    """The statement, whose parts hold each other, is made once, not each second."""

    async def add(start: int) -> None:
        assert await store.usage.add("file", start, start + 1, {UsageKey("day", "alice", "", "m"): UsageSum(1)})

    await add(0)
    gc.collect()
    gc.disable()
    try:
        await add(1)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = Counter(type(each).__name__ for each in gc.garbage if type(each).__module__.startswith("sqlalchemy"))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left
    assert (await total(store))["requests"] == 2


async def test_a_batch_is_never_in_memory_as_a_whole(store: Store, tmp_path: Path) -> None:
    """Any of several threads may read it, and each would keep that memory: they read line by line."""
    record = tmp_path / "requests.jsonl"
    record.write_bytes(b"".join(line(number) for number in range(5000)))
    one = book(store, tmp_path)
    await one.catch_up()
    assert (await total(store))["requests"] == 5000
    with record.open("ab") as file:
        file.writelines(line(number) for number in range(5000))
    tracemalloc.start()
    await one.catch_up()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (await total(store))["requests"] == 10_000
    assert peak < record.stat().st_size / 4


async def test_empty_lines_count_nothing_and_are_no_damage(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever edits the record may leave some."""
    (tmp_path / "requests.jsonl").write_bytes(line(1) + b"\n \r\n" + line(2))
    await book(store, tmp_path).catch_up()
    assert (await total(store))["requests"] == 2
    assert "damaged" not in caplog.text


READER = """
import asyncio, sys
from pathlib import Path
from gateway import usage_book
from gateway.store import Store
usage_book.BATCH_BYTES = 4096
async def main(folder):
    store = await Store.open(sys.argv[2])
    book = usage_book.UsageBook(store, folder / "requests.jsonl", 5, "UTC")
    print("reading", flush=True)
    while True:
        await book.catch_up()
        await asyncio.sleep(0.001)
asyncio.run(main(Path(sys.argv[1])))
"""


async def test_a_reader_that_is_killed_has_counted_all_or_nothing_of_a_batch(
    store: Store, address: str | Path, tmp_path: Path
) -> None:
    """SIGKILL at random moments while reading: whoever reads on brings the sums to exactly what the record says."""
    record = tmp_path / "requests.jsonl"
    written = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", READER, str(tmp_path), str(address)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        with record.open("ab") as file:
            for _ in range(random.randrange(200, 600)):
                file.write(line(written))
                written += 1
        await asyncio.sleep(random.uniform(0, 0.1))
        process.kill()
        process.wait()
        process.stdout.close()
    await book(store, tmp_path).catch_up()
    assert (await total(store))["requests"] == written


async def test_sums_by_every_key(store: Store, tmp_path: Path) -> None:
    """By subject, team, model and day: the sums of a random record."""
    random.seed(5)
    lines, expected = [], {key: Counter() for key in ("day", "subject", "team", "model")}
    for number in range(500):
        who, team = random.choice([("alice", "red"), ("bob", "blue"), ("carol", None)])
        model, tokens = random.choice(["m", "n"]), random.randrange(1000)
        lines.append(line(number, who, team=team, model=model, completion_tokens=tokens))
        day = f"2026-11-{1 + number % 20:02}"
        for key, value in (("day", day), ("subject", who), ("team", team or ""), ("model", model)):
            expected[key][value] += tokens
    (tmp_path / "requests.jsonl").write_bytes(b"".join(lines))
    await book(store, tmp_path).catch_up()
    for key, values in expected.items():
        assert {row[key]: row["completion_tokens"] for row in await store.usage.totals((key,))} == values
    both = await store.usage.totals(("subject", "model"), since="2026-11-11", subject="bob")
    assert [(row["subject"], row["model"]) for row in both] == [("bob", "m"), ("bob", "n")]
    assert sum(row["requests"] for row in both) < 250


async def test_a_database_that_is_away_costs_no_line(
    postgresql: PostgresqlServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While nobody may connect nothing is counted, one warning is logged, and afterwards all of it is there."""
    address = postgresql.new_database()
    store = await Store.open(address)
    (tmp_path / "requests.jsonl").write_bytes(line(1))
    one = book(store, tmp_path)
    name = address.partition("@/")[2].partition("?")[0]
    postgresql.execute("postgres", f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await store.database.close()
    for _ in range(3):
        await one.catch_up_or_say_why()
    assert caplog.text.count("usage cannot be counted now") == 1
    postgresql.execute("postgres", f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await one.catch_up_or_say_why()
    assert "counted again" in caplog.text
    assert (await total(store))["requests"] == 1
    await store.close()


async def test_a_full_disk_under_the_database_costs_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SQLite says that the disk is full: nothing of the batch is counted; with room again all of it is, once."""
    store = await Store.open(tmp_path / "gatehouse.db")
    (tmp_path / "requests.jsonl").write_bytes(b"".join(line(number, f"s{number}") for number in range(600)))
    one = book(store, tmp_path)
    async with store.database.write() as connection:
        await connection.exec_driver_sql("PRAGMA max_page_count = 1")  # no smaller than it is: no page more
    await one.catch_up_or_say_why()
    assert "full" in caplog.text
    assert (await total(store))["requests"] == 0
    async with store.database.write() as connection:
        await connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    await one.catch_up_or_say_why()
    assert (await total(store))["requests"] == 600
    await store.close()


def test_what_counts_and_on_which_day() -> None:
    """Refusals are counted apart; requests of nobody, of no model, and damaged lines count nothing; days are local."""
    shanghai = ZoneInfo("Asia/Shanghai")
    found = sums(
        [
            line(0, ts="2026-11-21T16:00:00.000Z"), line(0, ts="2026-11-21T15:59:59.999Z"),
            line(0, ts="2026-11-21T16:00:00.000Z", outcome="rejected", prompt_tokens=0, completion_tokens=0),
            line(0, subject=None), line(0, model=None), b"", b"{", b"[]", line(0, ts="yesterday"),
        ],
        shanghai,
    )  # fmt: skip
    assert {key.day: (one.requests, one.rejected) for key, one in found.items()} == {
        "2026-11-22": (1, 1),
        "2026-11-21": (1, 0),
    }
    assert sums([], dt.UTC) == {}
    assert UsageKey("d", "s", "", "m") != UsageKey("d", "s", "t", "m")
    assert len(FIGURES) == 6


async def test_old_positions_are_forgotten(store: Store, tmp_path: Path) -> None:
    """A file that was read long ago leaves nothing behind but its sums."""
    (tmp_path / "requests.jsonl").write_bytes(line(1))
    await book(store, tmp_path).catch_up()
    now = dt.datetime.now(dt.UTC).timestamp()
    assert await store.usage.purge(now) == 0
    assert await store.usage.purge(now + 91 * 86_400) == 1
    assert (await total(store))["requests"] == 1
