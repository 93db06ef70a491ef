"""The engine behind the store: how SQLite is opened, and transactions that say whether they write.

SQLite facts used here: https://www.sqlite.org/wal.html, https://www.sqlite.org/lang_transaction.html. A transaction
that starts as a reader and then writes may fail with SQLITE_BUSY at once, whatever busy_timeout says; so writers say
BEGIN IMMEDIATE and wait their turn. Python's sqlite3 would begin by itself, too late and never for
DDL: it is told not to.
"""

import fcntl
import logging
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

BUSY_SECONDS = 10
"""How long a writer waits for another one."""


class StoreError(Exception):
    """The database cannot be used now, or not at all. The text carries no parameter and no password."""


class Database:
    """Connections to one database. Nothing is opened before the first use.

    `address` is a SQLAlchemy URL or the path of a SQLite file; the file is made with mode 0600.
    """

    def __init__(self, address: str | Path) -> None:
        url = _url(address)
        self.name: str = url.render_as_string(hide_password=True)
        self._file = Path(str(url.database))
        # hide_parameters: SQLAlchemy would put hashes and names into the text of its errors
        self._engine: AsyncEngine = create_async_engine(
            url, hide_parameters=True, pool_size=4, max_overflow=0, pool_timeout=5
        )
        self._writer = self._engine.execution_options(begin="BEGIN IMMEDIATE")
        logging.getLogger("aiosqlite").setLevel(logging.INFO)  # at DEBUG it logs every parameter, hashes included
        event.listen(self._engine.sync_engine, "connect", _configure)
        event.listen(self._engine.sync_engine, "begin", _begin)

    def prepare(self) -> None:
        """Make the file, private and in WAL mode, when it is not there. Blocks; two starters may do it at once."""
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_file(self._file)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{self._file}: {getattr(error, 'strerror', None) or error}") from None

    @property
    def missing(self) -> bool:
        """Whether the database is not there yet."""
        return not self._file.exists()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads; it sees one moment's state."""
        async with _translated(self.name), self._engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that may write: all of it or nothing of it happens, even if the process is killed."""
        async with _translated(self.name), self._writer.begin() as connection:
            yield connection

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()


def _url(address: str | Path) -> URL:
    if isinstance(address, Path):
        return URL.create("sqlite+aiosqlite", database=str(address))
    try:
        url = make_url(address)
    except ArgumentError:
        raise StoreError("database.url is not an SQLAlchemy URL") from None  # it may hold a password: not repeated
    if url.get_backend_name() != "sqlite":
        raise StoreError(f"database.url: {url.get_backend_name()} is not supported; use sqlite:///PATH or leave it out")
    if not url.database or url.database == ":memory:":
        raise StoreError("database.url: a SQLite database needs a file; sqlite:///PATH")
    return url.set(drivername="sqlite+aiosqlite")


def _make_file(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # the switch to WAL does not wait for others (busy_timeout is not asked), so starters take turns
        fcntl.flock(folder, fcntl.LOCK_EX)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # -wal and -shm inherit the mode
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    finally:
        os.close(folder)


def _configure(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={BUSY_SECONDS * 1000}", "foreign_keys=ON", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


@asynccontextmanager
async def _translated(name: str) -> AsyncIterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise StoreError(f"{name}: {type(error).__name__}: {cause}") from None
