"""Queries on users."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping, delete, func, insert, select, update

from gateway.store import schema
from gateway.store.connection import AsyncConnection
from gateway.store.database import Conflict, Database
from gateway.store.rows import Revocation, RevocationKind, User

_USERS = schema.users


class Users:
    """The users table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, user: User) -> bool:
        """Record a new user; False when the name is taken."""
        try:
            async with self._database.write() as connection:
                await connection.execute(insert(_USERS).values(asdict(user)))
        except Conflict:
            return False
        return True

    async def find(self, name: str) -> User | None:
        """The user of that (normalised) name."""
        async with self._database.read() as connection:
            return await _find(connection, name)

    async def list(self) -> list[User]:
        """Every user, by name."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(_USERS).order_by(_USERS.c.name))
            return [_user(row) for row in rows.mappings()]

    async def change(self, name: str, **values: Any) -> bool:
        """Set columns of a user who may go on as before; False when there is none."""
        async with self._database.write() as connection:
            return await _change(connection, name, values)

    async def set_password(self, name: str, password_hash: str, *, now: float, until: float) -> bool:
        """Replace the password and end every session; False when there is no such user.

        `until` is when the revocation may be forgotten.
        """
        async with self._database.write() as connection:
            if not await _change(connection, name, {"password_hash": password_hash, "password_set_at": now}):
                return False
            await _end_sessions(connection, name, now, until)
            return True

    async def end_sessions(self, name: str, *, now: float, until: float) -> Sequence[str]:
        """End every session of a user; their ids."""
        async with self._database.write() as connection:
            return await _end_sessions(connection, name, now, until)

    async def disable(self, name: str, *, now: float, until: float) -> bool:
        """Shut a user out: no sign-in, no session, no token issued until now; False when there is no such user."""
        async with self._database.write() as connection:
            if not await _change(connection, name, {"disabled_at": now}):
                return False
            await connection.execute(delete(schema.sessions).where(schema.sessions.c.user_name == name))
            # a token that was recorded meanwhile may be younger than `now`
            tokens = schema.issued_tokens
            newest = await connection.scalar(select(func.max(tokens.c.issued_at)).where(tokens.c.subject == name))
            await _revoke(connection, Revocation(RevocationKind.SUBJECT, name, max(now, newest or 0.0), until))
            return True


async def _find(connection: AsyncConnection, name: str) -> User | None:
    row = (await connection.execute(select(_USERS).where(_USERS.c.name == name))).mappings().one_or_none()
    return None if row is None else _user(row)


async def _change(connection: AsyncConnection, name: str, values: dict[str, Any]) -> bool:
    result = await connection.execute(update(_USERS).where(_USERS.c.name == name).values(values))
    return result.rowcount == 1


async def _end_sessions(connection: AsyncConnection, name: str, now: float, until: float) -> Sequence[str]:
    sessions = schema.sessions
    ended = await connection.scalars(delete(sessions).where(sessions.c.user_name == name).returning(sessions.c.id))
    session_ids = ended.all()
    for session_id in session_ids:
        await _revoke(connection, Revocation(RevocationKind.SESSION, session_id, now, until))
    return session_ids


async def _revoke(connection: AsyncConnection, revocation: Revocation) -> None:
    await connection.execute(insert(schema.revocations).values(asdict(revocation)))


def _user(row: RowMapping) -> User:
    return User(**row)
