"""Chats as files: JSON that can be imported again, and Markdown to be read. Pure."""

import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec

from gateway.chat.ids import chat_id, message_id
from gateway.chat.member import decode, parameters
from gateway.chat.settings import ChatSettings
from gateway.chat.shown import ANSWER_FIELDS, LONGEST_TITLE, MESSAGE_FIELDS, fit, one_line
from gateway.errors import BadRequest, GatewayError, TooLarge
from gateway.store.chat_rows import Chat, Message, NewChat, NewMessage, Role, Status

FORMAT, VERSION = "gatehouse-chats", 1

_Time = Annotated[float, msgspec.Meta(ge=0, le=1e11)]
_Figure = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Word = Annotated[str, msgspec.Meta(max_length=256)]


class _FileMessage(msgspec.Struct):
    id: _Id
    role: Literal["user", "assistant"]
    parent: _Id | None = None
    content: str = ""
    reasoning: str = ""
    status: Status = Status.DONE
    finish: _Word | None = None
    continues: bool = False
    model: _Word | None = None
    params: dict[str, Any] | None = None
    usage: dict[_Word, _Count] | None = None
    ttft_ms: _Figure | None = None
    tok_s: _Figure | None = None
    queued_ms: _Figure | None = None
    thought_ms: _Figure | None = None
    created_at: _Time | None = None
    ended_at: _Time | None = None


class _FileChat(msgspec.Struct):
    title: str = ""
    pinned: bool = False
    archived: bool = False
    created_at: _Time | None = None
    updated_at: _Time | None = None
    head: _Id | None = None
    params: dict[str, Any] = {}
    messages: list[_FileMessage] = []


class _File(msgspec.Struct):
    format: Literal["gatehouse-chats"]
    version: Literal[1]
    chats: list[_FileChat]


def chat_as_json(chat: Chat, messages: Iterable[Message]) -> bytes:
    """One chat of the file."""
    names = ("title", "pinned", "archived", "created_at", "updated_at", "head", "params")
    rows = [{name: getattr(message, name) for name in MESSAGE_FIELDS} for message in messages]
    return msgspec.json.encode({**{name: getattr(chat, name) for name in names}, "messages": rows})


def file_of(chats: Iterable[bytes]) -> bytes:
    """The whole file."""
    return beginning() + b",".join(chats) + END


def beginning() -> bytes:
    """What stands before the chats, which are separated by commas; `END` stands after them."""
    head = msgspec.json.encode({"format": FORMAT, "version": VERSION, "exported_at": round(time.time(), 3)})
    return head[:-1] + b',"chats":['


END = b"]}"


def chat_as_markdown(chat: Chat, branch: Sequence[Message]) -> str:
    """One branch, to be read."""
    parts = [f"# {chat.title or 'Chat'}"]
    for message in branch:
        if message.content and message.continues:
            parts[-1] += message.content
        elif message.content:
            parts += [f"## {'You' if message.role is Role.USER else message.model or 'Assistant'}", message.content]
    return "\n\n".join(parts) + "\n"


def read_file(body: bytes, settings: ChatSettings) -> list[NewChat]:
    """The chats of a file, with new ids. BadRequest or TooLarge names what does not fit; nothing is repaired."""
    try:
        file = decode(body, _File)
    except GatewayError as error:
        raise BadRequest(f"This is no file of exported chats: {error.message}", code="invalid_import") from None
    return [_chat(chat, f"chats[{number}]", settings) for number, chat in enumerate(file.chats)]


def _chat(chat: _FileChat, where: str, settings: ChatSettings) -> NewChat:
    if len(chat.messages) > settings.max_messages:
        raise _bad(f"{where} has more than {settings.max_messages} messages")
    now = time.time()
    ids: dict[str, str] = {}
    roles: dict[str, Role] = {}
    messages = []
    for number, message in enumerate(chat.messages):
        here = f"{where}.messages[{number}]"
        if message.id in ids:
            raise _bad(f"{here}.id stands twice")
        if message.parent is not None and message.parent not in ids:
            raise _bad(f"{here}.parent is no message before it")
        ids[message.id] = message_id()
        roles[message.id] = Role(message.role)
        above = roles.get(message.parent or "")
        if message.role == "user" and above is Role.USER:
            raise _bad(f"{here} is a question under a question")
        messages.append(_message(message, ids, here, settings, now))
    created = min(chat.created_at or now, now)
    return NewChat(
        id=chat_id(),
        title=one_line(chat.title)[:LONGEST_TITLE],
        pinned=chat.pinned,
        archived=chat.archived,
        created_at=created,
        updated_at=max(created, min(chat.updated_at or now, now)),
        head=ids.get(chat.head or "") or (messages[-1].id if messages else None),
        params=parameters(chat.params).said(),
        messages=messages,
    )


def _message(message: _FileMessage, ids: dict[str, str], where: str, settings: ChatSettings, now: float) -> NewMessage:
    question = message.role == "user"
    content, reasoning = fit(message.content), "" if question else fit(message.reasoning)
    # an answer may be longer than what a member may send; how long the models' context allows, a few times over
    most = settings.max_message_bytes if question else 8 * settings.max_message_bytes
    if len(content.encode()) + len(reasoning.encode()) > most:
        raise TooLarge(f"{where} has more than {most} bytes.", code="message_too_large")
    running = message.status is Status.RUNNING
    answer = {name: getattr(message, name) for name in ANSWER_FIELDS} if not question else {}
    if answer.get("params") is not None:
        answer["params"] = parameters(message.params).said()
    return NewMessage(
        id=ids[message.id],
        parent=None if message.parent is None else ids[message.parent],
        role=Role(message.role),
        content=content,
        reasoning=reasoning,
        created_at=min(message.created_at or now, now),
        status=Status.DONE if question else Status.INTERRUPTED if running else message.status,
        finish=None if question else message.finish,
        continues=not question and message.continues,
        ended_at=None if question else message.ended_at,
        **answer,
    )


def _bad(message: str) -> BadRequest:
    return BadRequest(f"This file cannot be imported: {message}.", code="invalid_import")
