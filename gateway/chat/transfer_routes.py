"""`/api/export`, `/api/import` and `/api/chats/{id}/export`."""

import re
from urllib.parse import quote

from aiohttp import web

from gateway.api import read_json_body
from gateway.auth.bodies import answer
from gateway.chat import transfer
from gateway.chat.chat_routes import too_many_chats
from gateway.chat.hub import Hub
from gateway.chat.member import Members, chats_needed, no_chat
from gateway.chat.shown import shown_chat
from gateway.config import Config
from gateway.context import EXCHANGE
from gateway.errors import BadRequest
from gateway.store import Store
from gateway.store.chat_rows import Chat, Message
from gateway.store.chats import TooMany

PAGE = 500  # messages read at once
PAGE_CHARACTERS = 1 << 22


class TransferRoutes:
    """The handlers."""

    def __init__(self, config: Config, members: Members, store: Store, hub: Hub) -> None:
        self._config = config
        self._members = members
        self._store = store
        self._hub = hub

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_get("/api/chats/{id}/export", self.export)
        app.router.add_get("/api/export", self.export_all)
        app.router.add_post("/api/import", self.take)

    async def export(self, request: web.Request) -> web.Response:
        """One chat as a file."""
        owner = (await self._members.caller(request)).subject
        kind = request.query.get("format", "json")
        if kind not in {"json", "markdown"}:
            raise BadRequest("`format` must be json or markdown.", param="format")
        with chats_needed():
            chat = await self._store.chats.find(owner, request.match_info["id"])
            if chat is None:
                raise no_chat()
            if kind == "json":
                body = transfer.file_of([transfer.chat_as_json(chat, await self._messages(chat))])
            else:
                branch = await self._store.messages.path(chat.id, chat.head) if chat.head else []
                body = transfer.chat_as_markdown(chat, branch).encode()
        suffix, content_type = ("json", "application/json") if kind == "json" else ("md", "text/markdown")
        return web.Response(body=body, headers=_file(chat.title, suffix), content_type=content_type, charset="utf-8")

    async def export_all(self, request: web.Request) -> web.StreamResponse:
        """All chats as one file, sent chat by chat."""
        owner = (await self._members.caller(request)).subject
        with chats_needed():
            ids = await self._store.chats.ids(owner)
        response = web.StreamResponse(headers={**_file("chats", "json"), **request[EXCHANGE].headers})
        response.content_type = "application/json"
        await response.prepare(request)
        await response.write(transfer.beginning())
        between = b""
        for chat_id in ids:
            chat = await self._store.chats.find(owner, chat_id)
            if chat is not None:
                await response.write(between + transfer.chat_as_json(chat, await self._messages(chat)))
                between = b","
        await response.write_eof(transfer.END)
        return response

    async def take(self, request: web.Request) -> web.Response:
        """Chats from a file: 201, all or none."""
        owner = (await self._members.caller(request)).subject
        chats = transfer.read_file(await read_json_body(request, self._config.gateway), self._config.chat)
        most = self._config.chat.max_chats
        with chats_needed():
            try:
                made = await self._store.chats.add_all(owner, chats, most=most)
            except TooMany:
                raise too_many_chats(most) from None
        self._hub.publish_all(owner)
        return answer({"chats": [shown_chat(chat) for chat in made]}, 201)

    async def _messages(self, chat: Chat) -> list[Message]:
        messages: list[Message] = []
        before = None
        while True:
            page = await self._store.messages.page(chat.id, limit=PAGE, most_characters=PAGE_CHARACTERS, before=before)
            messages = [*page.messages, *messages]
            before = page.more
            if before is None:
                return messages


def _file(title: str, suffix: str) -> dict[str, str]:
    """Headers of a file to be saved (RFC 6266): a plain name, and the full one."""
    name = re.sub(r"[^\w. -]+", "_", title)[:80].strip(" .") or "chat"
    plain = re.sub(r"[^A-Za-z0-9_. -]", "_", name)
    disposition = f"attachment; filename=\"{plain}.{suffix}\"; filename*=UTF-8''{quote(name, safe='')}.{suffix}"
    return {"Content-Disposition": disposition, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
