"""A gateway's double for the browser tests: the real pages and headers, scripted answers behind them.

The states tested here (frames with holes, a silent line, a 429, an expired session) are hard to bring about on purpose
with the real gateway and engine; the end-to-end tests use those. What it speaks is docs/chat-api.md.
"""

import json
from collections import deque
from typing import Any

from aiohttp import web

from gateway.chat.pages import SECURITY_HEADERS, find_static_dir, setup_static
from tests.web.chats import ChatStore, Run, Script, Tab

NAME, PASSWORD = "lin", "correct horse battery staple"
USER = {"name": NAME, "display_name": "Lin", "team": "research", "plan": "member", "admin": False}
READY = {"state": "ready", "phase": None, "percent": None, "elapsed_s": 0, "eta_s": None, "reason": None}
SESSION_OVER = 4401


class Refusal(Exception):
    """An error in OpenAI's shape."""

    def __init__(
        self, status: int, code: str, message: str = "refused", *, details: Any = None, **headers: str
    ) -> None:
        super().__init__(message)
        error = {"message": message, "type": "error", "param": None, "code": code, "details": details}
        self.status, self.body = status, {"error": error}
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> web.Response:
        """As the gateway answers."""
        return web.json_response(self.body, status=self.status, headers={"x-request-id": "req-refused", **self.headers})


class Backend:
    """The double's state, which a test reads and sets while the page runs."""

    def __init__(self) -> None:
        self.url = ""
        self.engine: dict[str, Any] = READY
        self.user: dict[str, Any] = USER
        self.build: str | None = None  # what `hello` says; None says nothing
        self.script: deque[Script | Refusal] = deque()  # what the next runs do; when empty, a short answer
        self.requests: list[dict[str, Any]] = []  # the bodies of the runs asked for
        self.quota: dict[str, str] = {}  # headers of the answers to them
        self.sessions: set[str] = set()
        self.login_refusals: deque[Refusal] = deque()
        self.chats = ChatStore(self._broadcast)
        self.sockets: set[web.WebSocketResponse] = set()
        self.upgrades = True  # whether WebSockets get through
        self.muted = False  # a line that is open and silent

    def application(self, chat_config: dict[str, Any]) -> web.Application:
        """The pages and every endpoint that they call."""
        app = web.Application(middlewares=[self._guard])
        setup_static(app, find_static_dir(), chat_config)
        router = app.router
        router.add_post("/auth/login", self._login)
        router.add_post("/auth/logout", self._logout)
        router.add_get("/auth/session", self._session)
        router.add_get("/api/engine", self._engine)
        router.add_get("/api/ws", self._socket)
        router.add_get("/api/runs/{id}/events", self._events)
        router.add_delete("/api/runs/{id}", self._stop)
        router.add_post("/api/chats/{id}/runs", self._run)
        self.chats.add_to(app)
        return app

    async def expire_sessions(self) -> None:
        """From now on every cookie is refused, as after a revocation, and the lines are closed."""
        self.sessions.clear()
        await self.close_sockets(SESSION_OVER)

    async def close_sockets(self, code: int = 1001) -> None:
        """Close every tab's line."""
        for socket in list(self.sockets):
            await socket.close(code=code)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path.startswith("/api/") and not self._signed_in(request):
            return Refusal(401, "session_expired").response()
        if request.method in ("POST", "PATCH", "DELETE") and request.content_type != "application/json":
            return Refusal(415, "unsupported_media_type").response()
        try:
            response: web.StreamResponse = await handler(request)
        except Refusal as refusal:
            return refusal.response()
        return response

    async def _login(self, request: web.Request) -> web.Response:
        if self.login_refusals:
            raise self.login_refusals.popleft()
        body = await request.json()
        if (body["username"], body["password"]) != (NAME, PASSWORD):
            raise Refusal(401, "invalid_credentials")
        session = f"session-{len(self.sessions)}-{id(request)}"
        self.sessions.add(session)
        response = web.json_response({"user": self.user})
        response.set_cookie("__Host-session", session, secure=True, httponly=True, samesite="Lax", path="/")
        return response

    async def _logout(self, request: web.Request) -> web.Response:
        self.sessions.discard(request.cookies.get("__Host-session", ""))
        response = web.json_response({})
        response.del_cookie("__Host-session", secure=True, httponly=True, samesite="Lax", path="/")
        return response

    async def _session(self, request: web.Request) -> web.Response:
        if not self._signed_in(request):
            raise Refusal(401, "session_expired")
        return web.json_response({"user": self.user, "expires_at": 4102444800}, headers=dict(SECURITY_HEADERS))

    async def _engine(self, _request: web.Request) -> web.Response:
        return web.json_response({"model": "gpt-oss-20b", "simulated": False, **self.engine})

    async def _run(self, request: web.Request) -> web.Response:
        body = await request.json()
        chat = self.chats.chats[request.match_info["id"]]
        known = chat.sent.get(body["client_id"])
        if known is not None:
            return web.json_response(known, status=200)
        self.requests.append(body)
        script = self.script.popleft() if self.script else Script(content=["Hello ", "there."])
        if isinstance(script, Refusal):
            raise script
        return web.json_response(self.chats.begin(chat, body, script), status=202, headers=self.quota)

    async def _stop(self, request: web.Request) -> web.Response:
        self.chats.runs[request.match_info["id"]].stop()
        return web.Response(status=204)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        run = self.chats.runs.get(request.match_info["id"])
        if run is None or run.forgotten:
            raise Refusal(410, "run_gone")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for frame in run.frames(int(request.query.get("from", "0"))):
            await response.write(f"id: {frame['seq']}\ndata: {json.dumps(frame)}\n\n".encode())
        return response

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if not self.upgrades:
            raise Refusal(400, "invalid_request")
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        tab = Tab(socket, self)
        self.sockets.add(socket)
        hello = {"t": "hello", "heartbeat_s": 10, "runs": []}
        await tab.send(hello if self.build is None else {**hello, "build": self.build})
        try:
            async for message in socket:
                frame = json.loads(message.data)
                run = self.chats.runs.get(frame["run"])
                tab.follow(frame, run)
        finally:
            self.sockets.discard(socket)
            tab.close()
        return socket

    async def _broadcast(self, frame: dict[str, Any]) -> None:
        for socket in list(self.sockets):
            if not self.muted and not socket.closed:
                await socket.send_json(frame)

    def _signed_in(self, request: web.Request) -> bool:
        return request.cookies.get("__Host-session") in self.sessions


__all__ = ["Backend", "Refusal", "Run", "Script"]
