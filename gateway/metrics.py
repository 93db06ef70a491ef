"""The `gatehouse_` metrics. `observe` is called once a request; label children are cached, for `.labels()` costs more.

Labels are bounded: a model that is not served is `other`, a plan that is not configured `none`, a team without limits
of its own `other`; subjects are no labels. OpenTelemetry's GenAI names for the same things are in docs.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from gateway.connections.register import REASONS
from gateway.context import Exchange, Outcome
from gateway.streak import Streak
from gateway.tally import Spread, Tally
from gateway.timing import Timing

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# LLM requests last from milliseconds (refused) to minutes (long streams).
DURATION_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
TTFT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60)
INTER_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
OVERHEAD_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 30)

ENGINE_STATES = (
    "unknown", "unreachable", "stopped", "starting", "warming", "ready", "stalled", "restarting", "draining", "failed",
)  # fmt: skip
LIMITER_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)

SQL_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_COMPLETE = Outcome.COMPLETE  # enum's members are slow to name
LAG_INTERVAL = 0.5  # seconds between two probes of the event loop
MOST_REASONS = 64
NEAR_BUDGET = 0.8  # the share of a budget of tokens from which on a request counts as near its end
# there from the start, at 0: the first of them, too, is an increase that an alert sees
SINKS = ("queue", "file", "stdout", "bodies")
SPAN_LOSSES = ("queue", "collector")
EXPECTED_REASONS = ("rate_limit_exceeded", "insufficient_quota")


_Key = tuple[str, str, str, int, Outcome | None]


class _Children(msgspec.Struct, frozen=True):
    """Those of one route, model, plan, status and outcome; only `requests` tells the last two apart."""

    requests: Tally
    duration: Spread
    overhead: Spread
    ttft: Spread
    queue: Spread
    inter_token: Spread
    prompt: Tally
    cached: Tally
    completion: Tally
    reasoning: Tally


class _Team(msgspec.Struct, frozen=True):
    """The children of one team."""

    requests: Tally
    prompt: Tally
    completion: Tally


class Metrics:
    """All metrics of one gateway process, in a registry of its own."""

    def __init__(self, *, models: Iterable[str], plans: Iterable[str], version: str, teams: Iterable[str] = ()) -> None:
        """`models`, `plans` and `teams` are those that may become labels."""
        self.registry = registry = CollectorRegistry()
        self._models = set(models)
        self._plans = frozenset(plans)
        self._teams = frozenset(teams)
        self._of_team: dict[str, _Team] = {}
        self._children: dict[_Key, _Children] = {}

        shape = ("route", "model", "plan")
        self.requests_total = Counter(
            "gatehouse_requests", "Requests that ended.", (*shape, "status", "outcome"), registry=registry
        )
        self.duration = Histogram(
            "gatehouse_request_duration_seconds",
            "From arrival to end.",
            shape,
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.ttft = Histogram(
            "gatehouse_time_to_first_token_seconds", "Of streams: from arrival to the first token.", shape[1:],
            buckets=TTFT_BUCKETS, registry=registry,
        )  # fmt: skip
        self.inter_token = Histogram(
            "gatehouse_inter_token_latency_seconds", "Mean time between the tokens of one stream.", shape[1:],
            buckets=INTER_TOKEN_BUCKETS, registry=registry,
        )  # fmt: skip
        self.queue = Histogram(
            "gatehouse_queue_seconds", "Of streams: from sending to the engine to the first token.",
            shape[1:], buckets=TTFT_BUCKETS, registry=registry,
        )  # fmt: skip
        self.overhead = Histogram(
            "gatehouse_overhead_seconds", "Spent in the gateway itself before the request was sent on.", shape[:1],
            buckets=OVERHEAD_BUCKETS, registry=registry,
        )  # fmt: skip
        self.tokens_total = Counter(
            "gatehouse_tokens", "Tokens; cached ones are among prompt, reasoning among completion.",
            ("kind", "model", "plan"), registry=registry,
        )  # fmt: skip
        self.team_requests_total = Counter(
            "gatehouse_team_requests", "Requests that ended, of teams with limits of their own.", ("team",),
            registry=registry,
        )  # fmt: skip
        self.team_tokens_total = Counter(
            "gatehouse_team_tokens", "Tokens of teams with limits of their own.", ("team", "kind"), registry=registry
        )
        self.in_flight = Gauge("gatehouse_in_flight", "Requests being served now.", registry=registry)
        self.rejections = Counter(
            "gatehouse_rejections", "Requests refused, by error code.", ("reason",), registry=registry
        )
        self.limiter = Histogram(
            "gatehouse_limiter_seconds", "How long the limiter, Redis where there is one, took to answer.",
            buckets=LIMITER_BUCKETS, registry=registry,
        )  # fmt: skip
        self._limiter = Spread(self.limiter)
        self.sql = Histogram(
            "gatehouse_sql_seconds", "Transactions, from asking for a connection to the end.", ("kind",),
            buckets=SQL_BUCKETS, registry=registry,
        )  # fmt: skip
        self.sql_failures = Counter(
            "gatehouse_sql_failures", "Transactions that the database failed.", ("kind",), registry=registry
        )
        self.near_budget = Counter(
            "gatehouse_near_budget_requests", "Requests at 80 % of a day's or month's tokens, or above.", ("plan",),
            registry=registry,
        )  # fmt: skip
        for name in self._plans:
            self.near_budget.labels(name)
        self.consecutive_timeouts = Gauge(
            "gatehouse_consecutive_timeouts", "Timeouts since the engine last answered.", registry=registry
        )
        self.connections = Gauge("gatehouse_connections", "Open connections of clients.", registry=registry)
        self.connections_ended = Counter(
            "gatehouse_connections_ended", "Connections that the gateway ended or refused, by reason.", ("reason",),
            registry=registry,
        )  # fmt: skip
        self.log_lines_dropped = Counter(
            "gatehouse_log_lines_dropped", "Log lines that could not be kept, by sink.", ("sink",), registry=registry
        )
        self.spans_dropped = Counter(
            "gatehouse_spans_dropped", "Spans that did not reach the collector, by what did not take them.",
            ("reason",), registry=registry,
        )  # fmt: skip
        self.limiter_mode = Gauge(
            "gatehouse_limiter_mode", "1 for the mode the limiter is in.", ("mode",), registry=registry
        )
        self.event_loop_lag = Gauge(
            "gatehouse_event_loop_lag_seconds", "How late the event loop woke at the last probe.", registry=registry
        )
        self._engine_state = Gauge(
            "gatehouse_engine_state", "1 for the state the engine is in.", ("state",), registry=registry
        )
        Gauge("gatehouse_build_info", "1; the version is the label.", ("version",), registry=registry).labels(
            version
        ).set(1)
        ProcessCollector(namespace="gatehouse", registry=registry)  # CPU, memory, file descriptors
        self.streak = Streak()
        self._reasons: dict[str, Counter] = {}
        for sink in SINKS:
            self.log_lines_dropped.labels(sink)
        for kind in ("read", "write"):
            self.sql.labels(kind)
            self.sql_failures.labels(kind)
        for reason in SPAN_LOSSES:
            self.spans_dropped.labels(reason)
        for reason in EXPECTED_REASONS:
            self._reason(reason)
        for reason in REASONS:
            self.connections_ended.labels(reason)

    def observe(self, exchange: Exchange, timing: Timing | None = None) -> None:
        """Count one request that has ended; `timing` defaults to an end just now. Never waits."""
        timing = timing or Timing.of(exchange)
        usage, outcome, principal = exchange.usage, exchange.outcome, exchange.principal
        model = exchange.model if exchange.model in self._models else "none" if exchange.model is None else "other"
        plan = principal.plan if principal is not None and principal.plan in self._plans else "none"
        key = (exchange.route, model, plan, exchange.status, outcome)
        children = self._children.get(key) or self._make_children(key)
        children.requests.add()
        children.duration.observe(timing.duration)
        if exchange.sent_at is not None:
            children.overhead.observe(timing.overhead)
        # an answer in one piece has its first token with the last: it says nothing of how soon they begin
        if exchange.stream and timing.ttft is not None:
            children.ttft.observe(timing.ttft)
        if exchange.stream and timing.queue is not None:
            children.queue.observe(timing.queue)
        if timing.inter_token is not None:
            children.inter_token.observe(timing.inter_token)
        if usage.prompt_tokens:
            children.prompt.add(usage.prompt_tokens)
        if usage.cached_tokens:
            children.cached.add(usage.cached_tokens)
        if usage.completion_tokens:
            children.completion.add(usage.completion_tokens)
        if usage.reasoning_tokens:
            children.reasoning.add(usage.reasoning_tokens)
        if exchange.limiter_seconds is not None:
            self._limiter.observe(exchange.limiter_seconds)
        if exchange.budget_used >= NEAR_BUDGET:
            self.near_budget.labels(plan).inc()
        if self._teams:
            name = self._team(exchange)
            team = self._of_team.get(name) or self._make_team(name)
            team.requests.add()
            team.prompt.add(usage.prompt_tokens)
            team.completion.add(usage.completion_tokens)
        if outcome is _COMPLETE:
            if exchange.sent_at is not None:
                if self.streak.timed_out_at:
                    self.consecutive_timeouts.set(0)
                self.streak.answered(exchange.started + timing.duration)
        elif outcome is Outcome.REJECTED:
            self._reason(exchange.error_code or "none").inc()
        elif outcome is Outcome.TIMEOUT:
            self.streak.timed_out(exchange.started + timing.duration)
            self.consecutive_timeouts.set(len(self.streak))

    def serve_model(self, name: str) -> None:
        """Let a model that the engine serves be a label."""
        self._models.add(name)

    def serve_plans(self, names: Iterable[str]) -> None:
        """Let these plans be labels, too."""
        self._plans |= set(names)

    def watch_engine(self, state: Callable[[], str]) -> None:
        """Show the engine's state, asked for at each scrape."""
        for name in ENGINE_STATES:
            self._engine_state.labels(name).set_function(partial(_is_in, state, name))

    def watch_in_flight(self, count: Callable[[], int]) -> None:
        """Show the number of requests being served, asked for at each scrape."""
        self.in_flight.set_function(count)

    def set_limiter_mode(self, mode: str) -> None:
        """Say which limiter is in force: `memory`, `redis`, and what takes over when Redis is away."""
        self.limiter_mode.clear()
        self.limiter_mode.labels(mode).set(1)

    def watch_connections(self, count: Callable[[], int]) -> None:
        """Ask `count` for the open connections whenever metrics are exposed."""
        self.connections.set_function(count)

    def connection_ended(self, reason: str) -> None:
        """Count a connection that was ended or refused here."""
        self.connections_ended.labels(reason).inc()

    def dropped(self, sink: str, count: int) -> None:
        """Count log lines that were not kept; callable from any thread."""
        self.log_lines_dropped.labels(sink).inc(count)

    def transaction(self, kind: str, seconds: float, failed: bool) -> None:
        """Count one SQL transaction."""
        self.sql.labels(kind).observe(seconds)
        if failed:
            self.sql_failures.labels(kind).inc()

    def spans_lost(self, reason: str, count: int) -> None:
        """Count spans that did not reach the collector; callable from any thread."""
        self.spans_dropped.labels(reason).inc(count)

    async def watch_event_loop(self) -> None:
        """Probe the event loop until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self.event_loop_lag.set(max(0.0, loop.time() - due))

    async def expose(self) -> bytes:
        """The metrics in Prometheus' text format; made in a thread, for it takes milliseconds."""
        return await asyncio.to_thread(generate_latest, self.registry)

    def _team(self, exchange: Exchange) -> str:
        team = exchange.principal.team if exchange.principal else None
        if not team:
            return "none"
        return team if team in self._teams else "other"

    def _make_team(self, name: str) -> _Team:
        team = self._of_team[name] = _Team(
            requests=Tally(self.team_requests_total.labels(name)),
            prompt=Tally(self.team_tokens_total.labels(name, "prompt")),
            completion=Tally(self.team_tokens_total.labels(name, "completion")),
        )
        return team

    def _reason(self, code: str) -> Counter:
        known = self._reasons.get(code)
        if known is None:
            # The engine's own codes may be among them; a flood of unheard-of ones must not make series without end.
            known = self.rejections.labels(code if len(self._reasons) < MOST_REASONS else "other")
            if len(self._reasons) < MOST_REASONS:
                self._reasons[code] = known
        return known

    def _make_children(self, key: _Key) -> _Children:
        route, model, plan, status, outcome = key
        tokens = {
            kind: Tally(self.tokens_total.labels(kind, model, plan))
            for kind in ("prompt", "cached", "completion", "reasoning")
        }
        children = self._children[key] = _Children(
            requests=Tally(self.requests_total.labels(route, model, plan, status, outcome or "none")),
            duration=Spread(self.duration.labels(route, model, plan)),
            overhead=Spread(self.overhead.labels(route)),
            ttft=Spread(self.ttft.labels(model, plan)),
            queue=Spread(self.queue.labels(model, plan)),
            inter_token=Spread(self.inter_token.labels(model, plan)),
            **tokens,
        )
        return children


def _is_in(state: Callable[[], str], name: str) -> float:
    now = state()
    return float(name == (now if now in ENGINE_STATES else "unknown"))
