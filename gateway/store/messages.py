"""Queries on the messages of chats. They are only ever added; an answer is written on while it is being made."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, func, insert, literal, select, update

from gateway.store import schema, search
from gateway.store.chat_rows import Chat, Ending, Hit, Message, NewMessage, Role, Status
from gateway.store.chats import TooMany, chats_where
from gateway.store.connection import AsyncConnection
from gateway.store.database import Database

_CHATS = schema.chats
_MESSAGES = schema.messages
MOST_TITLES = 20  # of a search's first page


class TooManyRunning(Exception):
    """So many answers of this owner are being made already."""


class Messages(NamedTuple):
    """Some messages of a chat in their order; `more`, if there are older ones, leads to them."""

    messages: list[Message]
    more: int | None


class Hits(NamedTuple):
    """What was found; `next`, if there is more, leads to it."""

    hits: list[Hit]
    next: int | None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An answer that is marked as being made."""

    id: str
    worker: str
    saved_at: float


class MessageRows:
    """The messages table, and the search in it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, chat_id: str, *, limit: int, most_characters: int, before: int | None = None, since: int | None = None
    ) -> Messages:
        """The newest messages, older than number `before`, changed after version `since`; at least one of them."""
        query = select(_MESSAGES).where(_MESSAGES.c.chat == chat_id).order_by(_MESSAGES.c.number.desc())
        if before is not None:
            query = query.where(_MESSAGES.c.number < before)
        if since is not None:
            query = query.where(_MESSAGES.c.version > since)
        async with self._database.read() as connection:
            return await connection.run_sync(_page, query, limit, most_characters)

    async def path(self, chat_id: str, message_id: str) -> list[Message]:
        """From the first message to this one; empty when it is none of this chat."""
        steps = (
            select(_MESSAGES.c.number, _MESSAGES.c.parent, literal(0).label("depth"))
            .where(_MESSAGES.c.chat == chat_id, _MESSAGES.c.id == message_id)
            .cte(recursive=True)
        )
        above = select(_MESSAGES.c.number, _MESSAGES.c.parent, steps.c.depth + 1)
        steps = steps.union_all(above.where(_MESSAGES.c.chat == chat_id, _MESSAGES.c.id == steps.c.parent))
        query = select(_MESSAGES).join(steps, steps.c.number == _MESSAGES.c.number).order_by(steps.c.depth.desc())
        async with self._database.read() as connection:
            return [_message(row) for row in (await connection.execute(query)).mappings()]

    async def find(self, owner: str, message_id: str) -> Message | None:
        """A message of one of the owner's chats."""
        query = select(_MESSAGES).join(_CHATS).where(_MESSAGES.c.id == message_id, _CHATS.c.owner == owner)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return None if row is None else _message(row)

    async def get(self, message_id: str) -> Message | None:
        """A message, whoever's it is."""
        query = select(_MESSAGES).where(_MESSAGES.c.id == message_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return None if row is None else _message(row)

    async def sent(self, chat_id: str, client_id: str) -> list[Message]:
        """What was added by the sending of that id: question and answer, the answer alone, or nothing."""
        query = select(_MESSAGES).where(_MESSAGES.c.chat == chat_id, _MESSAGES.c.client_id == client_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            return []
        answer = _message(row)
        path = await self.path(chat_id, answer.id)
        asked = path[-2] if len(path) > 1 else None
        added = asked is not None and asked.role == Role.USER and asked.created_at == answer.created_at
        return [asked, answer] if asked is not None and added else [answer]

    async def add(
        self, owner: str, chat_id: str, new: Sequence[NewMessage], *, title: str, most: int, most_running: int
    ) -> tuple[Chat, list[Message]] | None:
        """Add messages; the last one ends the branch that is shown. A chat without a title gets this one.

        None when there is no such chat; raises TooMany, TooManyRunning, and Conflict when its `client_id` was there
        before.
        """
        async with self._database.write() as connection:
            where = _CHATS.c.id == chat_id, _CHATS.c.owner == owner, _CHATS.c.deleted_at.is_(None)
            touched = (
                update(_CHATS)
                .where(*where)
                .values(version=_CHATS.c.version + 1, head=new[-1].id, updated_at=new[-1].created_at)
            )
            returned = await connection.execute(touched.returning(_CHATS.c.number, _CHATS.c.version, _CHATS.c.title))
            if (changed := returned.one_or_none()) is None:
                return None
            count = select(func.count()).where(_MESSAGES.c.chat == chat_id)
            if (await connection.scalar(count) or 0) + len(new) > most:
                raise TooMany
            if new[-1].status == Status.RUNNING:
                # a member's sendings one after another, on PostgreSQL, too, where writers do not wait for each other
                user = select(schema.users.c.name).where(schema.users.c.name == owner)
                await connection.execute(user.with_for_update(key_share=True))
                if len(await _running(connection, owner)) >= most_running:
                    raise TooManyRunning
            rows = [{**asdict(message), "chat": chat_id, "version": changed.version} for message in new]
            numbers = [
                await connection.scalar(insert(_MESSAGES).values(row).returning(_MESSAGES.c.number)) for row in rows
            ]
            messages = [Message(**row, number=number or 0) for row, number in zip(rows, numbers, strict=True)]
            if not changed.title and title:
                await connection.execute(update(_CHATS).where(_CHATS.c.id == chat_id).values(title=title))
                await connection.run_sync(search.index, -changed.number, owner, title)
            for message in messages:
                if message.status != Status.RUNNING:
                    await connection.run_sync(search.index, message.number, owner, message.content)
            (chat,) = await chats_where(connection, _CHATS.c.id == chat_id)
            return chat, messages

    async def save(self, texts: Iterable[tuple[str, str, str]], now: float) -> None:
        """Write on answers that are being made: id, content, reasoning."""
        statement = (
            update(_MESSAGES)
            .where(_MESSAGES.c.id == bindparam("key"), _MESSAGES.c.status == Status.RUNNING.value)
            .values(content=bindparam("text"), reasoning=bindparam("thought"), saved_at=now)
        )
        rows = [{"key": key, "text": content, "thought": reasoning} for key, content, reasoning in texts]
        async with self._database.write() as connection:
            await connection.execute(statement, rows)

    async def finish(self, message_id: str, ending: Ending) -> Chat | None:
        """Write how an answer ended. Returns its chat, None when it is gone. The answer's maker has the last word."""
        async with self._database.write() as connection:
            return await _finish(connection, message_id, asdict(ending))

    async def unfinished(self) -> list[Unfinished]:
        """The answers that are marked as being made, by whomever."""
        columns = _MESSAGES.c.id, _MESSAGES.c.worker, _MESSAGES.c.saved_at
        query = select(*columns).where(_MESSAGES.c.status == Status.RUNNING.value)
        async with self._database.read() as connection:
            rows = await connection.execute(query)
            return [Unfinished(key, worker or "", saved_at or 0.0) for key, worker, saved_at in rows]

    async def interrupt(
        self, orphan: Unfinished, ended_at: float, error: dict[str, Any], *, content: str, reasoning: str
    ) -> Chat | None:
        """Mark an answer whose maker is gone, unless it was written meanwhile; its chat if it was marked.

        `content` and `reasoning` are what is known of it from elsewhere; the longer text is kept.
        """
        values = {
            "status": Status.INTERRUPTED.value,
            "finish": Status.INTERRUPTED.value,
            "ended_at": ended_at,
            "error": error,
        }
        async with self._database.write() as connection:
            untouched = select(_MESSAGES.c.content, _MESSAGES.c.reasoning).where(
                _MESSAGES.c.id == orphan.id,
                _MESSAGES.c.status == Status.RUNNING.value,
                _MESSAGES.c.saved_at <= orphan.saved_at,
            )
            saved = (await connection.execute(untouched)).one_or_none()
            if saved is None:
                return None
            values["content"] = max(saved.content, content, key=len)
            values["reasoning"] = max(saved.reasoning, reasoning, key=len)
            return await _finish(connection, orphan.id, values)

    async def running(self, owner: str) -> list[tuple[str, str]]:
        """An owner's answers that are being made: message and chat."""
        async with self._database.read() as connection:
            return await _running(connection, owner)

    async def search(self, owner: str, query: search.Query, *, limit: int, before: int | None) -> Hits:
        """Chats by their titles (on the first page), then messages, the newest first; nothing for no words."""
        if not query:
            return Hits([], None)
        async with self._database.read() as connection:
            titles = [] if before is not None else await connection.run_sync(_titles, owner, query)
            rows = await connection.run_sync(_messages_with, owner, query, limit + 1, before)
            messages = [_message(row) for row in rows[:limit]]
            wanted = {*titles, *(message.chat for message in messages)}
            chats = {chat.id: chat for chat in await chats_where(connection, _CHATS.c.id.in_(wanted))}
        hits = [Hit(chats[chat_id], None) for chat_id in titles]
        hits += [Hit(chats[message.chat], message) for message in messages]
        return Hits(hits, messages[-1].number if len(rows) > limit else None)


def _page(connection: Connection, query: Select[Any], limit: int, most_characters: int) -> Messages:
    found: list[Message] = []
    characters = 0
    streamed = query.limit(limit + 1).execution_options(stream_results=True)  # what is too much is not fetched
    with connection.execute(streamed) as rows:
        for row in rows.mappings():
            characters += len(row["content"]) + len(row["reasoning"])
            if len(found) == limit or (found and characters > most_characters):
                return Messages(found[::-1], found[-1].number)
            found.append(_message(row))
    return Messages(found[::-1], None)


def _titles(connection: Connection, owner: str, query: search.Query) -> list[str]:
    found = search.matches(query, owner, _CHATS.c.title, connection.dialect.name)
    joined = select(_CHATS.c.id).join(search.SEARCH, search.SEARCH.c.rowid == -_CHATS.c.number)
    joined = joined.where(found, _CHATS.c.owner == owner, _CHATS.c.deleted_at.is_(None))
    return list(connection.scalars(joined.order_by(_CHATS.c.updated_at.desc()).limit(MOST_TITLES)))


def _messages_with(
    connection: Connection, owner: str, query: search.Query, limit: int, before: int | None
) -> Sequence[Any]:
    found = search.matches(query, owner, _MESSAGES.c.content, connection.dialect.name)
    joined = select(_MESSAGES).join(search.SEARCH, search.SEARCH.c.rowid == _MESSAGES.c.number).join(_CHATS)
    joined = joined.where(found, _CHATS.c.owner == owner, _CHATS.c.deleted_at.is_(None))
    if before is not None:
        joined = joined.where(_MESSAGES.c.number < before)
    return connection.execute(joined.order_by(_MESSAGES.c.number.desc()).limit(limit)).mappings().all()


async def _running(connection: AsyncConnection, owner: str) -> list[tuple[str, str]]:
    query = select(_MESSAGES.c.id, _MESSAGES.c.chat).join(_CHATS)
    query = query.where(_CHATS.c.owner == owner, _MESSAGES.c.status == Status.RUNNING.value)
    return [(key, chat) for key, chat in await connection.execute(query.order_by(_MESSAGES.c.number))]


async def _finish(connection: AsyncConnection, message_id: str, values: dict[str, Any]) -> Chat | None:
    where = select(_MESSAGES.c.chat, _MESSAGES.c.number).where(_MESSAGES.c.id == message_id)
    found = (await connection.execute(where)).one_or_none()
    if found is None:
        return None
    chat_id, number = found
    raised = update(_CHATS).where(_CHATS.c.id == chat_id).values(version=_CHATS.c.version + 1)
    owner, version = (await connection.execute(raised.returning(_CHATS.c.owner, _CHATS.c.version))).one()
    ended = update(_MESSAGES).where(_MESSAGES.c.id == message_id)
    await connection.execute(ended.values(**values, version=version))
    await connection.run_sync(search.index, number, owner, values["content"])
    (chat,) = await chats_where(connection, _CHATS.c.id == chat_id)
    return chat


def _message(row: Any) -> Message:
    return Message(**{**row, "role": Role(row["role"]), "status": Status(row["status"])})
