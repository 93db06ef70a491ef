"""Chats and messages as the page sees them (docs/chat-api.md), and texts fit to be kept."""

import re
from typing import Any

from gateway.store.chat_rows import Chat, Message

_UNFIT = re.compile(r"[\x00\ud800-\udfff]")  # PostgreSQL keeps no NUL, UTF-8 has no halves of pairs
LONGEST_TITLE = 200
ANSWER_FIELDS = ("model", "params", "usage", "ttft_ms", "tok_s", "queued_ms", "thought_ms")
MESSAGE_FIELDS = (
    *("id", "parent", "role", "content", "reasoning", "status", "finish", "continues"),
    *ANSWER_FIELDS,
    *("created_at", "ended_at"),
)


def shown_chat(chat: Chat) -> dict[str, Any]:
    """A chat."""
    names = ("id", "title", "pinned", "archived", "created_at", "updated_at", "version", "head", "params", "runs")
    return {**{name: getattr(chat, name) for name in names}, "deleted": chat.deleted_at is not None}


def shown_message(message: Message) -> dict[str, Any]:
    """A message."""
    return {name: getattr(message, name) for name in (*MESSAGE_FIELDS, "version", "error")}


def fit(text: str) -> str:
    """The text, with a replacement character for each that no database keeps."""
    return _UNFIT.sub("\ufffd", text) if _UNFIT.search(text) else text


def one_line(text: str) -> str:
    """The same in one line, as titles and names are."""
    return " ".join(fit(text).split())


def snippet(text: str, words: str, around: int = 60) -> str:
    """The text around the first of the words that stands in it, in one line."""
    folded = text.casefold()
    places = [at for word in words.casefold().split() if (at := folded.find(word)) >= 0]
    at = min(places, default=0)
    begin, end = max(0, at - around), min(len(text), at + 2 * around)
    cut = " ".join(text[begin:end].split())
    return ("…" if begin else "") + cut + ("…" if end < len(text) else "")
