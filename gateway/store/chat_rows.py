"""What the store hands out of chats: plain values, no live database objects. Times are Unix seconds."""

import enum
from dataclasses import dataclass, field
from typing import Any


class Role(enum.StrEnum):
    """Who speaks."""

    USER = "user"
    ASSISTANT = "assistant"


class Status(enum.StrEnum):
    """How an answer stands."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"  # by its reader
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # the gateway that made it is gone


@dataclass(frozen=True, slots=True)
class Chat:
    """One conversation of one user."""

    number: int
    id: str
    owner: str
    title: str
    pinned: bool
    archived: bool
    created_at: float
    updated_at: float
    deleted_at: float | None
    version: int
    head: str | None
    params: dict[str, Any]
    client_id: str | None
    runs: tuple[str, ...] = ()  # the answers that are being made


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message before it stands anywhere; what only answers have is left out of a question."""

    id: str
    parent: str | None
    role: Role
    content: str
    created_at: float
    reasoning: str = ""
    status: Status = Status.DONE
    continues: bool = False
    finish: str | None = None
    error: dict[str, Any] | None = None
    model: str | None = None
    params: dict[str, Any] | None = None
    usage: dict[str, int] | None = None
    ttft_ms: float | None = None
    tok_s: float | None = None
    queued_ms: float | None = None
    thought_ms: float | None = None
    ended_at: float | None = None
    client_id: str | None = None
    worker: str | None = None
    saved_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(NewMessage):
    """A message in its chat."""

    number: int
    chat: str
    version: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended, and what it came to."""

    content: str
    reasoning: str
    status: Status
    finish: str
    ended_at: float
    error: dict[str, Any] | None = None
    usage: dict[str, int] | None = None
    ttft_ms: float | None = None
    tok_s: float | None = None
    queued_ms: float | None = None
    thought_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ChatChange:
    """What is to be changed of a chat; None leaves it as it is."""

    title: str | None = None
    pinned: bool | None = None
    archived: bool | None = None
    head: str | None = None
    params: dict[str, Any] | None = None
    restore: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """A message, or a chat by its title, in which all words stand."""

    chat: Chat
    message: Message | None


@dataclass(frozen=True, slots=True)
class NewChat:
    """A whole chat that comes from elsewhere."""

    id: str
    title: str
    pinned: bool
    archived: bool
    created_at: float
    updated_at: float
    head: str | None
    params: dict[str, Any]
    messages: list[NewMessage] = field(default_factory=list)
