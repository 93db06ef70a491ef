"""One run: the making of one answer. It belongs to the gateway, not to the tab that asked for it.

The answer comes through the same relay as any client's; here it goes into frames, which are kept, and the text is
written to the database every few seconds and at the end.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from gateway.admission import Admission
from gateway.answer import Answer as WholeAnswer
from gateway.chat.answer import Answer, Delta, Kind
from gateway.chat.replay import Replay
from gateway.chat.shown import fit
from gateway.context import Exchange, Outcome
from gateway.dialects import error_message
from gateway.engine import Engine
from gateway.errors import BadRequest, EngineError, GatewayError, Unavailable
from gateway.observe import outcome_of
from gateway.relay import Relay
from gateway.routes import Route
from gateway.shape import Shaped
from gateway.store.chat_rows import Ending, Message, Status
from gateway.timing import Timing

BATCH_SECONDS = 0.04
LOOK_SECONDS = 0.25  # between two looks at the waiting line
USAGE_SECONDS = 1.0
_DOWN = frozenset({"failed", "stopped"})  # states of an engine that does not come by itself
_CONTEXT = re.compile(r"context length|longer than the maximum model length|max_model_len")
_INTERRUPTED = "The answer was interrupted: the gateway was stopped."


class Run:
    """One answer in the making. `exchange` is admitted; `wait_seconds` is the longest wait for an engine.

    It is kept for a while after its end, for its frames: it holds neither the conversation nor, then, the answer.
    """

    def __init__(self, *, run_id: str, owner: str, exchange: Exchange, wait_seconds: float) -> None:
        self.id, self.owner = run_id, owner
        self.replay = Replay(run_id)
        self.answer = Answer()
        self.exchange = exchange
        self.state = "queued"
        self.task: asyncio.Task[None] | None = None
        self.stopped = False
        self.ended = asyncio.Event()
        self._wait_until = time.monotonic() + wait_seconds
        self._error: dict[str, Any] | None = None
        self._batch = _Batch(self._flush)
        self._usage_at = time.monotonic()
        self._content_at: float | None = None

    def stop(self) -> None:
        """End it for its reader; what has come stays."""
        if self.task is not None and not self.task.done():
            self.stopped = True
            self.exchange.end(Outcome.CLIENT_GONE, "stopped")
            self.task.cancel()

    async def work(
        self, shaped: Shaped, body: bytes, *, relay: Relay, route: Route, engine: Engine, admission: Admission
    ) -> None:
        """Make the answer. Sets status and outcome of the exchange, but where it is cancelled."""
        looking = asyncio.create_task(self._look(engine, admission))
        try:
            await self._relayed(shaped, body, relay=relay, route=route, engine=engine)
        except GatewayError as error:
            self.exchange.status = self.exchange.status or error.status
            self.exchange.end(outcome_of(error), error.code)
            self.fail(error)
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking

    async def _relayed(self, shaped: Shaped, body: bytes, *, relay: Relay, route: Route, engine: Engine) -> None:
        while True:
            sink = _Sink(self)
            try:
                answer = await relay.relay_to(sink, self.exchange, route, shaped, body)
            except Unavailable:
                if engine.state in _DOWN or time.monotonic() >= self._wait_until:
                    raise
                await self._until_ready(engine)
                continue
            if sink.response is None:
                self._refused(answer)
            return

    async def _until_ready(self, engine: Engine) -> None:
        waited = time.monotonic()
        await asyncio.sleep(LOOK_SECONDS)  # nobody may have noticed yet that it is away
        while not engine.ready and engine.state not in _DOWN and time.monotonic() < self._wait_until:
            await engine.wait_ready(LOOK_SECONDS)
        self.exchange.held_seconds += time.monotonic() - waited

    def _refused(self, answer: web.StreamResponse) -> None:
        """The engine answered in one piece: an error."""
        body = answer.body if isinstance(answer, WholeAnswer) else b""
        self.exchange.status = answer.status
        message = error_message(body) or f"The engine answered {answer.status}."
        too_long = answer.status == 400 and _CONTEXT.search(message)
        if too_long:
            self.fail(BadRequest(message, code="context_length_exceeded"), details=_lengths(message))
            return
        error = EngineError(message, code=f"engine_{answer.status}")
        error.status = answer.status
        self.fail(error)

    async def _look(self, engine: Engine, admission: Admission) -> None:
        """Say what it waits for until the answer begins."""
        shown: dict[str, Any] = {}
        while self.exchange.first_token_at is None:
            if not engine.ready:
                names = ("phase", "percent", "elapsed_s", "eta_s", "reason")
                state, now = "loading", {"state": engine.state, **{name: engine.status.get(name) for name in names}}
            elif (place := admission.place(self.exchange)) is not None:
                eta = None if place.eta_seconds is None else round(place.eta_seconds, 1)
                state, now = "queued", {"ahead": place.ahead, "eta_s": eta}
            elif self.exchange.sent_at is not None:
                state, now = "started", {}
            else:  # about to be sent
                state, now = self.state, shown
            if (state, now) != (self.state, shown):
                self.state, shown = state, now
                self.replay.add(state, now)
            await asyncio.sleep(LOOK_SECONDS)

    def take(self, deltas: list[Delta]) -> None:
        """More of the answer has come."""
        if deltas and self.state != "answering":
            if self.state != "started":
                self.replay.add("started")
            self.state = "answering"
        for delta in deltas:
            if delta.kind == "c" and self._content_at is None:
                self._content_at = time.monotonic()
            self._batch.add(delta)

    def fail(self, error: GatewayError, details: dict[str, int] | None = None) -> None:
        """Note why there will be no more."""
        self._batch.flush()
        wait = error.headers.get("Retry-After") or error.headers.get("retry-after")
        self._error = {
            "code": error.code,
            "message": error.message,
            "status": error.status,
            "request_id": self.exchange.request_id,
            "retry_after": float(wait) if wait is not None and wait.isdecimal() else None,
            "details": details,
        }

    def _flush(self, kind: Kind, text: str) -> None:
        self.replay.add(kind, {"text": text})
        now, usage = time.monotonic(), self.exchange.usage
        if usage.completion_tokens and now - self._usage_at >= USAGE_SECONDS:
            self._usage_at = now
            names = ("prompt_tokens", "completion_tokens")
            self.replay.add("usage", {name: getattr(usage, name) for name in names})

    def ending(self) -> Ending:
        """What there is to keep, once the exchange has ended."""
        self._batch.flush()
        exchange, timing = self.exchange, Timing.of(self.exchange)
        status, finish = Status.FAILED, "error"
        if self.stopped:
            status, finish = Status.STOPPED, "stopped"
        elif exchange.outcome is Outcome.SHUTDOWN:
            status, finish = Status.INTERRUPTED, "interrupted"
        elif self._error is None and exchange.outcome is Outcome.COMPLETE:
            status, finish = Status.DONE, self.answer.finish or "stop"
        if status in {Status.FAILED, Status.INTERRUPTED} and self._error is None:
            code = "interrupted" if status is Status.INTERRUPTED else exchange.error_code or "internal_error"
            message = _INTERRUPTED if status is Status.INTERRUPTED else "The answer could not be made."
            self.fail(EngineError(message, code=code))
        usage = exchange.usage
        names = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
        first = exchange.first_token_at
        thought_until = self._content_at or exchange.ended
        thought = thought_until - first if first is not None and thought_until and self.answer.reasoning else None
        return Ending(
            content=self.answer.content,
            reasoning=self.answer.reasoning,
            status=status,
            finish=finish,
            ended_at=time.time(),
            error=self._error if status in {Status.FAILED, Status.INTERRUPTED} else None,
            usage={name: getattr(usage, name) for name in names} if usage.total else None,
            ttft_ms=_milliseconds(timing.ttft),
            tok_s=None if timing.tokens_per_second is None else round(timing.tokens_per_second, 2),
            queued_ms=_milliseconds(timing.queue),
            thought_ms=_milliseconds(thought),
        )

    def end(self, ending: Ending) -> None:
        """The last frames."""
        add_end(self.replay, ending)
        self.state = "ended"
        self.answer = Answer()
        self.ended.set()


def complete(replay: Replay, message: Message) -> None:
    """Add what is missing of an answer that has ended: the rest of its text, and the last frames."""
    told = map(fit, replay.texts())
    for kind, known, whole in zip("rc", told, (message.reasoning, message.content), strict=True):
        if whole.startswith(known) and whole != known:
            replay.add(kind, {"text": whole[len(known) :]})
    add_end(replay, message)


def add_end(replay: Replay, ending: Ending | Message) -> None:
    """Add a run's last frames."""
    if ending.error is not None:
        replay.add("error", ending.error)
    names = ("finish", "status", "usage", "ttft_ms", "tok_s", "queued_ms", "thought_ms")
    replay.add("end", {name: getattr(ending, name) for name in names})


class _Sink:
    """Takes the relay's events in a client's place."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.response: web.StreamResponse | None = None

    def when_gone(self, do: Callable[[], None] | None) -> None:
        """Nothing: it stays."""

    def offer(self, data: bytes, _fields: str) -> bool:
        if self.response is None and not data.startswith(b":"):  # a comment is nothing of the answer
            self.response = web.StreamResponse()
            self._run.exchange.status = self.response.status
        self._run.exchange.bytes_out += len(data)
        self._run.take(self._run.answer.feed(data))
        return True

    async def write(self, data: bytes, fields: str) -> None:
        self.offer(data, fields)

    async def finish(self, data: bytes, fields: str) -> None:
        self.offer(data, fields)

    async def fail(self, error: GatewayError, _sequence_number: int) -> None:
        self._run.fail(error)

    def drop(self) -> None:
        """Nothing: what has come is kept."""

    def cut(self) -> None:
        """Nothing."""


class _Batch:
    """Puts pieces together to one frame in BATCH_SECONDS."""

    def __init__(self, give: Callable[[Kind, str], None]) -> None:
        self._give = give
        self._pieces: list[Delta] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, delta: Delta) -> None:
        if self._pieces and self._pieces[-1].kind != delta.kind:
            self.flush()
        self._pieces.append(delta)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_SECONDS, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pieces, self._pieces = self._pieces, []
        if pieces:
            self._give(pieces[0].kind, "".join(piece.text for piece in pieces))


def _lengths(message: str) -> dict[str, int]:
    """By how much a prompt is too long, as far as vLLM's message says (tests/fixtures/vllm/cap/err_long_prompt.txt)."""
    patterns = {
        "max_tokens": r"context length is (?:only )?(\d+)",
        "prompt_tokens": r"(\d+) (?:input tokens|in the messages|tokens from the input)",
        "output_tokens": r"(\d+) (?:output tokens|in the completion)",
    }
    return {name: int(found[1]) for name, pattern in patterns.items() if (found := re.search(pattern, message))}


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
