"""Queries on issued tokens and on revocations."""

from collections.abc import Iterable
from dataclasses import asdict

from sqlalchemy import delete, func, insert, select

from gateway.store import schema
from gateway.store.database import Database
from gateway.store.rows import IssuedToken, Revocation, RevocationKind

_TOKENS = schema.issued_tokens
_REVOCATIONS = schema.revocations


class Tokens:
    """The records of tokens that were issued."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, token: IssuedToken) -> None:
        """Keep the record of a token just issued."""
        async with self._database.write() as connection:
            await connection.execute(insert(_TOKENS).values(asdict(token)))

    async def record_for_user(self, token: IssuedToken) -> bool:
        """The same for a chat user's own token; False, and nothing kept, when the user is disabled or gone."""
        users = schema.users
        # locked, so that a user who is disabled now is seen, or whoever disables sees this token
        enabled = select(users.c.name).where(users.c.name == token.subject, users.c.disabled_at.is_(None))
        async with self._database.write() as connection:
            if (await connection.execute(enabled.with_for_update())).one_or_none() is None:
                return False
            await connection.execute(insert(_TOKENS).values(asdict(token)))
            return True

    async def list(self, subject: str | None = None) -> list[IssuedToken]:
        """Every record, or a subject's, newest first."""
        query = select(_TOKENS).order_by(_TOKENS.c.issued_at.desc(), _TOKENS.c.id)
        if subject is not None:
            query = query.where(_TOKENS.c.subject == subject)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [IssuedToken(**{**row, "scopes": tuple(row["scopes"]), "models": tuple(row["models"])}) for row in rows]

    async def find(self, token_id: str) -> IssuedToken | None:
        """The record of one token."""
        query = select(_TOKENS).where(_TOKENS.c.id == token_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            return None
        return IssuedToken(**{**row, "scopes": tuple(row["scopes"]), "models": tuple(row["models"])})


class Revocations:
    """What is refused although it is properly signed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, revocations: Iterable[Revocation]) -> None:
        """Record revocations; together or not at all."""
        async with self._database.write() as connection:
            for revocation in revocations:
                await connection.execute(insert(_REVOCATIONS).values(asdict(revocation)))

    async def version(self) -> tuple[int, int]:
        """A pair that differs whenever a revocation came: cheap enough to ask every second."""
        # the count too: with several writers a lower id may become visible after a higher one
        query = select(func.coalesce(func.max(_REVOCATIONS.c.id), 0), func.count(_REVOCATIONS.c.id))
        async with self._database.read() as connection:
            newest, count = (await connection.execute(query)).one()
        return newest, count

    async def current(self, now: float) -> list[Revocation]:
        """All that still matter, oldest first."""
        columns = (c for c in _REVOCATIONS.c if c.name != "id")
        query = select(*columns).where(_REVOCATIONS.c.expires_at > now).order_by(_REVOCATIONS.c.id)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [Revocation(**{**row, "kind": RevocationKind(row["kind"])}) for row in rows]

    async def purge(self, now: float) -> int:
        """Forget those that no longer matter; how many they were."""
        async with self._database.write() as connection:
            result = await connection.execute(delete(_REVOCATIONS).where(_REVOCATIONS.c.expires_at <= now))
            return result.rowcount
