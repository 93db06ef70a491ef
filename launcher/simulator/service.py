"""What every handler works with: the service's parts, one call, and the base of all answers."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from launcher.simulator.args import Options
from launcher.simulator.engine import Engine, Generation, Sequence
from launcher.simulator.errors import ENGINE_DEAD, SHUT_DOWN, ApiError, dumps, engine_dead, unknown_model
from launcher.simulator.http import Request
from launcher.simulator.knobs import Knobs
from launcher.simulator.metrics import Metrics
from launcher.simulator.params import Params

VERSION = "0.32.0"
JSON_HEADERS = [(b"content-type", b"application/json"), (b"vary", b"Origin")]
SSE_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"vary", b"Origin")]
KEEP_ALIVE_SECONDS = 1.0
_RECORDS_KEPT = 20_000
_BODY_KEPT_BYTES = 65_536


@dataclass(slots=True)
class Record:
    """What reached the engine, for `GET /sim/requests`."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body_sha256: str
    body: str | None
    at: float
    began_at: float | None = None  # the first token
    ended_at: float | None = None
    status: int = 0
    request_id: str = ""
    prompt_tokens: int = 0
    generated: int = 0
    sent: int = 0
    finish: list[str | None] = field(default_factory=list)
    aborted: bool = False
    fault: str = "none"


@dataclass(slots=True, eq=False)
class Service:
    """The simulated server of one process. `shutting_down` refuses new work while old work finishes."""

    options: Options
    knobs: Knobs
    engine: Engine
    metrics: Metrics
    loop: asyncio.AbstractEventLoop
    die: Callable[[], None]
    engine_death: Callable[[], None]
    fingerprint: str = field(default_factory=lambda: f"simulated-{VERSION}-{secrets.token_hex(4)}")
    started: int = field(default_factory=lambda: int(time.time()))
    shutting_down: bool = False
    load: int = 0
    records: deque[Record] = field(default_factory=lambda: deque(maxlen=_RECORDS_KEPT))
    responses: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The name answers carry."""
        return self.options.served[0]


@dataclass(slots=True, eq=False)
class Call:
    """One request on its way through a handler."""

    service: Service
    request: Request
    record: Record
    body: dict[str, Any]

    def json(self, status: int, value: object, *, close: bool = False) -> None:
        """Answer with JSON."""
        self.record.status = status
        self.request.respond(status, JSON_HEADERS, dumps(value), close=close)

    def check_model(self) -> str:
        """The model's name to answer with; 404 when it is not served."""
        name = self.body.get("model")
        if name and name not in self.service.options.served:
            raise unknown_model(str(name), self.service.options.served)
        return str(name or self.service.model)

    def request_id(self) -> str:
        """What follows the API's prefix in an answer's id: the client's id where it names one."""
        given = self.request.header(b"x-request-id") or self.body.get("request_id")
        return str(given) if given else secrets.token_hex(8)

    def check_engine(self) -> None:
        """500 while the engine is dead or shutting down."""
        if self.service.engine.dead is not None:
            raise engine_dead(self.service.engine.dead)
        if self.service.shutting_down:
            raise engine_dead(SHUT_DOWN)


class Answer:
    """Base of the engine's listeners: one call, one or more generations, streaming or not.

    A subclass writes what its API writes: `token` for a stream's next token, `complete` when every generation has
    ended, `error` when the engine died. Tokens are counted as sent when they go out.
    """

    def __init__(self, call: Call, params: Params, prefix: str) -> None:
        self.call, self.params, self.service = call, params, call.service
        self.request = call.request
        self.id = prefix + call.request_id()
        self.created = int(time.time())
        self.generations: list[Generation] = []
        self.ended = False
        self._keep_alive: asyncio.TimerHandle | None = None

    # subclass duties

    def on_token(self, sequence: Sequence, piece: str, finish: str | None) -> None:
        """Write a stream's next token (not called when the answer is not streamed)."""

    def complete(self) -> None:
        """Write the end of the stream, or the whole answer."""
        raise NotImplementedError

    def error(self, error: ApiError) -> None:
        """Write the engine's death into a stream (a plain answer is a 500)."""
        raise NotImplementedError

    # what the engine calls

    def token(self, sequence: Sequence, piece: str, finish: str | None) -> None:
        """Count and pass on one token."""
        if self.ended:
            return
        self._stop_keep_alive()
        if self.call.record.began_at is None:
            self.call.record.began_at = time.time()
        self.call.record.generated += 1
        if self.params.stream:
            self.call.record.sent += 1
            self.on_token(sequence, piece, finish)
        if finish is not None:
            self._finish_if_whole()

    def aborted(self, sequence: Sequence) -> None:
        """SIGTERM: streams of chat and completions end with `abort`; the others see the engine die, as recorded."""
        if self.ended:
            return
        if not self.params.stream:
            self.failed()
            return
        self.on_token(sequence, "", "abort")
        self._finish_if_whole()

    def failed(self) -> None:
        """The engine is gone."""
        if self.ended:
            return
        self._end()
        error = engine_dead(self.service.engine.dead or ENGINE_DEAD)
        if self.params.stream:
            self.error(error)
        else:
            self.call.json(error.status, error.body(), close=True)

    # what handlers and faults call

    def watch(self, *, keep_alive: bool) -> None:
        """Abort the work when the client leaves; while a stream waits for its first token send comments."""
        self.request.on_disconnect = self.disconnected
        self.service.load += 1
        if keep_alive:
            self._keep_alive = self.service.loop.call_later(KEEP_ALIVE_SECONDS, self._comment)

    def begin_stream(self) -> None:
        """Send the stream's headers, which come at once even when the request has to wait."""
        self.call.record.status = 200
        self.request.stream(SSE_HEADERS)

    def disconnected(self) -> None:
        """Nobody reads this any more: free the engine."""
        if not self.ended:
            self.call.record.aborted = True
            self._end()
            for generation in self.generations:
                self.service.engine.abort(generation)

    def drop(self) -> None:
        """Stop the work; what the connection does next is the caller's affair."""
        self._end()
        for generation in self.generations:
            self.service.engine.abort(generation)

    def _finish_if_whole(self) -> None:
        if all(generation.finished for generation in self.generations):
            self._end()
            if not self.params.stream:
                self.call.record.sent = self.call.record.generated
            self.complete()

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self.service.load -= 1
        self.request.on_disconnect = None
        self._stop_keep_alive()
        record = self.call.record
        record.ended_at = time.time()
        record.generated = sum(generation.produced for generation in self.generations)
        record.finish = [each.finish for generation in self.generations for each in generation.sequences]

    def _comment(self) -> None:
        self.request.write(b": keep-alive\n\n")
        self._keep_alive = self.service.loop.call_later(KEEP_ALIVE_SECONDS, self._comment)

    def _stop_keep_alive(self) -> None:
        if self._keep_alive is not None:
            self._keep_alive.cancel()
            self._keep_alive = None


def record_of(request: Request) -> Record:
    """The record of an arriving request."""
    keep = len(request.body) <= _BODY_KEPT_BYTES
    return Record(
        method=request.method,
        target=request.target,
        headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers],
        body_sha256=hashlib.sha256(request.body).hexdigest(),
        body=request.body.decode("utf-8", "replace") if keep else None,
        at=time.time(),
    )
