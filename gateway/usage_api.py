"""`GET /v1/usage`: what the caller has used, by day and model."""

import datetime as dt
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web

from gateway.auth.authenticate import Authenticator
from gateway.config import Config
from gateway.context import EXCHANGE
from gateway.errors import BadRequest, Unavailable
from gateway.store import Store, StoreError

MOST_DAYS = 366


class UsageApi:
    """The handler. `?days=N` (default 30, at most 366) or `?since=2026-11-01` say how far back."""

    def __init__(self, config: Config, authenticator: Authenticator, store: Store) -> None:
        self._zone = ZoneInfo(config.limits.time_zone)
        self._authenticator = authenticator
        self._store = store

    def add_to(self, app: web.Application) -> None:
        """Register the route."""
        app.router.add_get("/v1/usage", self.usage)

    async def usage(self, request: web.Request) -> web.Response:
        """The caller's own sums; nobody else's, whatever is asked."""
        principal = request[EXCHANGE].principal = await self._authenticator.authenticate(request)
        today = dt.datetime.now(self._zone).date()
        since = _since(request, today)
        try:
            rows = await self._store.usage.totals(("day", "model"), since=since, subject=principal.subject)
            (total,) = await self._store.usage.totals((), since=since, subject=principal.subject)
        except StoreError:
            message = "Usage cannot be read now; it is counted all the same."
            raise Unavailable(message, code="usage_unavailable", headers={"Retry-After": "5"}) from None
        span = {"since": since, "until": today.isoformat()}
        body = {"object": "list", "subject": principal.subject, **span, "data": rows, "total": total}
        return web.Response(
            body=msgspec.json.encode(body), content_type="application/json", headers={"Cache-Control": "no-store"}
        )


def _since(request: web.Request, today: dt.date) -> str:
    if (since := request.query.get("since")) is not None:
        try:
            return max(dt.date.fromisoformat(since), today - dt.timedelta(days=MOST_DAYS)).isoformat()
        except ValueError:
            raise BadRequest("`since` must be a day such as 2026-11-01.", param="since") from None
    days = request.query.get("days", "30")
    if not (days.isascii() and days.isdigit() and len(days) < 9 and 1 <= int(days) <= MOST_DAYS):
        raise BadRequest(f"`days` must be a number from 1 to {MOST_DAYS}.", param="days")
    return (today - dt.timedelta(days=int(days) - 1)).isoformat()
