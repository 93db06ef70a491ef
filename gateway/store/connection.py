"""SQLAlchemy's engine and connections in asyncio, as `sqlalchemy.ext.asyncio` has them, but without the ORM.

That package imports the ORM, which is not used here: 6 MB, and a tenth of a start. What it does else is little: it runs
SQLAlchemy's synchronous code in a greenlet, which asyncio's drivers leave whenever they wait.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, CursorResult, Dialect, Engine, Pool, ScalarResult
from sqlalchemy.util import greenlet_spawn

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Rows = CursorResult[*tuple[Any, ...]]
PENDING_SECONDS = 5
"""How long a database that has gone silent may delay the end."""
_pending: WeakKeyDictionary[Pool, set[asyncio.Task[Any]]] = WeakKeyDictionary()
"""What is done to its end whoever is cancelled meanwhile: aiosqlite's thread knows no other way."""


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
    connecting = _to_its_end(engine, greenlet_spawn(engine.connect))
    try:
        connection = await asyncio.shield(connecting)
    except asyncio.CancelledError:
        _to_its_end(engine, _given_back(connecting))
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
        await asyncio.shield(_to_its_end(engine, greenlet_spawn(connection.close)))


def _to_its_end(engine: Engine, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Work that nobody's cancellation ends; `closed` waits for it."""
    task = asyncio.create_task(work)
    tasks = _pending.setdefault(engine.pool, set())
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


async def _given_back(connecting: asyncio.Task[Connection]) -> None:
    """Return to the pool what nobody waits for any more, if it comes."""
    with suppress(Exception):
        connection = await connecting
        await greenlet_spawn(connection.close)


async def closed(engine: Engine) -> None:
    """Close every connection that nobody uses, also those that are still being opened or given back."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PENDING_SECONDS):
            while tasks := _pending.get(engine.pool):
                await asyncio.wait(tasks)
    await greenlet_spawn(engine.dispose)
