"""A gateway's double for the browser tests: the real pages and headers, scripted answers behind them.

The states tested here (a stream cut in the middle, a 429, an expired session) are hard to bring about on purpose
with the real gateway and engine; the end-to-end test uses those.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from gateway.chat.pages import SECURITY_HEADERS, find_static_dir, setup_static

NAME, PASSWORD = "lin", "correct horse battery staple"
USER = {"name": NAME, "display_name": "Lin", "team": "research", "plan": "member"}
READY = {"state": "ready", "phase": None, "percent": None, "elapsed_s": 0, "eta_s": None, "reason": None}
USAGE = {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}

Script = Callable[[web.Request], Awaitable[web.StreamResponse]]


def refusal(
    status: int, code: str | int, message: str = "refused", headers: dict[str, str] | None = None
) -> web.Response:
    """An error in OpenAI's shape, as the gateway answers before a stream starts."""
    error = {"message": message, "type": "error", "param": None, "code": code}
    return web.json_response(
        {"error": error}, status=status, headers={"x-request-id": "req-refused", **(headers or {})}
    )


def chunk(*, finish: str | None = None, **delta: str) -> bytes:
    """One chat.completion.chunk as a server-sent event."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]})


def event(payload: Any) -> bytes:
    """Any JSON as a server-sent event."""
    return f"data: {json.dumps(payload, ensure_ascii=False)}\n\n".encode()


@dataclass
class Answer:
    """One scripted completion: `pieces` are written one by one, each after `pause` seconds.

    `hold` keeps the stream open after the pieces until it is set; `cut` then closes the connection without [DONE].
    `error` is the mid-stream error event; the connection stays until the page leaves it, because a browser may drop
    what it has not yet read when a connection breaks.
    """

    content: Iterable[str] = ()
    reasoning: Iterable[str] = ()
    pieces: Iterable[bytes] = ()
    finish: str = "stop"
    pause: float = 0
    hold: asyncio.Event | None = None
    cut: bool = False
    error: dict[str, Any] | None = None
    client_left: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Play the answer to one request."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "x-request-id": "req-1"})
        await response.prepare(request)
        try:
            for piece in self._events():
                await response.write(piece)
                await asyncio.sleep(self.pause)
            if self.hold is not None:
                await self.hold.wait()
            if self.error is not None:
                await response.write(event({"error": self.error}))
                await asyncio.Event().wait()
            if self.cut:
                request.transport.close()
                return response
            await response.write(chunk(finish=self.finish))
            await response.write(event({"choices": [], "usage": USAGE}) + b"data: [DONE]\n\n")
        except (ConnectionResetError, asyncio.CancelledError):
            self.client_left.set()
            raise
        return response

    def _events(self) -> Iterable[bytes]:
        yield from self.pieces
        for text in self.reasoning:
            yield chunk(reasoning=text)
        for text in self.content:
            yield chunk(content=text)


class Backend:
    """The double's state, which a test reads and sets while the page runs."""

    def __init__(self) -> None:
        self.url = ""
        self.engine: dict[str, Any] = READY
        self.script: deque[Script] = deque()  # what the next completions do; when empty, a short answer
        self.requests: list[dict[str, Any]] = []  # the bodies of the completions asked for
        self.sessions: set[str] = set()
        self.login_refusals: deque[web.Response] = deque()

    def application(self, chat_config: dict[str, Any]) -> web.Application:
        """The pages and every endpoint that they call."""
        app = web.Application()
        setup_static(app, find_static_dir(), chat_config)
        app.router.add_post("/auth/login", self._login)
        app.router.add_post("/auth/logout", self._logout)
        app.router.add_get("/auth/session", self._session)
        app.router.add_get("/api/engine", self._engine)
        app.router.add_post("/v1/chat/completions", self._complete)
        return app

    def expire_sessions(self) -> None:
        """From now on every cookie is refused, as after a revocation."""
        self.sessions.clear()

    async def _login(self, request: web.Request) -> web.Response:
        _require_json(request)
        if self.login_refusals:
            return self.login_refusals.popleft()
        body = await request.json()
        if (body["username"], body["password"]) != (NAME, PASSWORD):
            return refusal(401, "invalid_credentials")
        session = f"session-{len(self.sessions)}-{id(request)}"
        self.sessions.add(session)
        response = web.json_response({"user": USER})
        response.set_cookie("__Host-session", session, secure=True, httponly=True, samesite="Lax", path="/")
        return response

    async def _logout(self, request: web.Request) -> web.Response:
        _require_json(request)
        self.sessions.discard(request.cookies.get("__Host-session", ""))
        response = web.json_response({})
        response.del_cookie("__Host-session", secure=True, httponly=True, samesite="Lax", path="/")
        return response

    async def _session(self, request: web.Request) -> web.Response:
        if not self._signed_in(request):
            return refusal(401, "session_missing")
        return web.json_response({"user": USER, "expires_at": "2099-01-01T00:00:00Z"}, headers=dict(SECURITY_HEADERS))

    async def _engine(self, request: web.Request) -> web.Response:
        if not self._signed_in(request):
            return refusal(401, "session_missing")
        return web.json_response({"model": "gpt-oss-20b", "simulated": False, **self.engine})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        _require_json(request)
        if not self._signed_in(request):
            return refusal(401, "session_expired")
        self.requests.append(await request.json())
        script = self.script.popleft() if self.script else Answer(content=["Hello ", "there."])
        return await script(request)

    def _signed_in(self, request: web.Request) -> bool:
        return request.cookies.get("__Host-session") in self.sessions


def refusing(status: int, code: str | int, message: str = "refused", **headers: str) -> Script:
    """A script that refuses; `headers` are written with `_` for `-`."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}

    async def refuse(_request: web.Request) -> web.StreamResponse:
        return refusal(status, code, message, fields)

    return refuse


def _require_json(request: web.Request) -> None:
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType
