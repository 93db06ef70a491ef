"""Queries on chat sessions."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import RowMapping, bindparam, delete, insert, select, update

from gateway.store import schema
from gateway.store.database import Database
from gateway.store.rows import Revocation, RevocationKind, Session, User

_SESSIONS = schema.sessions
_WITH_USER = select(
    *(column.label(f"session_{column.name}") for column in _SESSIONS.c),
    *(column.label(f"user_{column.name}") for column in schema.users.c),
).join(schema.users)
_CHUNK = 500  # SQLite allows 32,766 parameters a statement; short statements keep other readers moving


class Sessions:
    """The sessions table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, session: Session) -> None:
        """Record a new session."""
        async with self._database.write() as connection:
            await connection.execute(insert(_SESSIONS).values(asdict(session)))

    async def find(self, token_hashes: Iterable[bytes], now: float) -> dict[bytes, tuple[Session, User]]:
        """The sessions of these cookies that have not ended, of users who are not disabled, by cookie hash."""
        hashes = list(token_hashes)
        found: dict[bytes, tuple[Session, User]] = {}
        async with self._database.read() as connection:
            for start in range(0, len(hashes), _CHUNK):
                rows = await connection.execute(
                    _WITH_USER.where(
                        _SESSIONS.c.token_hash.in_(hashes[start : start + _CHUNK]),
                        _SESSIONS.c.ends_at > now,
                        schema.users.c.disabled_at.is_(None),
                    )
                )
                for row in rows.mappings():
                    session = Session(**_part(row, "session_", Session))
                    found[session.token_hash] = (session, User(**_part(row, "user_", User)))
        return found

    async def of_user(self, user_name: str, now: float) -> list[Session]:
        """A user's sessions that have not ended, newest first."""
        query = (
            select(_SESSIONS)
            .where(_SESSIONS.c.user_name == user_name, _SESSIONS.c.ends_at > now)
            .order_by(_SESSIONS.c.seen_at.desc())
        )
        async with self._database.read() as connection:
            return [Session(**row) for row in (await connection.execute(query)).mappings()]

    async def seen(self, times: Mapping[str, float]) -> None:
        """Note when sessions (by id) were last used; never moves the time back."""
        statement = (
            update(_SESSIONS)
            .where(_SESSIONS.c.id == bindparam("key"), _SESSIONS.c.seen_at < bindparam("at"))
            .values(seen_at=bindparam("at"))
        )
        async with self._database.write() as connection:
            await connection.execute(statement, [{"key": key, "at": at} for key, at in times.items()])

    async def end(self, session_id: str, *, now: float, until: float) -> None:
        """End one session, for every worker; `until` is when the revocation may be forgotten."""
        revocation = Revocation(RevocationKind.SESSION, session_id, now, until)
        async with self._database.write() as connection:
            await connection.execute(delete(_SESSIONS).where(_SESSIONS.c.id == session_id))
            await connection.execute(insert(schema.revocations).values(asdict(revocation)))

    async def purge(self, *, now: float, idle_since: float) -> int:
        """Forget sessions that ended or were not used since `idle_since`; how many they were."""
        async with self._database.write() as connection:
            result = await connection.execute(
                delete(_SESSIONS).where((_SESSIONS.c.ends_at <= now) | (_SESSIONS.c.seen_at < idle_since))
            )
            return result.rowcount


def _part(row: RowMapping, prefix: str, kind: type[Session] | type[User]) -> dict[str, Any]:
    return {field.name: row[prefix + field.name] for field in fields(kind)}
