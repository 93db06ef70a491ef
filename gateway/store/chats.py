"""Queries on chats. Each takes the owner: what belongs to somebody else is not there."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, tuple_, update

from gateway.store import schema, search
from gateway.store.chat_rows import Chat, ChatChange, NewChat, Status
from gateway.store.connection import AsyncConnection
from gateway.store.database import Database

_CHATS = schema.chats
_MESSAGES = schema.messages
MOST_PINNED = 200  # are shown; one more is a chat as others
_CHUNK = 100  # rows of a statement, so that other writers get their turn


class TooMany(Exception):
    """There are so many already."""


class Page(NamedTuple):
    """Some of the chats; `next`, if there are more, leads to them."""

    chats: list[Chat]
    next: tuple[float, int] | None


class Chats:
    """The chats table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, owner: str, new: NewChat, *, client_id: str | None, most: int) -> tuple[Chat, bool]:
        """A new chat, or the one that was made with this `client_id`; and whether it is new. Raises TooMany."""
        async with self._database.write() as connection:
            if client_id is not None:
                known = await chats_where(connection, _CHATS.c.owner == owner, _CHATS.c.client_id == client_id)
                if known:
                    return known[0], False
            await _require_room(connection, owner, 1, most)
            return await _insert(connection, owner, new, client_id), True

    async def add_all(self, owner: str, chats: Iterable[NewChat], *, most: int) -> list[Chat]:
        """Chats with their messages: all or none. Raises TooMany."""
        chats = list(chats)
        async with self._database.write() as connection:
            await _require_room(connection, owner, len(chats), most)
            return [await _insert(connection, owner, new, None) for new in chats]

    async def find(self, owner: str, chat_id: str) -> Chat | None:
        """One chat that is not deleted."""
        async with self._database.read() as connection:
            return await one_chat(connection, owner, chat_id)

    async def page(self, owner: str, *, archived: bool, limit: int, after: tuple[float, int] | None) -> Page:
        """The chats that are not pinned, the last written in first."""
        order = tuple_(_CHATS.c.updated_at, _CHATS.c.number)
        conditions = [*_listed(owner, archived=archived), _CHATS.c.pinned.is_(False)]
        if after is not None:
            conditions.append(order < tuple_(*after))
        async with self._database.read() as connection:
            found = await chats_where(connection, *conditions, limit=limit + 1)
        more = len(found) > limit
        found = found[:limit]
        return Page(found, (found[-1].updated_at, found[-1].number) if more else None)

    async def pinned(self, owner: str, *, archived: bool) -> list[Chat]:
        """The pinned ones."""
        async with self._database.read() as connection:
            conditions = (*_listed(owner, archived=archived), _CHATS.c.pinned.is_(True))
            return await chats_where(connection, *conditions, limit=MOST_PINNED)

    async def ids(self, owner: str) -> list[str]:
        """All that are not deleted, oldest first."""
        query = select(_CHATS.c.id).where(_CHATS.c.owner == owner, _CHATS.c.deleted_at.is_(None))
        async with self._database.read() as connection:
            return list(await connection.scalars(query.order_by(_CHATS.c.number)))

    async def change(self, owner: str, chat_id: str, change: ChatChange) -> Chat | None:
        """The chat as changed; None when there is none. A `head` that is no message of it is KeyError."""
        values: dict[str, Any] = {
            name: value
            for name in ("title", "pinned", "archived", "head", "params")
            if (value := getattr(change, name)) is not None
        }
        conditions = [_CHATS.c.owner == owner, _CHATS.c.id == chat_id]
        if change.restore:
            values["deleted_at"] = None
        else:
            conditions.append(_CHATS.c.deleted_at.is_(None))
        async with self._database.write() as connection:
            if change.head is not None and not await _has(connection, chat_id, change.head):
                raise KeyError(change.head)
            touched = update(_CHATS).where(*conditions).values(version=_CHATS.c.version + 1, **values)
            if (await connection.execute(touched)).rowcount == 0:
                return None
            chat = await one_chat(connection, owner, chat_id)
            if chat is not None and change.title is not None:
                await connection.run_sync(search.index, -chat.number, owner, chat.title)
            return chat

    async def delete(self, owner: str, chat_id: str, now: float) -> Chat | None:
        """Put a chat where only `change(restore)` finds it; the chat after that. None when there is none."""
        conditions = _CHATS.c.owner == owner, _CHATS.c.id == chat_id, _CHATS.c.deleted_at.is_(None)
        gone = update(_CHATS).where(*conditions).values(deleted_at=now, version=_CHATS.c.version + 1)
        async with self._database.write() as connection:
            if (await connection.execute(gone)).rowcount == 0:
                return None
            (chat,) = await chats_where(connection, _CHATS.c.id == chat_id)
            return chat

    async def purge(self, deleted_before: float) -> int:
        """Forget some of the chats that were deleted before a time; how many: 0 when there are no more."""
        chosen = select(_CHATS.c.number, _CHATS.c.id).where(_CHATS.c.deleted_at < deleted_before).limit(_CHUNK)
        async with self._database.write() as connection:
            chats = (await connection.execute(chosen)).all()
            ids = [chat_id for _, chat_id in chats]
            messages = await connection.scalars(select(_MESSAGES.c.number).where(_MESSAGES.c.chat.in_(ids)))
            rows = [*messages, *(-number for number, _ in chats)]
            if rows:
                await connection.run_sync(search.forget, *rows)
            await connection.execute(delete(_CHATS).where(_CHATS.c.id.in_(ids)))
            return len(chats)


async def one_chat(connection: AsyncConnection, owner: str, chat_id: str) -> Chat | None:
    """A chat that is not deleted."""
    conditions = _CHATS.c.owner == owner, _CHATS.c.id == chat_id, _CHATS.c.deleted_at.is_(None)
    found = await chats_where(connection, *conditions)
    return found[0] if found else None


async def chats_where(
    connection: AsyncConnection, *conditions: ColumnElement[bool], limit: int | None = None
) -> list[Chat]:
    """Chats with their runs, the last written in first."""
    query = select(_CHATS).where(*conditions).order_by(_CHATS.c.updated_at.desc(), _CHATS.c.number.desc()).limit(limit)
    rows = (await connection.execute(query)).mappings().all()
    runs: dict[str, list[str]] = {row["id"]: [] for row in rows}
    going = select(_MESSAGES.c.chat, _MESSAGES.c.id).where(
        _MESSAGES.c.chat.in_(runs), _MESSAGES.c.status == Status.RUNNING.value
    )
    for chat_id, message_id in await connection.execute(going.order_by(_MESSAGES.c.number)):
        runs[chat_id].append(message_id)
    return [Chat(**row, runs=tuple(runs[row["id"]])) for row in rows]


def _listed(owner: str, *, archived: bool) -> Sequence[ColumnElement[bool]]:
    return _CHATS.c.owner == owner, _CHATS.c.deleted_at.is_(None), _CHATS.c.archived.is_(archived)


async def _require_room(connection: AsyncConnection, owner: str, more: int, most: int) -> None:
    query = select(func.count()).where(_CHATS.c.owner == owner, _CHATS.c.deleted_at.is_(None))
    if (await connection.scalar(query) or 0) + more > most:
        raise TooMany


async def _has(connection: AsyncConnection, chat_id: str, message_id: str) -> bool:
    query = select(_MESSAGES.c.number).where(_MESSAGES.c.chat == chat_id, _MESSAGES.c.id == message_id)
    return await connection.scalar(query) is not None


async def _insert(connection: AsyncConnection, owner: str, new: NewChat, client_id: str | None) -> Chat:
    values = {name: getattr(new, name) for name in new.__slots__ if name != "messages"}
    await connection.execute(insert(_CHATS).values(**values, owner=owner, version=1, client_id=client_id))
    (chat,) = await chats_where(connection, _CHATS.c.id == new.id)

    def with_messages(sync: Connection) -> None:
        if new.title:
            search.index(sync, -chat.number, owner, new.title)
        for message in new.messages:
            row = {name: getattr(message, name) for name in message.__slots__}
            made = insert(_MESSAGES).values(**row, chat=new.id, version=1).returning(_MESSAGES.c.number)
            search.index(sync, sync.scalar(made) or 0, owner, message.content)

    await connection.run_sync(with_messages)
    return chat
