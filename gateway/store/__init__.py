"""SQL: what must survive a restart. The request path never waits for it.

store = await Store.open(config)      # makes and migrates the database as needed
await store.users.find("ada")
await store.close()
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

from aiohttp import web

from gateway.config import Config
from gateway.store.chats import Chats
from gateway.store.database import Database, StoreError
from gateway.store.messages import MessageRows
from gateway.store.migrate import migrate, pending
from gateway.store.rows import IssuedToken, Revocation, RevocationKind, Session, User
from gateway.store.sessions import Sessions
from gateway.store.tokens import Revocations, Tokens
from gateway.store.usage import UsageRows
from gateway.store.users import Users

__all__ = [
    "STORE",
    "IssuedToken",
    "Revocation",
    "RevocationKind",
    "Session",
    "Store",
    "StoreError",
    "User",
    "setup_store",
]


class Store:
    """Typed queries over one database. Every method may raise StoreError: the database is away or broken."""

    def __init__(self, address: str | Path) -> None:
        self.database = Database(address)
        self.users = Users(self.database)
        self.sessions = Sessions(self.database)
        self.tokens = Tokens(self.database)
        self.revocations = Revocations(self.database)
        self.usage = UsageRows(self.database)
        self.chats = Chats(self.database)
        self.messages = MessageRows(self.database)

    @classmethod
    async def open(cls, address: str | Path) -> Self:
        """A store that is ready for use; `address` is an SQLAlchemy URL or the path of a SQLite file."""
        store = cls(address)
        try:
            await store.start()
        except BaseException:
            await store.close()
            raise
        return store

    async def start(self) -> bool:
        """Make the database when there is none and migrate it; say whether anything was migrated."""
        await asyncio.to_thread(self.database.prepare)
        return await migrate(self.database)

    async def pending(self) -> list[str]:
        """Name the migrations that `start` would run; changes nothing."""
        return await pending(self.database)

    async def close(self) -> None:
        """Close every connection."""
        await self.database.close()


STORE: web.AppKey[Store] = web.AppKey("store", Store)


def database_address(config: Config) -> str | Path:
    """Where the configuration puts the database."""
    if config.database.url is not None:
        return config.database.url.get_secret_value()
    return config.state_dir / "gatehouse.db"


def setup_store(app: web.Application, config: Config) -> Store:
    """Give the application its store, opened before it serves and closed after; the same one when called again."""
    if STORE in app:
        return app[STORE]
    store = Store(database_address(config))

    async def lifetime(_: web.Application) -> AsyncIterator[None]:
        await store.start()
        yield
        await store.close()

    app[STORE] = store
    app.cleanup_ctx.append(lifetime)
    return store
