"""The double's chats, messages and runs, kept in memory."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

USAGE = {"prompt_tokens": 12, "completion_tokens": 34}
NUMBERS = {"usage": USAGE, "ttft_ms": 180.2, "tok_s": 51.3, "queued_ms": 0.0, "thought_ms": 900.0}


@dataclass
class Script:
    """What one run says: frames before the first text, then reasoning and content, piece by piece, `pause` s between.

    `hold` keeps the run open after them until it is set; `error` ends it as failed; `forget` leaves no frames behind.
    """

    content: Iterable[str] = ()
    reasoning: Iterable[str] = ()
    before: Iterable[dict[str, Any]] = ({"t": "started"},)
    finish: str = "stop"
    pause: float = 0
    hold: asyncio.Event | None = None
    error: dict[str, Any] | None = None
    stopped: asyncio.Event = field(default_factory=asyncio.Event)


class Run:
    """One run: its frames so far, and whoever waits for more."""

    def __init__(self, message: dict[str, Any], chat: "Chat", script: Script, changed: Callable[[], Any]) -> None:
        self.message, self.chat, self.script = message, chat, script
        self.said: list[dict[str, Any]] = []
        self.forgotten = False
        self._more = asyncio.Condition()
        self._changed = changed
        self._task = asyncio.create_task(self._play())

    def stop(self) -> None:
        """As DELETE does."""
        self.script.stopped.set()

    async def frames(self, after: int) -> AsyncIterator[dict[str, Any]]:
        """All frames after that number, until the last."""
        while True:
            async with self._more:
                while len(self.said) <= after:
                    await self._more.wait()
            for frame in self.said[after:]:
                yield frame
            after = len(self.said)
            if self.said[-1]["t"] == "end":
                return

    async def say(self, **frame: Any) -> None:
        """Add a frame."""
        async with self._more:
            self.said.append({"run": self.message["id"], "seq": len(self.said) + 1, **frame})
            self._more.notify_all()

    async def _play(self) -> None:
        script, message = self.script, self.message
        for frame in script.before:
            await self.say(**frame)
        for kind, name, pieces in (("r", "reasoning", script.reasoning), ("c", "content", script.content)):
            for piece in pieces:
                if script.stopped.is_set():
                    break
                message[name] += piece
                await self.say(t=kind, text=piece)
                await asyncio.sleep(script.pause)
        if script.hold is not None and not script.stopped.is_set():
            waits = [asyncio.create_task(each.wait()) for each in (script.hold, script.stopped)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for each in waits:
                each.cancel()
        status, finish = "done", script.finish
        if script.stopped.is_set():
            status = finish = "stopped"
        elif script.error is not None:
            status, finish = "failed", "error"
            message["error"] = {"request_id": "req-1", "details": None, **script.error}
            await self.say(t="error", retry_after=None, **({"status": 502} | message["error"]))
        message |= {**NUMBERS, "status": status, "finish": finish, "ended_at": time.time()}
        self.chat.row["runs"].remove(message["id"])
        await self._changed()
        await self.say(t="end", finish=finish, status=status, **NUMBERS)


@dataclass
class Chat:
    """A chat and its messages, the oldest first."""

    row: dict[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list)
    sent: dict[str, dict[str, Any]] = field(default_factory=dict)  # client_id → the answer to it

    def add(self, role: str, parent: str | None, **fields: Any) -> dict[str, Any]:
        """Append a message."""
        blank = dict.fromkeys(("finish", "error", "usage", "ttft_ms", "tok_s", "queued_ms", "thought_ms", "ended_at"))
        message = {"id": f"m_{next(_numbers)}", "parent": parent, "role": role, "content": "", "reasoning": ""}
        message |= {"status": "done", "continues": False, "model": "gpt-oss-20b", "params": {}, "version": 0}
        message |= {"created_at": time.time(), **blank, **fields}
        self.messages.append(message)
        self.row["head"] = message["id"]
        self.touch(message)
        return message

    def touch(self, message: dict[str, Any] | None = None) -> None:
        """Count a change."""
        self.row["version"] += 1
        self.row["updated_at"] = time.time()
        if message is not None:
            message["version"] = self.row["version"]


_numbers = itertools.count(1)


class ChatStore:
    """All chats; the handlers for them; `broadcast` tells every tab."""

    def __init__(self, broadcast: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        self.chats: dict[str, Chat] = {}
        self.runs: dict[str, Run] = {}
        self._made: dict[str, Chat] = {}
        self._broadcast = broadcast

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        router = app.router
        router.add_get("/api/chats", self._list)
        router.add_post("/api/chats", self._create)
        router.add_get("/api/chats/{id}", self._read)
        router.add_patch("/api/chats/{id}", self._change)
        router.add_delete("/api/chats/{id}", self._delete)
        router.add_get("/api/search", self._search)

    def new(self, title: str = "", **fields: Any) -> Chat:
        """Add a chat."""
        now = time.time()
        row = {"id": f"c_{next(_numbers)}", "title": title, "pinned": False, "archived": False, "deleted": False}
        row |= {"created_at": now, "updated_at": now, "version": 1, "head": None, "params": {}, "runs": [], **fields}
        chat = self.chats[row["id"]] = Chat(row)
        return chat

    def begin(self, chat: Chat, body: dict[str, Any], script: Script) -> dict[str, Any]:
        """Start a run, as POST …/runs does; returns the answer to it."""
        added = []
        parent = body["parent"]
        if body.get("content") is not None:
            added.append(chat.add("user", parent, content=body["content"]))
            parent = added[-1]["id"]
        before = next((message for message in chat.messages if message["id"] == parent), None)
        continues = before is not None and before["role"] == "assistant"
        answer = chat.add("assistant", parent, status="running", continues=continues, params=body.get("params") or {})
        added.append(answer)
        chat.row["title"] = chat.row["title"] or str(body.get("content", ""))[:40]
        chat.row["runs"].append(answer["id"])

        async def changed() -> None:
            chat.touch(answer)
            await self.tell(chat)

        result = {"run_id": answer["id"], "chat": dict(chat.row), "messages": [dict(each) for each in added]}
        chat.sent[body["client_id"]] = result
        self.runs[answer["id"]] = Run(answer, chat, script, changed)
        asyncio.get_running_loop().create_task(self.tell(chat))  # the run outlives it
        return result

    async def ended(self, count: int) -> None:
        """Wait until so many runs have begun and all have ended."""
        while len(self.runs) < count or any(chat.row["runs"] for chat in self.chats.values()):
            await asyncio.sleep(0.05)

    async def tell(self, chat: Chat) -> None:
        """Send the `chat` frame."""
        await self._broadcast({"t": "chat", "chat": chat.row})

    async def _list(self, _request: web.Request) -> web.Response:
        rows = sorted((c.row for c in self.chats.values() if not c.row["deleted"]), key=lambda row: -row["updated_at"])
        parts = {name: [row for row in rows if row["pinned"] is pinned] for name, pinned in _PARTS}
        return web.json_response({**parts, "next": None})

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        chat = self._made.get(body["client_id"])
        if chat is not None:
            return web.json_response(chat.row)
        chat = self._made[body["client_id"]] = self.new(params=body.get("params", {}))
        return web.json_response(chat.row, status=201)

    async def _read(self, request: web.Request) -> web.Response:
        chat = self._find(request)
        since = int(request.query.get("since", "-1"))
        rows = [message for message in chat.messages if message["version"] > since]
        limit, before = int(request.query.get("limit", "500")), int(request.query.get("before", len(rows)))
        page = rows[max(0, before - limit) : before]
        more = str(before - limit) if before > limit else None
        return web.json_response({"chat": chat.row, "messages": page, "more": more})

    async def _change(self, request: web.Request) -> web.Response:
        chat = self._find(request, deleted=True)
        chat.row |= await request.json()
        chat.touch()
        await self.tell(chat)
        return web.json_response(chat.row)

    async def _delete(self, request: web.Request) -> web.Response:
        chat = self._find(request)
        chat.row["deleted"] = True
        chat.touch()
        await self.tell(chat)
        return web.Response(status=204)

    async def _search(self, request: web.Request) -> web.Response:
        words = request.query["q"].lower().split()
        hits = [
            {"chat": chat.row, "message": message["id"], "role": message["role"], "snippet": message["content"][:200]}
            for chat in self.chats.values()
            for message in chat.messages
            if all(word in message["content"].lower() for word in words)
        ]
        return web.json_response({"hits": hits, "next": None})

    def _find(self, request: web.Request, *, deleted: bool = False) -> Chat:
        chat = self.chats.get(request.match_info["id"])
        if chat is None or (chat.row["deleted"] and not deleted):
            raise web.HTTPNotFound
        return chat


_PARTS = (("pinned", True), ("chats", False))


class Tab:
    """One tab's line: what it follows, each in a task of its own."""

    def __init__(self, socket: web.WebSocketResponse, owner: Any) -> None:
        self._socket, self._owner = socket, owner
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def send(self, frame: dict[str, Any]) -> None:
        """Send a frame, unless the line is silent or closed."""
        if not self._owner.muted and not self._socket.closed:
            await self._socket.send_json(frame)

    def follow(self, asked: dict[str, Any], run: Run | None) -> None:
        """`sub` or `unsub`."""
        task = self._tasks.pop(asked["run"], None)
        if task is not None:
            task.cancel()
        if asked["t"] == "sub":
            self._tasks[asked["run"]] = asyncio.create_task(self._follow(asked, run))

    async def _follow(self, asked: dict[str, Any], run: Run | None) -> None:
        if run is None or run.forgotten:
            return await self.send({"t": "gone", "run": asked["run"], "code": "run_gone"})
        async for frame in run.frames(asked["from"]):
            await self.send(frame)
        return None

    def close(self) -> None:
        """The tab is gone."""
        for task in self._tasks.values():
            task.cancel()
