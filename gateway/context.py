"""The words all parts share: who calls (Principal), what happens to one request (Exchange), how it ended (Outcome).

Every stage writes its own fields of the Exchange; `observe.py` turns the whole into one log line and the metrics.
"""

import enum
import time
from dataclasses import dataclass

import msgspec
from aiohttp import web
from msgspec import field

from gateway.bodies import Bodies
from gateway.trace_context import TraceContext


class Api(enum.StrEnum):
    """The protocol a route speaks; it decides how errors look and where usage stands."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    OTHER = "other"


class Outcome(enum.StrEnum):
    """How a request ended. Decided once, in one place; log level, metric label and settlement match on it."""

    COMPLETE = "complete"
    CLIENT_GONE = "client_gone"
    ENGINE_FAILED = "engine_failed"
    TIMEOUT = "timeout"
    REJECTED = "rejected"
    SHUTDOWN = "shutdown"


class Via(enum.StrEnum):
    """How the caller proved who they are."""

    BEARER = "bearer"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose identity is proven."""

    subject: str
    team: str | None
    scopes: frozenset[str]
    plan: str
    models: tuple[str, ...]  # globs; empty means every model
    token_id: str | None
    via: Via


class Usage(msgspec.Struct):
    """Tokens of one request, as the engine reported them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False  # the engine gave no figure; see gateway/usage.py for when

    @property
    def total(self) -> int:
        """Prompt and completion tokens together: what limits and budgets count."""
        return self.prompt_tokens + self.completion_tokens


class Exchange(msgspec.Struct, eq=False):
    """One request and all that is known of it. Clocks: `started_at` is wall time, the rest `time.monotonic()`."""

    request_id: str
    method: str
    route: str  # the route's template, or "unmatched": bounded, fit for a metric label
    api: Api
    client_ip: str
    user_agent: str
    started_at: float = field(default_factory=time.time)
    started: float = field(default_factory=time.monotonic)
    principal: Principal | None = None
    model: str | None = None
    stream: bool = False
    ended: float | None = None
    status: int = 0
    outcome: Outcome | None = None
    error_code: str | None = None
    usage: Usage = field(default_factory=Usage)
    prompt_estimate: int = 0
    reserved_tokens: int = 0
    limiter_seconds: float | None = None  # how long the limiter took to say yes or no
    budget_used: float = 0.0  # share of the tightest budget of a day or month that is taken, by its reservation too
    unmetered: list[str] = field(
        default_factory=list
    )  # pieces of text: generated, sent on, and not covered by `usage`: counted after the request's end
    bodies: Bodies | None = None  # what was asked and answered, where the record shall have it
    trace: TraceContext | None = None  # its place in a trace, where spans are exported
    response_id: str | None = None  # of the Responses API, by which its owner may fetch it again
    authenticated_at: float | None = None
    admitted_at: float | None = None  # limits had said yes
    held_seconds: float = 0.0  # waited for an engine that was not ready
    sent_at: float | None = None  # the request left for the engine
    first_token_at: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    engine_attempts: int = 0
    headers: dict[str, str] = field(default_factory=dict)  # added to whatever answer goes out
    rate_lines: str = ""  # added, too: the `x-ratelimit-*` fields, as they go over the wire
    carried_on: bool = False  # its work goes on after the answer to its request: it ends with that work
    stopped_by: Exception | None = None  # the gateway ended it: why its task was cancelled, where no client left

    def end(self, outcome: Outcome, error_code: str | None = None) -> None:
        """Record how it ended; the first word stands."""
        if self.outcome is None:
            self.outcome = outcome
            self.error_code = error_code


EXCHANGE: web.RequestKey[Exchange] = web.RequestKey("exchange", Exchange)
