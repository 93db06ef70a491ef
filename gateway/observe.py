"""The outermost layer: gives every request its id and clock, turns errors into answers, and sees each one to its end.

However a request ends, its outcome is decided here (or was by the relay, for a stream that broke off), and `finish` is
called once with the whole Exchange: settle, metrics and log line are made of it.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache, partial
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from multidict import CIMultiDict, istr

from gateway.answer import Answer, own_fields
from gateway.context import EXCHANGE, Api, Exchange, Outcome
from gateway.errors import (
    BadRequest,
    EngineError,
    EngineTimeout,
    GatewayError,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unavailable,
    error_body,
)
from gateway.ids import new_id
from gateway.peers import Network, client_address
from gateway.trace_context import TraceContext

log = logging.getLogger("gatehouse")

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
# what no route of ours has: encoded, doubled or climbing paths are refused before anybody interprets them
_STRANGE_PATH = re.compile(r"//|%|\\|;|#|\.\.|[^\x21-\x7e]")
_HOST = re.compile(r"[A-Za-z0-9._~-]*(?::[0-9]*)?|\[[0-9A-Fa-f:.]+\](?::[0-9]*)?", re.ASCII)
_VERSIONS = {(1, 1), (1, 0)}

_REQUEST_ID = istr("X-Request-Id")
_UNMATCHED = "unmatched"
_APIS = {
    "/v1/chat/completions": Api.CHAT,
    "/v1/completions": Api.COMPLETIONS,
    "/v1/messages": Api.MESSAGES,
    "/v1/messages/count_tokens": Api.MESSAGES,
}
_COMPLETE = Outcome.COMPLETE  # enum's members are slow to name
_CLOSE = {"Connection": "close"}
CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that left before the answer


class Observer:
    """Middleware. `finish` must neither raise nor wait; `draining` says that the gateway is shutting down."""

    def __init__(
        self,
        finish: Callable[[Exchange], None],
        draining: Callable[[], bool],
        trusted_proxies: Iterable[Network] = (),
        *,
        watching: Iterable[str] = (),
        place: Callable[[list[str]], TraceContext] | None = None,
    ) -> None:
        """`watching`: routes whose requests look on at what others do: shutting down does not wait for them.
        `place`: where a request with these `traceparent` headers stands in a trace.
        """
        self._place = place
        self._finish = finish
        self._watching = frozenset(watching)
        self._draining = draining
        self._trusted_proxies = tuple(trusted_proxies)
        self.in_flight = 0
        self.retiring = False  # another worker serves here now: connections are asked to close after their next answer
        self._running: dict[asyncio.Task[Any], web.Request] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def middleware(self) -> Middleware:
        """Return the aiohttp middleware."""

        @web.middleware
        async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self.observe(request, handler)

        return observe

    async def wait_idle(self) -> None:
        """Wait until no request is being served."""
        await self._idle.wait()

    def running(self) -> list[Exchange]:
        """Return the requests being served, oldest first."""
        exchanges = (request[EXCHANGE] for request in self._running.values())
        return [exchange for exchange in exchanges if exchange.route not in self._watching]

    def stop_where(self, refusal: Callable[[web.Request], GatewayError | None]) -> int:
        """End the requests under way that `refusal` has an error for; how many they were.

        Who has no answer yet gets the error as one; a stream ends with it as its last event.
        """
        stopped = 0
        for task, request in list(self._running.items()):
            exchange = request[EXCHANGE]
            if exchange.stopped_by is None and (error := refusal(request)) is not None:
                exchange.stopped_by = error
                task.cancel()
                stopped += 1
        return stopped

    async def observe(self, request: web.Request, handler: Handler, route: str | None = None) -> web.StreamResponse:
        """Run the handler; return its answer, or the error's. `route`: its path, where no router was asked."""
        if route is None:
            route = _template(request)
            handler = _no_route if _is_strange(request) else handler
        exchange = begin(request, route, self._trusted_proxies)
        if self._place is not None:
            exchange.trace = self._place(request.headers.getall("traceparent", []))
        request[EXCHANGE] = exchange
        if self.retiring:
            exchange.headers["Connection"] = "close"
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs has one
        self._enter(task, request, exchange)
        try:
            check_framing(request)
            response = await handler(request)
            if not exchange.carried_on:
                exchange.status = response.status
                exchange.end(_COMPLETE if exchange.status < 400 else Outcome.REJECTED)
        except asyncio.CancelledError:
            if exchange.carried_on:
                raise
            if exchange.stopped_by is None or exchange.status:  # nobody stopped it, or its answer has begun
                exchange.status = exchange.status or CLIENT_CLOSED_REQUEST
                exchange.end(Outcome.SHUTDOWN if self._draining() else Outcome.CLIENT_GONE, "client_gone")
                raise
            task.uncancel()
            response = self._answer(exchange, exchange.stopped_by)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer in the API's shape
            response = self._answer(exchange, error)
        finally:
            self._leave(task, exchange)
            if not exchange.carried_on:
                exchange.ended = time.monotonic()
                self._finish(exchange)
        if hdrs.UPGRADE in request.headers:
            response.force_close()  # aiohttp 3.14 never reads what comes behind an upgrade that it did not make
        if not isinstance(response, Answer) and not response.prepared:  # that one says it by itself
            response.headers.update(own_fields(exchange))
        return response

    def carry_on(self, request: web.Request, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Let a request's exchange go on with `work` after the request was answered; it ends when the work does.

        `work` sets the exchange's status and outcome; what it leaves open is decided as for any request.
        """

        async def go() -> None:
            await work()

        exchange = request[EXCHANGE]
        exchange.carried_on = True
        task = asyncio.create_task(go())
        self._enter(task, request, exchange)
        task.add_done_callback(partial(self._carried, exchange))
        return task

    def _carried(self, exchange: Exchange, task: asyncio.Task[None]) -> None:
        self._leave(task, exchange)
        if task.cancelled():
            exchange.status = exchange.status or CLIENT_CLOSED_REQUEST
            exchange.end(Outcome.SHUTDOWN if self._draining() else Outcome.CLIENT_GONE, "client_gone")
        elif (error := task.exception()) is not None:
            log.error("%s: an error in the gateway", exchange.request_id, exc_info=error)
            exchange.status = exchange.status or GatewayError.status
            exchange.end(Outcome.ENGINE_FAILED, GatewayError.code)
        exchange.end(Outcome.COMPLETE)
        exchange.ended = time.monotonic()
        self._finish(exchange)

    def _enter(self, task: asyncio.Task[Any], request: web.Request, exchange: Exchange) -> None:
        self._running[task] = request
        if exchange.route not in self._watching:
            if not self.in_flight:
                self._idle.clear()
            self.in_flight += 1

    def _leave(self, task: asyncio.Task[Any], exchange: Exchange) -> None:
        del self._running[task]
        if exchange.route not in self._watching:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    def _answer(self, exchange: Exchange, error: Exception) -> web.Response:
        known = _known(error)
        if known is None:
            log.error("%s: an error in the gateway", exchange.request_id, exc_info=error)
            known = GatewayError("The gateway failed; the request id names the record of it.")
        else:
            error.__traceback__ = None  # aiohttp's router keeps what it raises with the request, which that holds
        exchange.status = known.status
        exchange.end(outcome_of(known), known.code)
        body = error_body(known, exchange.api, exchange.request_id)
        exchange.bytes_out += len(body)
        headers = CIMultiDict(known.headers)
        headers["Content-Type"] = "application/json"
        response = web.Response(status=known.status, headers=headers, body=body)
        if "Connection" in headers:
            response.force_close()
        return response


def check_framing(request: web.Request) -> None:
    """Refuse what aiohttp lets pass and somebody else might read differently. Raises BadRequest and closes.

    A coding beside chunked; chunks in HTTP/1.0, which has none (RFC 9112, section 6.1); a version that is not spoken
    here, or none; a Host that is no host.
    """
    headers = request.headers
    coding = headers.get(hdrs.TRANSFER_ENCODING)
    if coding is not None and (coding.strip(" \t").lower() != "chunked" or request.version != (1, 1)):
        raise BadRequest("The only coding is `Transfer-Encoding: chunked`, in HTTP/1.1.", headers=_CLOSE)
    if request.version not in _VERSIONS:
        raise BadRequest("Only HTTP/1.1 and HTTP/1.0 are spoken here.", headers=_CLOSE)
    if not _is_host(headers.get(hdrs.HOST, "")):
        raise BadRequest("`Host` is not a host.", headers=_CLOSE)


@lru_cache(maxsize=1024)
def _is_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None


def _is_strange(request: web.Request) -> bool:
    return _STRANGE_PATH.search(request.raw_path.partition("?")[0]) is not None


async def _no_route(_request: web.Request) -> web.StreamResponse:
    raise NotFound("There is no such route.", code="route_not_found")


def _template(request: web.Request) -> str:
    """The route that aiohttp's router has found."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else _UNMATCHED


def begin(request: web.Request, route: str, trusted_proxies: tuple[Network, ...] = ()) -> Exchange:
    """Make the record of a request that has just arrived."""
    headers, remote = request.headers, request.remote
    asked = headers.get(_REQUEST_ID)
    if trusted_proxies or not remote:
        remote = client_address(remote, headers.getall("X-Forwarded-For", ()), trusted_proxies)
    return Exchange(
        request_id=asked if asked and _SANE_REQUEST_ID.fullmatch(asked) else new_id(),
        method=request.method,
        route=route,
        api=api_of(request.path if route == _UNMATCHED else route),
        client_ip=remote,
        user_agent=headers.get(hdrs.USER_AGENT, "")[:256],
    )


def api_of(path: str) -> Api:
    """Return the API whose error shape a path's caller expects."""
    return _APIS.get(path) or (Api.RESPONSES if path.startswith("/v1/responses") else Api.OTHER)


def _known(error: Exception) -> GatewayError | None:
    match error:
        case GatewayError():
            return error
        case web.HTTPRequestEntityTooLarge():
            return TooLarge("The body is too large.")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods - {"HEAD"}))
            return MethodNotAllowed(f"{error.method} is not offered here; use {allowed}.", headers={"Allow": allowed})
        case web.HTTPNotFound():
            return NotFound("There is no such route.", code="route_not_found")
        case web.HTTPException() if error.status < 500:
            return BadRequest(error.reason)
        case _:
            return None


def outcome_of(error: GatewayError) -> Outcome:
    """How a request ended that ends with this error."""
    match error:
        case EngineTimeout():
            return Outcome.TIMEOUT
        case Unavailable(code="shutting_down"):
            return Outcome.SHUTDOWN
        case Unavailable(code="limits_unavailable" | "engine_overloaded"):
            return Outcome.REJECTED
        case EngineError() | Unavailable():
            return Outcome.ENGINE_FAILED
        case _:
            return Outcome.REJECTED if error.status < 500 else Outcome.ENGINE_FAILED
