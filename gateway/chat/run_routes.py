"""`/api/chats/{id}/runs` and `/api/runs`: begin a run, list, follow and stop."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from gateway.answer import own_fields
from gateway.api import EngineApi
from gateway.auth.bodies import answer, nothing
from gateway.chat.hub import Hub
from gateway.chat.ids import message_id
from gateway.chat.member import Members, chats_needed, check_client_id, cursor, no_chat, parameters
from gateway.chat.prompt import body_of, title_of
from gateway.chat.replay import HEARTBEAT_SECONDS
from gateway.chat.run import Run
from gateway.chat.runs import ROUTE, Runs
from gateway.chat.settings import Parameters
from gateway.chat.shown import fit, shown_chat, shown_message
from gateway.config import Config
from gateway.context import EXCHANGE
from gateway.errors import BadRequest, GatewayError, NotFound, TooLarge, TooManyRequests, Unavailable
from gateway.shape import Shaped
from gateway.store import Store
from gateway.store.chat_rows import Chat, Message, NewMessage, Role, Status
from gateway.store.chats import TooMany
from gateway.store.database import Conflict
from gateway.store.messages import TooManyRunning
from gateway.waiting import to_the_end, uncancel

_HEARTBEAT = b'data: {"t":"hb"}\n\n'


class NewRun(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /api/chats/{id}/runs."""

    parent: str | None = None
    content: str | None = None
    params: dict[str, Any] | None = None
    client_id: str | None = None
    fit: bool = False


class RunRoutes:
    """The handlers."""

    def __init__(self, config: Config, members: Members, store: Store, *, runs: Runs, hub: Hub, api: EngineApi) -> None:
        self._config = config
        self._members = members
        self._store = store
        self._runs = runs
        self._hub = hub
        self._api = api

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_post("/api/chats/{id}/runs", self.begin)
        app.router.add_get("/api/runs", self.listed)
        app.router.add_delete("/api/runs/{id}", self.stop)
        app.router.add_get("/api/runs/{id}/events", self.events)

    async def begin(self, request: web.Request) -> web.Response:
        """Begin to make an answer: 202. What is refused is refused here, and leaves nothing."""
        exchange = request[EXCHANGE]
        if self._api.draining:
            raise Unavailable("The gateway is shutting down.", code="shutting_down", headers={"Retry-After": "1"})
        principal = await self._members.caller(request)
        form = await self._members.read(request, NewRun)
        owner, chat_id = principal.subject, request.match_info["id"]
        check_client_id(form.client_id)
        with chats_needed():
            chat = await self._store.chats.find(owner, chat_id)
            if chat is None:
                raise no_chat()
            if form.client_id is not None and (known := await self._store.messages.sent(chat_id, form.client_id)):
                return _begun(chat, known, status=200)
            path = await self._path(chat, form)
        params = parameters(form.params).over(Parameters.model_validate(chat.params)).over(self._config.chat.defaults)
        new = self._new_messages(path, form, params)
        with chats_needed():  # it is decided below; who is refused here has used nothing of the limits
            if len(await self._store.messages.running(owner)) >= self._config.chat.max_runs:
                raise self._too_many_runs()
        engine = self._config.engine
        body = body_of([*path, *new[:-1]], params, model=engine.model, max_model_len=engine.max_model_len, fit=form.fit)
        shaped, encoded = await self._api.admit(exchange, principal, ROUTE, body)
        run = Run(run_id=new[-1].id, owner=owner, exchange=exchange, wait_seconds=self._config.chat.wait_seconds)
        try:
            # a page that is left in this moment leaves no answer behind that nobody makes
            return await to_the_end(self._begin(request, run, chat, new=new, shaped=shaped, body=encoded))
        except asyncio.CancelledError:
            if exchange.stopped_by is not None and run.task is not None:
                run.task.cancel()  # what the page rested on was revoked
            raise

    async def _begin(
        self, request: web.Request, run: Run, chat: Chat, *, new: Sequence[NewMessage], shaped: Shaped, body: bytes
    ) -> web.Response:
        """Save the messages and start the run, or neither."""
        title = title_of(new[0].content) if chat.head is None else ""
        most, most_running = self._config.chat.max_messages, self._config.chat.max_runs
        with chats_needed():
            try:
                added = await self._store.messages.add(
                    run.owner, chat.id, new, title=title, most=most, most_running=most_running
                )
            except TooMany:
                message = f"A chat holds at most {most} messages; begin a new one."
                raise BadRequest(message, code="too_many_messages") from None
            except TooManyRunning:
                raise self._too_many_runs() from None
            except Conflict:  # the same sending came twice at once
                known = await self._store.messages.sent(chat.id, new[-1].client_id or "")
                return _begun(chat, known, status=200)
        if added is None:
            raise no_chat()
        self._runs.begin(request, run, shaped, body)
        self._hub.publish(added[0])
        return _begun(*added, status=202)

    async def _path(self, chat: Chat, form: NewRun) -> list[Message]:
        """The branch that the run goes on from."""
        if form.parent is None:
            if form.content is None:
                raise BadRequest("Send `content`, or as `parent` the message to answer.", param="parent")
            return []
        path = await self._store.messages.path(chat.id, form.parent)
        if not path:
            raise NotFound("There is no such message in this chat.", code="message_not_found")
        if path[-1].status == Status.RUNNING:
            raise BadRequest("That answer is still being made.", code="answer_running", param="parent")
        if form.content is not None and path[-1].role == Role.USER:
            raise BadRequest("A question stands under an answer, or at the beginning.", param="parent")
        return path

    def _new_messages(self, path: Sequence[Message], form: NewRun, params: Parameters) -> list[NewMessage]:
        now = time.time()
        parent = path[-1].id if path else None
        new = []
        if form.content is not None:
            content, most = fit(form.content), self._config.chat.max_message_bytes
            if not content.strip():
                raise BadRequest("There is nothing in this message.", param="content")
            if len(content.encode()) > most:
                raise TooLarge(f"A message has at most {most} bytes.", code="message_too_large", param="content")
            new.append(NewMessage(message_id(), parent, Role.USER, content, now))
            parent = new[-1].id
        answering = NewMessage(
            message_id(),
            parent,
            Role.ASSISTANT,
            "",
            now,
            status=Status.RUNNING,
            continues=form.content is None and path[-1].role == Role.ASSISTANT,
            model=self._config.engine.model,
            params=params.said(),
            client_id=form.client_id,
            worker=self._runs.worker,
            saved_at=now,
        )
        return [*new, answering]

    def _too_many_runs(self) -> TooManyRequests:
        message = (
            f"{self._config.chat.max_runs} answers are being made for you already; wait for one of them, or stop it."
        )
        return TooManyRequests(message, code="too_many_runs", headers={"Retry-After": "1"})

    async def listed(self, request: web.Request) -> web.Response:
        """The runs of a member that have not ended."""
        principal = await self._members.caller(request)
        with chats_needed():
            return answer({"runs": await self.going(principal.subject)})

    async def going(self, owner: str) -> list[dict[str, Any]]:
        """The same, for the greeting of a tab. Raises StoreError."""
        known = {run.id: run for run in self._runs.active(owner)}
        going = await self._store.messages.running(owner)
        return [
            {
                "run": run_id,
                "chat": chat_id,
                "state": known[run_id].state if run_id in known else None,
                "seq": known[run_id].replay.seq if run_id in known else None,
            }
            for run_id, chat_id in going
        ]

    async def stop(self, request: web.Request) -> web.Response:
        """Stop a run: 204, also when it has ended already."""
        principal = await self._members.caller(request)
        run_id = request.match_info["id"]
        with chats_needed():
            message = await self._store.messages.find(principal.subject, run_id)
        if message is None or message.role != Role.ASSISTANT:
            raise NotFound("There is no such run.", code="run_not_found")
        await self._runs.stop(run_id)
        return nothing()

    async def events(self, request: web.Request) -> web.StreamResponse:
        """A run's frames after number `from`, as server-sent events, until it has ended."""
        principal = await self._members.caller(request)
        last = request.headers.get("Last-Event-ID", "")
        seen = int(last) if last.isascii() and last.isdigit() and len(last) < 10 else cursor(request, "from") or 0
        with chats_needed():
            replay = await self._runs.replay(principal.subject, request.match_info["id"])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        response.headers["X-Accel-Buffering"] = "no"  # nginx must not collect a stream
        response.headers.update(own_fields(request[EXCHANGE]))
        wake = asyncio.Event()
        replay.listeners.add(wake.set)
        try:
            await response.prepare(request)
            while not replay.is_read(seen):
                wake.clear()
                frames = replay.after(seen)
                if frames:
                    numbered = enumerate(frames, seen + 1)
                    await self._write(response, b"".join(b"id: %d\ndata: %s\n\n" % pair for pair in numbered))
                    seen += len(frames)
                    continue
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await wake.wait()
                except TimeoutError:
                    await self._write(response, _HEARTBEAT)
        except asyncio.CancelledError:
            if not isinstance(request[EXCHANGE].stopped_by, GatewayError):
                raise
            uncancel()
        except (ConnectionError, TimeoutError):
            pass
        finally:
            replay.listeners.discard(wake.set)
        return response

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        async with asyncio.timeout(self._config.gateway.write_seconds):
            await response.write(data)


def _begun(chat: Chat, messages: Sequence[Message], status: int) -> web.Response:
    shown = [shown_message(message) for message in messages]
    return answer({"run_id": messages[-1].id, "chat": shown_chat(chat), "messages": shown}, status)
