"""A member of the team with a browser's manners, for tests of the chat.

ada = await member(gate, "ada")             # of a gateway with auth=OVER_HTTP
chat = await ada.made()
run = await ada.asked(chat, "hello")
frames = await ada.frames(run)              # to the end, by server-sent events
async with ada.tab() as tab:                # the WebSocket
    await tab.sub(run); await tab.until("end")
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp

from gateway.auth.passwords import Passwords
from gateway.auth.throttle import Throttle
from gateway.auth.users import Users
from gateway.config import AuthSettings
from gateway.store import Store, database_address
from tests.support.gateways import DEADLINE, RunningGateway

PASSWORD = "correct horse battery staple"
OWN_PAGE = {"Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}
OVER_HTTP = {"cookie_over_http": True}
"""What `auth` needs for these members."""


class Answer:
    """What came back."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error's code."""
        return self.json["error"]["code"]


class Tab:
    """One connected tab. Everything that came is in `seen`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []
        self.raw: dict[str, list[str]] = {}  # run → its frames as they came

    async def sub(self, run: str, after: int = 0) -> None:
        """Follow a run."""
        await self.socket.send_json({"t": "sub", "run": run, "from": after})

    async def next(self) -> dict[str, Any]:
        """The next frame; ConnectionError when the gateway has closed."""
        message = await self.socket.receive(timeout=DEADLINE)
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise ConnectionError(f"{message.type!r} {self.socket.close_code}")
        frame = json.loads(message.data)
        self.seen.append(frame)
        if "seq" in frame:
            self.raw.setdefault(frame["run"], []).append(message.data)
        return frame

    async def until(self, t: str, **fields: Any) -> dict[str, Any]:
        """Wait for a frame."""
        async with asyncio.timeout(DEADLINE):
            while True:
                frame = await self.next()
                if frame["t"] == t and fields.items() <= frame.items():
                    return frame

    async def closed(self) -> int:
        """Wait until the gateway closes; the code."""
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(ConnectionError):
                while True:
                    await self.next()
        return self.socket.close_code or 0


class Member:
    """Somebody who is signed in."""

    def __init__(self, url: str, http: aiohttp.ClientSession, name: str, cookie: str) -> None:
        self.url, self.http, self.name, self.cookie = url, http, name, cookie

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A request as the page sends it."""
        fields = {"Cookie": self.cookie, **OWN_PAGE, **headers}
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        async with self.http.request(method, self.url + path, data=data, headers=fields) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        """The same, which must succeed; its JSON."""
        answer = await self.call(method, path, body)
        assert answer.status < 300, (method, path, answer.status, answer.body)
        return answer.json if answer.body else None

    async def made(self, **fields: Any) -> str:
        """A new chat's id."""
        return (await self.ok("POST", "/api/chats", fields))["id"]

    async def run(self, chat: str, **fields: Any) -> dict[str, Any]:
        """Begin a run."""
        return await self.ok("POST", f"/api/chats/{chat}/runs", fields)

    async def asked(self, chat: str, content: str = "hello", parent: str | None = None, **fields: Any) -> str:
        """Ask a question; the run's id."""
        return (await self.run(chat, content=content, parent=parent, **fields))["run_id"]

    async def answered(
        self, chat: str, content: str = "hello", parent: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Ask, and wait for the end; the answer's message."""
        run = await self.asked(chat, content, parent, **fields)
        await self.frames(run)
        return await self.message(chat, run)

    async def message(self, chat: str, message_id: str) -> dict[str, Any]:
        """A message as the history has it."""
        (found,) = [each for each in await self.messages(chat) if each["id"] == message_id]
        return found

    async def messages(self, chat: str) -> list[dict[str, Any]]:
        """A chat's messages."""
        return (await self.ok("GET", f"/api/chats/{chat}"))["messages"]

    async def frames(
        self, run: str, after: int = 0, until: Callable[[dict[str, Any]], bool] | None = None
    ) -> list[Any]:
        """A run's frames by server-sent events, to its end or to the first that satisfies `until`."""
        return [json.loads(frame) for frame in await self.raw_frames(run, after, until)]

    async def raw_frames(
        self, run: str, after: int = 0, until: Callable[[dict[str, Any]], bool] | None = None
    ) -> list[str]:
        """The same, as they came."""
        found = []
        path = f"{self.url}/api/runs/{run}/events?from={after}"
        async with asyncio.timeout(DEADLINE), self.http.get(path, headers={"Cookie": self.cookie}) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                if line.startswith(b"data: ") and b'"seq"' in line:
                    found.append(line[6:-1].decode())
                    if until is not None and until(json.loads(found[-1])):
                        break
        return found

    @contextlib.asynccontextmanager
    async def tab(self, **headers: str) -> AsyncIterator[Tab]:
        """A connected tab, greeted."""
        fields = {"Cookie": self.cookie, "Origin": self.url, **headers}
        async with self.http.ws_connect(f"{self.url}/api/ws", headers=fields, max_msg_size=0) as socket:
            tab = Tab(socket)
            assert (await tab.next())["t"] == "hello"
            yield tab


async def add_user(
    address: str | Path,
    name: str,
    *,
    display_name: str | None = None,
    plan: str = "member",
    team: str | None = None,
    **fields: Any,
) -> None:
    """A user who can sign in; `fields` are columns besides."""
    store, passwords = Store(address), Passwords()
    try:
        users = Users(store, AuthSettings(), passwords, Throttle())
        await users.add(name, PASSWORD, display_name=display_name, team=team, plan=plan)
        if fields:
            await store.users.change(name, **fields)
    finally:
        passwords.close()
        await store.close()


async def sign_in(url: str, http: aiohttp.ClientSession, name: str) -> Member:
    """Sign in somebody who is there."""
    body = {"username": name, "password": PASSWORD}
    async with http.post(url + "/auth/login", json=body, headers=OWN_PAGE) as answer:
        assert answer.status == 200, await answer.text()
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
    return Member(url, http, name, cookie)


async def member(gate: RunningGateway, name: str = "ada", **fields: Any) -> Member:
    """A new user of a gateway, signed in."""
    await add_user(database_address(gate.config), name, **fields)
    return await sign_in(gate.url, gate.http, name)


def text_of(frames: list[dict[str, Any]], kind: str = "c") -> str:
    """What the frames of one kind say together."""
    return "".join(frame["text"] for frame in frames if frame["t"] == kind)
