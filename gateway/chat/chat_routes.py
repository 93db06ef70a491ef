"""`/api/chats` and `/api/search`: the history."""

import re
import time
from typing import Any

import msgspec
from aiohttp import web

from gateway.auth.bodies import answer, nothing
from gateway.chat.hub import Hub
from gateway.chat.ids import chat_id
from gateway.chat.member import Members, chats_needed, check_client_id, cursor, no_chat, number, parameters
from gateway.chat.runs import Runs
from gateway.chat.settings import ChatSettings
from gateway.chat.shown import LONGEST_TITLE, one_line, shown_chat, shown_message, snippet
from gateway.errors import BadRequest, NotFound
from gateway.store import Store
from gateway.store.chat_rows import Chat, ChatChange, NewChat
from gateway.store.chats import TooMany
from gateway.store.search import query_of

MOST_CHARACTERS = 4 * 1024 * 1024  # of a page of messages
LONGEST_QUERY = 200
_CURSOR = re.compile(r"(\d{1,12}(?:\.\d{1,20})?(?:e-\d{1,3})?)_(\d{1,18})", re.ASCII)  # time, row


class ChatForm(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /api/chats."""

    title: str = ""
    params: dict[str, Any] = {}
    client_id: str | None = None


class ChangeForm(msgspec.Struct, forbid_unknown_fields=True):
    """Body of PATCH /api/chats/{id}."""

    title: str | None = None
    pinned: bool | None = None
    archived: bool | None = None
    head: str | None = None
    params: dict[str, Any] | None = None
    deleted: bool | None = None


class ChatRoutes:
    """The handlers."""

    def __init__(self, settings: ChatSettings, members: Members, store: Store, runs: Runs, hub: Hub) -> None:
        self._settings = settings
        self._members = members
        self._store = store
        self._runs = runs
        self._hub = hub

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_get("/api/chats", self.page)
        app.router.add_post("/api/chats", self.make)
        app.router.add_get("/api/chats/{id}", self.read)
        app.router.add_patch("/api/chats/{id}", self.change)
        app.router.add_delete("/api/chats/{id}", self.delete)
        app.router.add_get("/api/search", self.search)

    async def page(self, request: web.Request) -> web.Response:
        """A page of the member's chats; the pinned ones on the first."""
        owner = (await self._members.caller(request)).subject
        archived = request.query.get("archived") == "true"
        after = _after(request)
        with chats_needed():
            pinned = [] if after is not None else await self._store.chats.pinned(owner, archived=archived)
            limit = number(request, "limit", 50, 200)
            page = await self._store.chats.page(owner, archived=archived, limit=limit, after=after)
        following = None if page.next is None else f"{page.next[0]!r}_{page.next[1]}"
        shown = {"pinned": [*map(shown_chat, pinned)], "chats": [*map(shown_chat, page.chats)], "next": following}
        return answer(shown)

    async def make(self, request: web.Request) -> web.Response:
        """A new chat: 201, or 200 with the one that was made with this `client_id`."""
        owner = (await self._members.caller(request)).subject
        form = await self._members.read(request, ChatForm)
        check_client_id(form.client_id)
        title = title_fit(form.title) if form.title else ""
        params = parameters(form.params).said()
        now, most = time.time(), self._settings.max_chats
        new = NewChat(chat_id(), title, False, False, now, now, None, params)
        with chats_needed():
            try:
                chat, is_new = await self._store.chats.add(owner, new, client_id=form.client_id, most=most)
            except TooMany:
                raise too_many_chats(most) from None
        if is_new:
            self._hub.publish(chat)
        return answer(shown_chat(chat), 201 if is_new else 200)

    async def read(self, request: web.Request) -> web.Response:
        """A chat with its newest messages, or those older than `before`, or those changed after version `since`."""
        owner = (await self._members.caller(request)).subject
        with chats_needed():
            chat = await self._chat(owner, request)
            page = await self._store.messages.page(
                chat.id,
                limit=number(request, "limit", 500, 1000),
                most_characters=MOST_CHARACTERS,
                before=cursor(request, "before"),
                since=cursor(request, "since"),
            )
        shown = [shown_message(message) for message in page.messages]
        return answer({"chat": shown_chat(chat), "messages": shown, "more": page.more and str(page.more)})

    async def change(self, request: web.Request) -> web.Response:
        """Rename, pin, archive, choose the branch or the parameters, or bring back: the chat after that."""
        owner = (await self._members.caller(request)).subject
        form = await self._members.read(request, ChangeForm)
        if form.deleted:
            raise BadRequest("To delete a chat, send DELETE.", param="deleted")
        change = ChatChange(
            title=None if form.title is None else title_fit(form.title),
            pinned=form.pinned,
            archived=form.archived,
            head=form.head,
            params=None if form.params is None else parameters(form.params).said(),
            restore=form.deleted is False,
        )
        with chats_needed():
            try:
                chat = await self._store.chats.change(owner, request.match_info["id"], change)
            except KeyError:
                raise NotFound("There is no such message in this chat.", code="message_not_found") from None
        if chat is None:
            raise no_chat()
        self._hub.publish(chat)
        return answer(shown_chat(chat))

    async def delete(self, request: web.Request) -> web.Response:
        """Delete a chat and end its runs: 204."""
        owner = (await self._members.caller(request)).subject
        with chats_needed():
            chat = await self._store.chats.delete(owner, request.match_info["id"], time.time())
        if chat is None:
            raise no_chat()
        for run_id in chat.runs:
            await self._runs.stop(run_id)
        self._hub.publish(chat)
        return nothing()

    async def search(self, request: web.Request) -> web.Response:
        """Chats and messages in which all words of `q` stand."""
        owner = (await self._members.caller(request)).subject
        words = request.query.get("q", "")
        if len(words) > LONGEST_QUERY:
            raise BadRequest(f"`q` has at most {LONGEST_QUERY} characters.", param="q")
        limit, before = number(request, "limit", 20, 50), cursor(request, "cursor")
        with chats_needed():
            found = await self._store.messages.search(owner, query_of(words), limit=limit, before=before)
        hits = [
            {
                "chat": shown_chat(hit.chat),
                "message": hit.message.id if hit.message else None,
                "role": hit.message.role if hit.message else None,
                "snippet": snippet(hit.message.content if hit.message else hit.chat.title, words),
                "at": hit.message.created_at if hit.message else hit.chat.updated_at,
            }
            for hit in found.hits
        ]
        return answer({"hits": hits, "next": found.next and str(found.next)})

    async def _chat(self, owner: str, request: web.Request) -> Chat:
        chat = await self._store.chats.find(owner, request.match_info["id"])
        if chat is None:
            raise no_chat()
        return chat


def title_fit(title: str) -> str:
    """A title in one line; BadRequest when there is nothing left of it, or too much."""
    title = one_line(title)
    if not 1 <= len(title) <= LONGEST_TITLE:
        raise BadRequest(f"A title has 1 to {LONGEST_TITLE} characters.", param="title")
    return title


def too_many_chats(most: int) -> BadRequest:
    """The error of a member who has as many as one may have."""
    return BadRequest(f"You have {most} chats; delete some first.", code="too_many_chats")


def _after(request: web.Request) -> tuple[float, int] | None:
    text = request.query.get("cursor")
    if text is None:
        return None
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise BadRequest("`cursor` must be what an earlier answer named.", param="cursor")
    return float(found[1]), int(found[2])
