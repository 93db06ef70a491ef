"""Connections of the pool."""

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from gateway.store.connection import begun, closed
from gateway.store.sqlite import Sqlite


async def test_who_is_cancelled_while_a_connection_is_opened_leaves_none_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to the pool when it has come, serves the next, and is closed with the others.

    Dropped it would be closed whenever it is collected; Python 3.13 warns of that.
    """
    connect, opened = sqlite3.connect, []
    asked, go_on = threading.Event(), threading.Event()

    def slowly(*args: Any, **how: Any) -> sqlite3.Connection:
        asked.set()
        go_on.wait()
        opened.append(connect(*args, **how))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", slowly)
    engine = Sqlite(URL.create("sqlite+aiosqlite", database=str(tmp_path / "gatehouse.db"))).readers

    async def use() -> None:
        async with begun(engine) as connection:
            await connection.exec_driver_sql("SELECT 1")

    leaving = asyncio.create_task(use())
    await asyncio.to_thread(asked.wait)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    go_on.set()
    async with asyncio.timeout(60):
        while engine.pool.checkedin() == 0:
            await asyncio.sleep(0.001)
    await use()
    await closed(engine)
    assert len(opened) == 1
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        opened[0].execute("SELECT 1")
