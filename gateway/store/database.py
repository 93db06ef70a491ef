"""The engine behind the store, SQLite or PostgreSQL: transactions that say whether they write, one kind of error."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from gateway.store.connection import AsyncConnection, begun, closed
from gateway.store.postgresql import Postgresql, installed
from gateway.store.sqlite import Sqlite

Kind = Literal["read", "write"]
TRANSACTION_SECONDS = 30.0
"""What a transaction may take altogether; a database that accepts connections and says nothing is away, too."""


class StoreError(Exception):
    """The database cannot be used now, or not at all. The text carries no parameter and no password."""


class Conflict(StoreError):
    """What was to be written contradicts what is there."""


class Database:
    """Connections to one database. Nothing is opened before the first use.

    `address` is a SQLAlchemy URL or the path of a SQLite file.
    """

    def __init__(self, address: str | Path) -> None:
        url = _url(address)
        self.name: str = url.render_as_string(hide_password=True).partition("?")[0]
        self._engine = Sqlite(url) if url.get_backend_name() == "sqlite" else Postgresql(url)
        self.lock_migrations = self._engine.lock_migrations
        self.on_transaction: Callable[[Kind, float, bool], None] = lambda _kind, _seconds, _failed: None
        """Told of each: its seconds, from asking for a connection to the end, and whether the database failed."""

    def prepare(self) -> None:
        """Make the database when that can be done. Blocks; two starters may do it at once."""
        try:
            self._engine.prepare()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{self.name}: {getattr(error, 'strerror', None) or error}") from None

    @property
    def missing(self) -> bool:
        """Whether the database is not there yet."""
        return self._engine.missing

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads; it sees one moment's state."""
        async with self._translated("read"), begun(self._engine.readers) as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that may write: all of it or nothing of it happens, even if the process is killed."""
        async with self._translated("write"), begun(self._engine.writers) as connection:
            yield connection

    async def close(self) -> None:
        """Close every connection."""
        await closed(self._engine.writers)

    @asynccontextmanager
    async def _translated(self, kind: Kind) -> AsyncIterator[None]:
        began, failed = time.monotonic(), True
        try:
            async with asyncio.timeout(TRANSACTION_SECONDS):
                yield
            failed = False
        except IntegrityError as error:
            failed = False
            raise Conflict(f"{self.name}: {_reason(error)}") from None
        except SQLAlchemyError as error:
            raise StoreError(f"{self.name}: {_reason(error)}") from None
        except TimeoutError:
            raise StoreError(f"{self.name}: no answer within {TRANSACTION_SECONDS:g} s") from None
        except BaseException:  # of whom the transaction is for: the database is well
            failed = False
            raise
        finally:
            self.on_transaction(kind, time.monotonic() - began, failed)


def _reason(error: SQLAlchemyError) -> str:
    cause = getattr(error, "orig", None) or error
    # PostgreSQL's errors come with details, which may quote what was to be written
    primary = getattr(getattr(cause, "diag", None), "message_primary", None)
    return f"{type(error).__name__}: {' '.join(str(primary or cause).split())}"


def _url(address: str | Path) -> URL:
    if isinstance(address, Path):
        return URL.create("sqlite+aiosqlite", database=str(address))
    try:
        url = make_url(address)
    except ArgumentError:
        raise StoreError("database.url is not an SQLAlchemy URL") from None  # it may hold a password: not repeated
    match url.get_backend_name():
        case "sqlite":
            if not url.database or url.database == ":memory:":
                raise StoreError("database.url: a SQLite database needs a file; sqlite:///PATH")
            return url.set(drivername="sqlite+aiosqlite")
        case "postgresql" | "postgres":
            if not installed():
                raise StoreError("database.url: PostgreSQL needs a driver; pip install 'vllm-gatehouse[postgresql]'")
            return url
        case other:
            raise StoreError(
                f"database.url: {other} is not supported; use postgresql://…, sqlite:///PATH or leave it out"
            )
