"""How SQLite is opened.

Facts used here: https://www.sqlite.org/wal.html, https://www.sqlite.org/lang_transaction.html. A transaction that
starts as a reader and then writes may fail with SQLITE_BUSY at once, whatever busy_timeout says; so writers say BEGIN
IMMEDIATE and wait their turn. Python's sqlite3 would begin by itself, too late and never for DDL: it is told not to.
"""

import fcntl
import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event

BUSY_SECONDS = 10
"""How long a writer waits for another one."""


class Sqlite:
    """A SQLite file, made with mode 0600."""

    def __init__(self, url: URL) -> None:
        self._file = Path(str(url.database))
        # hide_parameters: SQLAlchemy would put hashes and names into the text of its errors
        self.readers: Engine = create_engine(url, hide_parameters=True, pool_size=4, max_overflow=0, pool_timeout=5)
        self.writers = self.readers.execution_options(begin="BEGIN IMMEDIATE")
        self.lock_migrations: str | None = None  # a writing transaction is the lock
        logging.getLogger("aiosqlite").setLevel(logging.INFO)  # at DEBUG it logs every parameter, hashes included
        event.listen(self.readers, "connect", _configure)
        event.listen(self.readers, "begin", _begin)

    @property
    def missing(self) -> bool:
        """Whether the file is not there yet."""
        return not self._file.exists()

    def prepare(self) -> None:
        """Make the file, private and in WAL mode, when it is not there. Blocks; raises OSError or sqlite3.Error."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(self._file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # the switch to WAL does not wait for others (busy_timeout is not asked), so starters take turns
            fcntl.flock(folder, fcntl.LOCK_EX)
            os.close(os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600))  # -wal and -shm inherit the mode
            with closing(sqlite3.connect(self._file, timeout=BUSY_SECONDS)) as connection:
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
