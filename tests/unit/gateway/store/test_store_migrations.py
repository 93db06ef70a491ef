"""The database comes into being once, whoever starts it, and a killed writer leaves nothing half-done."""

import asyncio
import multiprocessing
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from gateway.config import Config, EngineTarget
from gateway.store import Store, StoreError, database_address
from gateway.store.migrate import MIGRATIONS
from gateway.store.schema import HEAD, metadata
from tests.support.postgresql import PostgresqlServer

ALL = [script.revision for script in ScriptDirectory(MIGRATIONS).walk_revisions()][::-1]


async def test_from_nothing(tmp_path: Path) -> None:
    """A start makes the database: private, in WAL mode, at the newest revision; a second start has nothing to do."""
    path = tmp_path / "state" / "gatehouse.db"
    store = Store(path)
    assert await store.pending() == ALL
    assert not path.exists()
    assert await store.start() is True
    assert await store.pending() == []
    await store.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    again = Store(path)
    assert await again.start() is False
    await again.close()


async def test_side_files_are_private(tmp_path: Path) -> None:
    """SQLite's -wal and -shm files have the database's mode, whatever the umask."""
    before = os.umask(0)
    try:
        store = await Store.open(tmp_path / "gatehouse.db")
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()}
        await store.close()
    finally:
        os.umask(before)
    assert set(modes) >= {"gatehouse.db", "gatehouse.db-wal"}
    assert set(modes.values()) == {0o600}


async def test_migrations_make_the_schema(address: str | Path) -> None:
    """What the migrations make and what the queries expect are the same; HEAD is their newest."""
    store = Store(address)
    assert await store.pending() == ALL
    assert await store.start() is True
    assert await store.pending() == []
    assert await store.start() is False
    # the search's tables are each database's own and have no place in the metadata
    options = {"compare_type": True, "include_name": lambda name, *_: not (name or "").startswith("chat_search")}
    async with store.database.read() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync, opts=options), metadata)
        )
    await store.close()
    assert differences == []
    assert ScriptDirectory(MIGRATIONS).get_heads() == [HEAD]


def test_a_current_database_needs_no_alembic(tmp_path: Path) -> None:
    """Starting on an up-to-date database does not load Alembic, which would cost a third of a start."""
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from gateway.store import Store\n"
        "async def main():\n"
        "    store = await Store.open(Path(sys.argv[1])); await store.close()\n"
        "asyncio.run(main()); print('alembic' in sys.modules)"
    )
    run = [sys.executable, "-c", code, tmp_path / "gatehouse.db"]
    assert [subprocess.check_output(run, text=True).strip() for _ in range(2)] == ["True", "False"]


async def test_a_newer_database_is_refused(address: str | Path) -> None:
    """A database that a newer Gatehouse wrote is left alone, with a message that says so."""
    store = await Store.open(address)
    async with store.database.write() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    await store.close()
    with pytest.raises(StoreError, match=r"9999.*newer"):
        await Store.open(address)


def test_downgrade_is_refused() -> None:
    """Going back is refused in words; nothing is thrown away."""
    script = ScriptDirectory(MIGRATIONS).get_revision(HEAD)
    with pytest.raises(NotImplementedError, match="restore the copy"):
        script.module.downgrade()


def open_once(address: str | Path, barrier: Any, answers: Any) -> None:
    async def work() -> bool:
        store = Store(address)
        barrier.wait(60)
        try:
            return await store.start()
        finally:
            await store.close()

    try:
        answers.put(asyncio.run(work()))
    except StoreError as error:
        answers.put(str(error))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_starters_take_turns(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Of processes that start at once on an empty database one migrates, the others wait, and all succeed."""
    processes = multiprocessing.get_context("fork")
    for round_ in range(3):
        address: str | Path = tmp_path / str(round_) / "gatehouse.db"
        if kind == "postgresql":
            address = request.getfixturevalue("postgresql").new_database()
        barrier, answers = processes.Barrier(3), processes.SimpleQueue()
        starters = [processes.Process(target=open_once, args=(address, barrier, answers)) for _ in range(3)]
        for starter in starters:
            starter.start()
        seen = [answers.get() for _ in starters]
        for starter in starters:
            starter.join(60)
        assert sorted(seen, key=str) == [False, False, True]


WRITER = """
import asyncio, sys
from pathlib import Path
from gateway.store import Revocation, RevocationKind, Store
async def main():
    store = await Store.open(sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1]))
    number = 0
    while True:
        pair = [Revocation(RevocationKind.TOKEN, f"{number}-{half}", 1.0, 2e9) for half in "ab"]
        await store.revocations.add(pair)
        print(number, flush=True)
        number += 1
asyncio.run(main())
"""


async def test_killed_in_mid_write(address: str | Path) -> None:
    """SIGKILL at any moment loses nothing that was confirmed and leaves no half of a transaction."""
    path = address
    for confirmed_at_least in (1, 7, 20):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
        confirmed = []
        for line in writer.stdout:
            confirmed.append(int(line))
            if len(confirmed) == confirmed_at_least:
                writer.send_signal(signal.SIGKILL)
                break
        confirmed += [int(line) for line in writer.stdout if line.endswith("\n")]
        writer.wait(60)
        writer.stdout.close()
        store = await Store.open(path)
        kept = [revocation.target for revocation in await store.revocations.current(0)]
        await store.revocations.purge(3e9)
        await store.close()
        assert len(kept) % 2 == 0
        assert set(kept) >= {f"{number}-{half}" for number in confirmed for half in "ab"}


KILLED_MIGRATION = """
import asyncio, os, signal, sys
from pathlib import Path
from gateway.store import Store
from gateway.store import database
from sqlalchemy import event
async def main():
    store = Store(sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1]))
    steps = 0
    def count(*args):
        nonlocal steps
        steps += args[2].strip().startswith("CREATE")
        if steps == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
    event.listen(store.database._engine.writers, "after_cursor_execute", count)
    await store.start()
asyncio.run(main())
"""


@pytest.mark.parametrize("step", [1, 4, 8])
async def test_killed_in_mid_migration(address: str | Path, step: int) -> None:
    """A process killed between two statements of a migration leaves the schema as it was; the next start succeeds."""
    killed = subprocess.run([sys.executable, "-c", KILLED_MIGRATION, address, str(step)], check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    store = Store(address)
    async with store.database.read() as connection:
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == []
    await store.start()
    assert await store.users.list() == []
    await store.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://user:hunter2@db/x", "mysql is not supported"),
        ("not a url hunter2", "not an SQLAlchemy URL"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
    ],
)
def test_urls_that_cannot_be(url: str, reason: str) -> None:
    """An address that cannot be used is refused in words that do not repeat its password."""
    with pytest.raises(StoreError, match=reason) as refused:
        Store(url)
    assert "hunter2" not in str(refused.value)


def test_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PostgreSQL's driver is not installed, the message names the extra that brings it."""
    monkeypatch.setattr("gateway.store.database.installed", lambda: False)
    with pytest.raises(StoreError, match=r"vllm-gatehouse\[postgresql\]"):
        Store("postgresql://user:hunter2@db/x")


async def test_a_database_that_says_nothing(postgresql: PostgresqlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that takes the connection and never answers is away after the deadline, and back when it is back."""
    store = await Store.open(postgresql.new_database())
    monkeypatch.setattr("gateway.store.database.TRANSACTION_SECONDS", 0.5)
    postgresql.pause()
    try:
        with pytest.raises(StoreError, match="no answer within"):
            await store.users.list()
    finally:
        postgresql.resume()
    monkeypatch.setattr("gateway.store.database.TRANSACTION_SECONDS", 30)
    assert await store.users.list() == []
    await store.close()


async def test_a_url_and_the_default(tmp_path: Path) -> None:
    """`database.url` names a SQLite file; without it the file lies in the state directory."""
    engine = EngineTarget(url="http://127.0.0.1:1")
    assert database_address(Config(state_dir=tmp_path, engine=engine)) == tmp_path / "gatehouse.db"
    url = f"sqlite:///{tmp_path}/other.db"
    named = Config(state_dir=tmp_path, engine=engine, database={"url": url})
    await (await Store.open(database_address(named))).close()
    assert (tmp_path / "other.db").exists()


async def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    """Where no database can be made, or something else lies, the error names the place and the reason."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="File exists"):
        await Store.open(tmp_path / "file" / "gatehouse.db")
    (tmp_path / "gatehouse.db").write_text("this is not a database" * 100)
    with pytest.raises(StoreError, match=r"gatehouse\.db: file is not a database"):
        await Store.open(tmp_path / "gatehouse.db")
