"""A real PostgreSQL from Debian's package for tests: on a Unix socket in a folder of its own, gone at the end.

with running_postgresql() as server:
    server.new_database()          # the URL of an empty one
    server.kill(); server.start()
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.support.needs import missing
from tests.support.stack import until

PASSWORD = "database-passphrase-" + secrets.token_hex(8)


def binaries() -> Path:
    """The folder of initdb and postgres; without one the test is skipped, and fails in CI."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    found = debian[-1] if debian else shutil.which("initdb")
    if found is None:
        missing("PostgreSQL")
    return Path(found).parent


class PostgresqlServer:
    """One server; it can be stopped, killed and started again on the same socket."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, binaries()
        self._names = itertools.count()
        self.process: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to run as root; its package brings a user for it
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:
            postgres = pwd.getpwnam("postgres")
            os.chown(folder, postgres.pw_uid, postgres.pw_gid)
            self._user = {"user": postgres.pw_uid, "group": postgres.pw_gid, "extra_groups": []}
        password = folder / "password"
        password.write_text(PASSWORD)
        shutil.chown(password, self._user.get("user", -1), self._user.get("group", -1))
        argv = [self.bin / "initdb", "-D", folder / "data", "-U", "gatehouse", "--auth=scram-sha-256", "--no-sync"]
        argv += ["--encoding=UTF8", "--locale=C", f"--pwfile={password}"]
        subprocess.run(argv, check=True, capture_output=True, timeout=120, cwd=folder, **self._user)

    def start(self) -> None:
        """Start it and wait until it answers."""
        argv = [self.bin / "postgres", "-D", self.folder / "data", "-k", self.folder, "-F", "-c", "listen_addresses="]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, **self._user
            )
        until(self._answers, "PostgreSQL answers", alive=self.process)

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
            return True
        return False

    def url(self, database: str) -> str:
        """Where a database is, with the password."""
        return f"postgresql://gatehouse:{PASSWORD}@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """Make an empty database; its URL."""
        name = f"test{next(self._names)}"
        self.execute("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, database: str, statement: str) -> list[Any]:
        """One statement on a connection of its own; its rows. `database` is a name or a URL."""
        url = database if "://" in database else self.url(database)
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def pause(self) -> None:
        """SIGSTOP to all its processes: connections are accepted, nothing is answered."""
        self._send_all(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._send_all(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to all its processes."""
        if self.process is not None:
            self._send_all(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End it without waiting for connections."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(60)
            self.process = None

    def _send_all(self, number: int) -> None:
        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        for process in [parent, *parent.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@contextlib.contextmanager
def running_postgresql() -> Iterator[PostgresqlServer]:
    """A server that runs."""
    with tempfile.TemporaryDirectory(prefix="gatehouse-postgresql-", dir="/tmp") as folder:
        server = PostgresqlServer(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """One server for the session."""
    with running_postgresql() as server:
        yield server
