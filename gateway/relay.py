"""The relay: a shaped request goes to the engine, its answer to the client, byte for byte.

Until the first generated output has passed, nothing is lost: a request whose engine dies is held and sent to its
successor. After that a failure becomes an error event in the API's own form, and the connection is closed without the
end marker, so that a truncated answer never looks whole. Nothing is raised once headers are sent.

Reading from the engine and writing to the client fail in different ways and are kept apart: the engine's failures are
UpstreamClosed and UpstreamTimeout, the client's are ClientGone and cancellation (aiohttp cancels the handler when the
client leaves). Whatever the way out, the connection to the engine is closed or given back in `finally`, and closing it
is what stops the engine's work.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable

import msgspec
from aiohttp import web
from multidict import CIMultiDictProxy

from gateway.answer import Answer
from gateway.config import GatewaySettings
from gateway.context import Api, Exchange, Outcome, Usage
from gateway.delivery import ClientGone, Delivery, Recipient
from gateway.dialects import answer_usage, error_message, responses
from gateway.engine import DYING, Engine
from gateway.errors import EngineError, EngineTimeout, GatewayError, Unavailable, error_body
from gateway.headers import NOTHING_ASKED, answer_lines, is_event_stream, request_head
from gateway.routes import Route
from gateway.section import plain
from gateway.shape import Shaped
from gateway.stream import EngineLost, Stream, broken_off, meter_of
from gateway.upstream import Connection, StaleConnection, UpstreamClosed, UpstreamTimeout
from gateway.waiting import uncancel

log = logging.getLogger("gatehouse.relay")

_RESPONSES = Api.RESPONSES  # enum's members are slow to name
STOP_SECONDS = 1.0  # how long a client may take to read why its stream was stopped
RETRY_SECONDS = 0.1  # between connection attempts, until the launcher has noticed that its engine is gone


class Relay:
    """Relays requests to one engine."""

    def __init__(self, engine: Engine, settings: GatewaySettings) -> None:
        self._engine = engine
        self._settings = plain(settings)

    def relay(
        self,
        request: web.Request,
        exchange: Exchange,
        route: Route,
        shaped: Shaped,
        body: bytes,
    ) -> Awaitable[web.StreamResponse]:
        """Relay a request to whom it came from; see `relay_to`."""
        delivery = Delivery(request, exchange, route.api)
        return self.relay_to(delivery, exchange, route, shaped, body, method=request.method, fields=request.headers)

    async def relay_to(
        self,
        delivery: Recipient,
        exchange: Exchange,
        route: Route,
        shaped: Shaped,
        body: bytes,
        *,
        method: str = "POST",
        fields: CIMultiDictProxy[str] = NOTHING_ASKED,
    ) -> web.StreamResponse:
        """Relay one request; returns the answer that the client gets, or got. `body` is what the engine gets.

        `fields` are the client's headers. Raises GatewayError only before anything was given to `delivery`. Sets on the
        exchange: usage, clocks, bytes, and the outcome where it is decided here.
        """
        passage = _Passage(self._engine, self._settings, method, fields, exchange, route, shaped, body, delivery)
        try:
            return await passage.until_answered()
        except GatewayError as error:
            if delivery.response is None:
                raise
            exchange.end(_outcome_of(error), error.code)
            await delivery.fail(error, 0)
            return delivery.response
        except ClientGone as gone:
            log.info("%s: %s", exchange.request_id, gone)
            exchange.end(Outcome.CLIENT_GONE, "client_gone")
            delivery.cut()
            return delivery.response or web.Response(status=499)
        except asyncio.CancelledError:
            stopped_by = exchange.stopped_by  # by the gateway: its caller may no longer have this answer
            if not isinstance(stopped_by, GatewayError) or delivery.response is None:
                raise
            uncancel()
            if exchange.outcome is None:
                exchange.end(Outcome.REJECTED, stopped_by.code)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STOP_SECONDS):
                        await delivery.fail(stopped_by, passage.sequence_number)
                delivery.drop()
            return delivery.response


class _Passage(msgspec.Struct):
    """One request on its way, with all that belongs to it."""

    engine: Engine
    settings: GatewaySettings
    method: str
    fields: CIMultiDictProxy[str]  # the client's headers
    exchange: Exchange
    route: Route
    shaped: Shaped
    body: bytes
    delivery: Recipient
    sequence_number: int = 0  # of the next event, which the Responses API counts

    async def until_answered(self) -> web.StreamResponse:
        """Hold, send, and where nothing was lost send again."""
        arrived, held_before = time.monotonic(), self.exchange.held_seconds
        held_until = arrived + self.settings.hold_seconds
        sent = 0
        while True:
            if not self.engine.ready and not await self.engine.wait_ready(max(0.0, held_until - time.monotonic())):
                raise self._unavailable()
            try:
                connection = self.engine.idle_connection() or await self.engine.connect()
            except (UpstreamClosed, UpstreamTimeout) as error:
                if time.monotonic() >= held_until:
                    raise self._unavailable() from error
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self.exchange.held_seconds = held_before + time.monotonic() - arrived
            generation = self.engine.generation
            self.delivery.when_gone(connection.hang_up)
            try:
                return await self._attempt(connection)
            except StaleConnection:
                self.engine.forget_idle()  # so that this cannot happen twice
                continue
            except EngineLost as lost:
                sent += 1
                log.warning("%s: the engine failed before its answer: %s", self.exchange.request_id, lost)
                if sent > self.settings.max_resends or time.monotonic() >= held_until:
                    raise self._unavailable() from lost
                await self.engine.settle(generation)
            finally:
                self.delivery.when_gone(None)
                connection.release()

    def _unavailable(self) -> Unavailable:
        status = self.engine.status
        state = self.engine.state
        eta = status.get("eta_s")
        wait = max(1, round(eta)) if isinstance(eta, int | float) else 5
        loading = state in {"starting", "warming", "restarting"}
        phase = f", {status['phase']}" if status.get("phase") else ""
        return Unavailable(
            f"The engine is not ready ({state}{phase}). Try again in about {wait} s.",
            code="engine_loading" if loading else "engine_unavailable",
            headers={"Retry-After": str(wait)},
        )

    async def _attempt(self, connection: Connection) -> web.StreamResponse:
        """Send it once. Raises EngineLost when it may be sent again."""
        exchange, shaped, route = self.exchange, self.shaped, self.route
        head = request_head(
            method=self.method,
            target=route.path,
            authority=self.engine.authority,
            request_id=exchange.request_id,
            api_key=self.engine.api_key,
            length=len(self.body),
            fields=self.fields,
            trace=exchange.trace,
        )
        seconds = self.settings.first_token_seconds if shaped.stream else self.settings.total_seconds
        exchange.engine_attempts += 1
        exchange.sent_at = time.monotonic()
        try:
            answer = await connection.ask(head, self.body, seconds)
            fields = answer_lines(answer.headers)
            is_stream = answer.status == 200 and is_event_stream(fields)
            body = b"" if is_stream else await connection.read_all()  # whole before a byte of it is passed on
        except StaleConnection:
            raise
        except UpstreamClosed as error:
            raise EngineLost(str(error)) from error
        except UpstreamTimeout as error:
            raise EngineTimeout("The engine did not answer in time; its work was aborted.") from error
        return await self._stream(connection, fields) if is_stream else self._whole(answer.status, fields, body)

    def _whole(self, status: int, fields: str, body: bytes) -> Answer:
        """An answer in one piece."""
        exchange, route = self.exchange, self.route
        if status >= 500 and (status == 503 or any(sign in body for sign in DYING)):
            raise EngineLost(f"it answered {status}")
        if status in {401, 403}:  # it refused the gateway, not the caller
            raise EngineError("The engine does not accept the gateway's key.", code="engine_key_refused")
        exchange.first_token_at = time.monotonic()
        if status >= 400:
            exchange.end(Outcome.REJECTED if status < 500 else Outcome.ENGINE_FAILED, f"engine_{status}")
            body = _engine_error(status, body, route.api, exchange.request_id)
        else:
            exchange.usage = answer_usage(route.api, body) or Usage()
            if route.api is _RESPONSES:
                exchange.response_id = responses.response_id(body)
        exchange.bytes_out += len(body)
        if exchange.bodies is not None:
            exchange.bodies.answered(body)
        return Answer(exchange, status, fields, body)

    async def _stream(self, connection: Connection, fields: str) -> web.StreamResponse:
        exchange, delivery = self.exchange, self.delivery
        meter = meter_of(self.route, self.shaped)
        exchange.usage = meter.usage  # what has come so far: the chat tells it while the answer grows
        stream = Stream(connection, meter, delivery, exchange, fields, self.settings.next_token_seconds)
        try:
            while stream.runs:
                try:
                    await connection.pump(stream.pass_on)
                except UpstreamClosed:
                    stream.fail(broken_off())
                except UpstreamTimeout:
                    stream.fail(EngineTimeout("The engine stopped answering; its work was aborted."))
                if stream.runs and connection.drained:
                    stream.end()
                if stream.kept_back:
                    await delivery.write(stream.take_kept_back(), stream.fields)
            error = stream.error
            if error is None:
                await delivery.finish(stream.pending, stream.fields)
                exchange.end(Outcome.COMPLETE)  # a client that leaves from here on has got everything
                await self._last_bytes(connection)
        finally:
            exchange.usage = meter.usage
            exchange.usage.estimated = not meter.exact
            exchange.unmetered = meter.unmetered()
            exchange.response_id = getattr(meter, "response_id", None)
            self.sequence_number = meter.sequence_number
        if error is not None:
            if delivery.response is None:
                raise error
            exchange.end(_outcome_of(error), error.code)
            await delivery.fail(error, self.sequence_number)
        assert delivery.response is not None  # noqa: S101 - finish() has made it
        return delivery.response

    async def _last_bytes(self, connection: Connection) -> None:
        """Read the end of the engine's answer, so that its connection can be used again."""
        with contextlib.suppress(UpstreamClosed, UpstreamTimeout):
            connection.expect_by(self.settings.connect_seconds)
            await connection.read()


def _outcome_of(error: GatewayError) -> Outcome:
    return Outcome.TIMEOUT if isinstance(error, EngineTimeout) else Outcome.ENGINE_FAILED


def _engine_error(status: int, body: bytes, api: Api, request_id: str) -> bytes:
    """Keep an error of the engine that has its API's shape, and give the others that shape.

    vLLM has six, among them FastAPI's `detail` on 404 and 405 and OpenAI's on /v1/messages (tests/fixtures/vllm).
    """
    own = b'{"type":"error"' if api is Api.MESSAGES else b'{"error":{'
    if body.startswith(own):
        return body
    error = GatewayError(error_message(body) or f"The engine answered {status}.", code=f"engine_{status}")
    error.status = status
    return error_body(error, api, request_id)
