"""Queries on usage: what the record says, summed up by day."""

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from sqlalchemy import Executable, delete, func, select, update

from gateway.store import schema
from gateway.store.database import Database

_USAGE = schema.usage
_POSITIONS = schema.record_positions
KEEP_POSITIONS = 90 * 86_400  # seconds; a file of the record that is older is not read again


class UsageKey(NamedTuple):
    """Whose usage, when, of what. Its fields are the columns that sums can be grouped by."""

    day: str
    subject: str
    team: str
    model: str


@dataclass(slots=True)
class UsageSum:
    """Requests and tokens; cached ones are among the prompt's, reasoning among the completion's."""

    requests: int = 0
    rejected: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


KEYS = UsageKey._fields
FIGURES = tuple(UsageSum.__dataclass_fields__)


class UsageRows:
    """The sums, and how far each file of the record has been read into them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def position(self, file: str) -> int:
        """How many bytes of a file are counted already."""
        query = select(_POSITIONS.c.position).where(_POSITIONS.c.file == file)
        async with self._database.read() as connection:
            return (await connection.execute(query)).scalar() or 0

    async def add(self, file: str, start: int, end: int, sums: Mapping[UsageKey, UsageSum]) -> bool:
        """Add what stands between two positions of a file; False, and nothing happens, if another was faster.

        Position and sums change together or not at all: that is why nothing is counted twice.
        """
        async with self._database.write() as connection:
            begin, add = _statements(connection.dialect.name)
            await connection.execute(begin, {"file": file, "position": 0, "read_at": time.time()})
            query = select(_POSITIONS.c.position).where(_POSITIONS.c.file == file).with_for_update()
            if (await connection.execute(query)).scalar_one() != start:
                return False
            moved = update(_POSITIONS).where(_POSITIONS.c.file == file)
            await connection.execute(moved.values(position=end, read_at=time.time()))
            if sums:
                # in one order everywhere: two who add at once do not wait for each other in a circle
                rows = sorted(sums.items(), key=lambda item: item[0])
                await connection.execute(add, [key._asdict() | asdict(total) for key, total in rows])
        return True

    async def totals(
        self, by: Collection[str], *, since: str | None = None, subject: str | None = None
    ) -> list[dict[str, Any]]:
        """Sums grouped by some of KEYS (none: one sum of all), from the day `since` on, perhaps of one subject."""
        columns = [_USAGE.c[name] for name in KEYS if name in by]
        query = select(*columns, *(func.coalesce(func.sum(_USAGE.c[name]), 0).label(name) for name in FIGURES))
        if columns:
            query = query.group_by(*columns).order_by(*columns)
        if since is not None:
            query = query.where(_USAGE.c.day >= since)
        if subject is not None:
            query = query.where(_USAGE.c.subject == subject)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [{name: int(value) if name in FIGURES else value for name, value in row.items()} for row in rows]

    async def purge(self, now: float) -> int:
        """Forget the positions of files that are long gone; how many they were."""
        async with self._database.write() as connection:
            old = delete(_POSITIONS).where(_POSITIONS.c.read_at < now - KEEP_POSITIONS)
            return (await connection.execute(old)).rowcount


@cache
def _statements(dialect: str) -> tuple[Executable, Executable]:
    """What begins a file and what adds to sums, where such a row may be there. Made once: a hundred objects of the
    second hold each other, and sums are added each second.
    """
    insert: Any = import_module(f"sqlalchemy.dialects.{dialect}").insert  # not both dialects: they load slowly
    row = insert(_USAGE)
    more = {name: _USAGE.c[name] + row.excluded[name] for name in FIGURES}
    return (
        insert(_POSITIONS).on_conflict_do_nothing(),
        row.on_conflict_do_update(index_elements=list(KEYS), set_=more),
    )
