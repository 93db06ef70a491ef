"""SQLAlchemy's engine and connections in asyncio, as `sqlalchemy.ext.asyncio` has them, but without the ORM.

That package imports the ORM, which is not used here: 6 MB, and a tenth of a start. What it does else is little: it runs
SQLAlchemy's synchronous code in a greenlet, which asyncio's drivers leave whenever they wait.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple

from sqlalchemy import Connection, CursorResult, Dialect, Engine, ScalarResult
from sqlalchemy.util import greenlet_spawn

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Rows = CursorResult[*tuple[Any, ...]]
_closing: set[asyncio.Task[None]] = set()  # the event loop itself does not keep them


class AsyncConnection:
    """A connection in a transaction; its methods are those of SQLAlchemy's, awaited. Results are there as a whole."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def dialect(self) -> Dialect:
        """Which database it is."""
        return self._connection.dialect

    async def execute(self, statement: Any, parameters: Any = None) -> Rows:
        """Run a statement."""
        return await greenlet_spawn(self._connection.execute, statement, parameters)

    async def scalar(self, statement: Any) -> Any:
        """The first column of a statement's first row; None when there is no row."""
        return await greenlet_spawn(self._connection.scalar, statement)

    async def scalars(self, statement: Any) -> ScalarResult[Any]:
        """The first column of a statement's rows."""
        return await greenlet_spawn(self._connection.scalars, statement)

    async def exec_driver_sql(self, statement: str) -> Rows:
        """Run SQL as it stands."""
        return await greenlet_spawn(self._connection.exec_driver_sql, statement)

    async def run_sync(self, work: Callable[[Connection, *Ts], T], *args: *Ts) -> T:
        """What `work` returns when it is given the synchronous connection."""
        return await greenlet_spawn(work, self._connection, *args)


@asynccontextmanager
async def begun(engine: Engine) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction, which is committed at the end, and rolled back on any exception."""
    connecting = asyncio.create_task(greenlet_spawn(engine.connect))
    try:
        connection = await asyncio.shield(connecting)
    except asyncio.CancelledError:  # aiosqlite would lose what its thread has opened meanwhile
        connecting.add_done_callback(_close)
        raise
    try:
        transaction = await greenlet_spawn(connection.begin)
        try:
            yield AsyncConnection(connection)
        except BaseException:
            await greenlet_spawn(transaction.rollback)
            raise
        await greenlet_spawn(transaction.commit)
    finally:
        # whoever is cancelled here, the connection goes back to the pool
        await asyncio.shield(asyncio.create_task(greenlet_spawn(connection.close)))


def _close(connecting: asyncio.Task[Connection]) -> None:
    """Give back what nobody waits for any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        closing = asyncio.create_task(greenlet_spawn(connecting.result().close))
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)


async def closed(engine: Engine) -> None:
    """Close every connection that nobody uses."""
    await greenlet_spawn(engine.dispose)
