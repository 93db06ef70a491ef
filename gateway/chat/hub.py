"""Who of a member's tabs is to be told what: changed chats, to each tab, at its own pace."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.chat.shown import shown_chat
from gateway.store.chat_rows import Chat

MOST_PENDING = 200  # changed chats that a tab has not taken; with more it is told to load the list anew


class Mailbox:
    """What one tab has not been told yet: of each chat the last state only, so that it stays small."""

    def __init__(self, owner: str, wake: Callable[[], None]) -> None:
        self.owner = owner
        self._wake = wake
        self._chats: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._all = False

    def put(self, chat: dict[str, Any]) -> None:
        """A chat has changed."""
        self._chats.pop(chat["id"], None)
        self._chats[chat["id"]] = chat
        if len(self._chats) > MOST_PENDING:
            self.put_all()
        self._wake()

    def put_all(self) -> None:
        """Many have changed."""
        self._chats.clear()
        self._all = True
        self._wake()

    def take(self) -> list[bytes]:
        """Frames to be sent now."""
        frames = [msgspec.json.encode({"t": "chats"})] if self._all else []
        frames += [msgspec.json.encode({"t": "chat", "chat": chat}) for chat in self._chats.values()]
        self._chats.clear()
        self._all = False
        return frames


class Hub:
    """The tabs that are connected to this worker, by member."""

    def __init__(self) -> None:
        self._boxes: dict[str, list[Mailbox]] = {}
        self.on_publish: Callable[[str, dict[str, Any] | None], None] = lambda _owner, _chat: None

    def join(self, mailbox: Mailbox) -> list[Mailbox]:
        """From now on it is told; returns the member's mailboxes, oldest first."""
        boxes = self._boxes.setdefault(mailbox.owner, [])
        boxes.append(mailbox)
        return boxes

    def leave(self, mailbox: Mailbox) -> None:
        """It is told nothing more."""
        boxes = self._boxes[mailbox.owner]
        boxes.remove(mailbox)
        if not boxes:
            del self._boxes[mailbox.owner]

    def publish(self, chat: Chat) -> None:
        """Tell the tabs of a chat's owner, here and on other workers, that it has changed."""
        shown = shown_chat(chat)
        self.deliver(chat.owner, shown)
        self.on_publish(chat.owner, shown)

    def publish_all(self, owner: str) -> None:
        """Tell them that many have."""
        self.deliver(owner, None)
        self.on_publish(owner, None)

    def deliver(self, owner: str, chat: dict[str, Any] | None) -> None:
        """Tell the tabs here. None: many."""
        for box in self._boxes.get(owner, ()):
            box.put_all() if chat is None else box.put(chat)
