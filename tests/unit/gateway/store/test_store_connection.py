"""Connections of the pool."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from gateway.store.connection import begun, closed
from gateway.store.sqlite import Sqlite


class Slow:
    """SQLite whose connections are opened when `go_on` is set."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        connect = sqlite3.connect
        self.asked, self.go_on = threading.Event(), threading.Event()
        self.opened: list[sqlite3.Connection] = []

        def slowly(*args: Any, **how: Any) -> sqlite3.Connection:
            self.asked.set()
            self.go_on.wait()
            self.opened.append(connect(*args, **how))
            return self.opened[-1]

        monkeypatch.setattr(sqlite3, "connect", slowly)
        self.engine = Sqlite(URL.create("sqlite+aiosqlite", database=str(folder / "gatehouse.db"))).readers

    async def use(self) -> None:
        async with begun(self.engine) as connection:
            await connection.exec_driver_sql("SELECT 1")

    async def use_and_leave(self) -> None:
        """Be cancelled while the connection is opened."""
        leaving = asyncio.create_task(self.use())
        await asyncio.to_thread(self.asked.wait)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    slow = Slow(tmp_path, monkeypatch)
    yield slow
    slow.go_on.set()


async def test_who_is_cancelled_while_a_connection_is_opened_leaves_none_behind(slow: Slow) -> None:
    """It goes to the pool when it has come, serves the next, and is closed with the others.

    Dropped it would be closed whenever it is collected; Python 3.13 warns of that.
    """
    await slow.use_and_leave()
    slow.go_on.set()
    async with asyncio.timeout(60):
        while slow.engine.pool.checkedin() == 0:
            await asyncio.sleep(0.001)
    await slow.use()
    await closed(slow.engine)
    (opened,) = slow.opened
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        opened.execute("SELECT 1")


async def test_closing_waits_for_what_is_being_opened(slow: Slow) -> None:
    """aiosqlite's thread would else find the event loop gone, and end with a traceback."""
    await slow.use_and_leave()
    closing = asyncio.create_task(closed(slow.engine))
    done, _ = await asyncio.wait({closing}, timeout=0.1)
    assert not done
    slow.go_on.set()
    await closing
    (opened,) = slow.opened
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        opened.execute("SELECT 1")


async def test_closing_waits_only_so_long(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that has gone silent does not keep the gateway from ending."""
    await slow.use_and_leave()
    with monkeypatch.context() as patch:
        patch.setattr("gateway.store.connection.PENDING_SECONDS", 0.01)
        await closed(slow.engine)
    assert not slow.opened
    slow.go_on.set()
    await closed(slow.engine)
