"""Bring the schema up to date. Alembic is loaded only when there is something to do: it takes longer than the rest.

Everything happens in one writing transaction under a lock (SQLite: the transaction itself; PostgreSQL: an advisory
one): a second starter waits, then finds nothing to do, and a process killed half-way leaves the old schema. Source: https://alembic.sqlalchemy.org/en/latest/cookbook.html
"""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from gateway.store.database import Database, StoreError
from gateway.store.schema import HEAD

MIGRATIONS = Path(__file__).with_name("migrations")


async def migrate(database: Database) -> bool:
    """Run what is pending; say whether there was anything. StoreError when a newer Gatehouse wrote the database."""
    async with database.read() as connection:
        if await connection.run_sync(_revision) == HEAD:
            return False
    async with database.write() as connection:
        if database.lock_migrations is not None:
            await connection.exec_driver_sql(database.lock_migrations)
        return await connection.run_sync(_upgrade)


async def pending(database: Database) -> list[str]:
    """Name the migrations that a start would run, oldest first; changes nothing. Empty: up to date."""
    current = None
    if not database.missing:
        async with database.read() as connection:
            current = await connection.run_sync(_revision)
    return [] if current == HEAD else _newer_than(current)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _upgrade(connection: Connection) -> bool:
    current = _revision(connection)
    if current == HEAD:  # another starter was faster
        return False
    _newer_than(current)
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return True


def _newer_than(current: str | None) -> list[str]:
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - see above

    known = [script.revision for script in ScriptDirectory(MIGRATIONS).walk_revisions()][::-1]
    if current is None:
        return known
    if current not in known:
        raise StoreError(
            f"the database is at revision {current}, which this Gatehouse does not know: it was written by a newer one"
        )
    return known[known.index(current) + 1 :]
