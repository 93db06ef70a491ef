"""`/api/admin`: what the admin page shows and does. For sessions of users who are admins; the scope is `admin`.

Who is an admin is said on the command line only: nobody becomes one over the network.
"""

import datetime as dt
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web

from gateway.admin import ask_launcher
from gateway.admission import Admission
from gateway.auth.bodies import answer
from gateway.auth.users import account_name, revoked_until
from gateway.chat.member import Members, chats_needed, number
from gateway.chat.shown import one_line
from gateway.config import Config
from gateway.context import EXCHANGE
from gateway.engine import Engine
from gateway.errors import BadRequest, NotFound
from gateway.store import Store, User
from gateway.store.usage import KEYS

Requests = Callable[[], Awaitable[list[dict[str, Any]]]]
MOST_TAIL, MOST_DAYS = 200, 366
LONGEST_NAME = 64


class UserForm(msgspec.Struct, forbid_unknown_fields=True):
    """Body of PATCH /api/admin/users/{name}; a team of "" is none."""

    plan: str | None = None
    team: str | None = None
    display_name: str | None = None
    disabled: bool | None = None


class AdminRoutes:
    """The handlers."""

    def __init__(
        self,
        config: Config,
        members: Members,
        store: Store,
        *,
        engine: Engine,
        admission: Admission,
        requests: Requests,
    ) -> None:
        self._config = config
        self._members = members
        self._store = store
        self._engine = engine
        self._admission = admission
        self._requests = requests

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_get("/api/admin/engine", self.engine)
        for action in ("restart", "drain", "reset-prefix-cache"):
            app.router.add_post(f"/api/admin/engine/{action}", self.operate)
        app.router.add_get("/api/admin/requests", self.requests)
        app.router.add_get("/api/admin/users", self.users)
        app.router.add_patch("/api/admin/users/{name}", self.change_user)
        app.router.add_get("/api/admin/plans", self.plans)
        app.router.add_get("/api/admin/usage", self.usage)

    async def engine(self, request: web.Request) -> web.Response:
        """The engine's state, with its last lines where it was launched here."""
        await self._members.caller(request, "admin")
        status: dict[str, Any] = dict(self._engine.status)
        if self._socket is not None:
            tail = number(request, "tail", 50, MOST_TAIL)
            told = await ask_launcher(self._socket, "GET", "/status", {"tail": str(tail)})
            if told.status == 200 and isinstance(told.body, bytes):
                status = msgspec.json.decode(told.body)
        return answer({**status, "waiting": self._admission.waiting})

    async def operate(self, request: web.Request) -> web.Response:
        """Restart, drain or empty the prefix cache: the launcher's answer."""
        await self._members.caller(request, "admin")
        return await ask_launcher(self._socket, "POST", "/" + request.path.rpartition("/")[2])

    @property
    def _socket(self) -> Path | None:
        return self._config.engine.status_socket

    async def requests(self, request: web.Request) -> web.Response:
        """The requests being served by this worker, without this very one."""
        await self._members.caller(request, "admin")
        own = request[EXCHANGE].request_id
        return answer({"requests": [each for each in await self._requests() if each["request_id"] != own]})

    async def users(self, request: web.Request) -> web.Response:
        """Everybody."""
        await self._members.caller(request, "admin")
        with chats_needed():
            users = await self._store.users.list()
        return answer({"users": [_shown(user) for user in users]})

    async def change_user(self, request: web.Request) -> web.Response:
        """Change a user; who is disabled is shut out, and what they run ends, within a second."""
        caller = await self._members.caller(request, "admin")
        form = await self._members.read(request, UserForm)
        name = account_name(request.match_info["name"])
        if form.disabled and name == caller.subject:
            raise BadRequest("You cannot disable yourself.", param="disabled")
        if form.plan is not None and form.plan not in self._config.plans:
            raise BadRequest(f"There is no such plan; there are {', '.join(self._config.plans)}.", param="plan")
        changes: dict[str, Any] = {} if form.plan is None else {"plan": form.plan}
        if form.team is not None:
            changes["team"] = _name(form.team, "team") if form.team else None
        if form.display_name is not None:
            changes["display_name"] = _name(form.display_name, "display_name")
        if form.disabled is False:
            changes["disabled_at"] = None
        with chats_needed():
            if await self._store.users.find(name) is None:
                raise NotFound("There is no such user.", code="user_not_found")
            if changes:
                await self._store.users.change(name, **changes)
            if form.disabled:
                now = time.time()
                await self._store.users.disable(name, now=now, until=revoked_until(self._config.auth, now))
            user = await self._store.users.find(name)
        if user is None:
            raise NotFound("There is no such user.", code="user_not_found")
        return answer(_shown(user))

    async def plans(self, request: web.Request) -> web.Response:
        """The plans, and the limits that are shared."""
        await self._members.caller(request, "admin")
        plans = {name: plan.model_dump(mode="json") for name, plan in self._config.plans.items()}
        shared = self._config.limits.model_dump(mode="json", include={"team", "model", "total", "time_zone"})
        return answer({"plans": plans, "limits": shared})

    async def usage(self, request: web.Request) -> web.Response:
        """Sums of everybody's usage, grouped by some of day, subject, team and model."""
        await self._members.caller(request, "admin")
        by = [name for name in request.query.get("by", "subject").split(",") if name]
        if unknown := [name for name in by if name not in KEYS]:
            message = f"`by` takes {', '.join(KEYS)}, not {unknown[0][:32]}."
            raise BadRequest(message, param="by")
        today = dt.datetime.now(ZoneInfo(self._config.limits.time_zone)).date()
        since = (today - dt.timedelta(days=number(request, "days", 30, MOST_DAYS) - 1)).isoformat()
        with chats_needed():
            rows = await self._store.usage.totals(by, since=since)
            (total,) = await self._store.usage.totals((), since=since)
        return answer({"by": by, "since": since, "data": rows, "total": total})


def _shown(user: User) -> dict[str, Any]:
    names = ("name", "display_name", "team", "plan", "admin", "created_at", "disabled_at")
    return {**{name: getattr(user, name) for name in names}, "has_password": user.password_hash is not None}


def _name(text: str, field: str) -> str:
    text = one_line(text)
    if not (1 <= len(text) <= LONGEST_NAME and text.isprintable()):
        raise BadRequest(f"`{field}` has 1 to {LONGEST_NAME} visible characters.", param=field)
    return text
