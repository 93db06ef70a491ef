"""Pure: what a span says of a request: its attributes, and its phases as events. docs/observability.md has the tables.

Names are those of OpenTelemetry's semantic conventions where there are any (HTTP, generative AI), else `gatehouse.…`.
"""

from collections.abc import Iterator
from typing import Self

import msgspec

from gateway.context import Api, Exchange, Outcome
from gateway.logs import LogLine
from gateway.trace_context import TraceContext

Attribute = str | bool | int | float
_OPERATIONS = {
    Api.CHAT: "chat",
    Api.MESSAGES: "chat",
    Api.RESPONSES: "chat",
    Api.COMPLETIONS: "text_completion",
}
_FAULTS = {Outcome.ENGINE_FAILED, Outcome.TIMEOUT}


class Span(msgspec.Struct, frozen=True):
    """A request that has ended. Times are nanoseconds since the epoch."""

    trace: TraceContext
    line: LogLine  # what it takes from there is clean: bounded, no credential
    api: Api
    attempts: int
    start: int
    end: int
    phases: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, exchange: Exchange, trace: TraceContext, line: LogLine) -> Self:
        """The span of an exchange that has ended, `trace` being its place and `line` its line."""
        begin = int(exchange.started_at * 1e9)

        def at(clock: float) -> int:
            return begin + int((clock - exchange.started) * 1e9)

        reached = (
            ("authenticated", exchange.authenticated_at),
            ("admitted", exchange.admitted_at),
            ("sent", exchange.sent_at),
            ("first_token", exchange.first_token_at),
        )
        phases = tuple((name, at(clock)) for name, clock in reached if clock is not None)
        end = at(exchange.ended) if exchange.ended is not None else begin + int(line.duration_ms * 1e6)
        return cls(trace, line, exchange.api, exchange.engine_attempts, begin, end, phases)

    @property
    def name(self) -> str:
        """Method and route, as HTTP servers name their spans."""
        return f"{self.line.method} {self.line.route}"

    @property
    def failed(self) -> bool:
        """Whether it went wrong through no fault of the caller's."""
        return self.line.outcome in _FAULTS or self.line.status >= 500

    def attributes(self) -> dict[str, Attribute]:
        """All that are known."""
        return {name: value for name, value in self._attributes() if value is not None}

    def _attributes(self) -> Iterator[tuple[str, Attribute | None]]:
        line = self.line
        yield "http.request.method", line.method
        yield "http.route", line.route
        yield "http.response.status_code", line.status
        yield "client.address", line.client_ip or None
        yield "user_agent.original", line.user_agent or None
        yield "enduser.id", line.subject
        yield "error.type", None if line.outcome == Outcome.COMPLETE else line.error_code
        yield "gatehouse.request_id", line.request_id
        yield "gatehouse.team", line.team
        yield "gatehouse.plan", line.plan
        yield "gatehouse.outcome", line.outcome
        if line.model is None:
            return
        yield "gen_ai.operation.name", _OPERATIONS.get(self.api, "embeddings" if "embed" in line.route else None)
        yield "gen_ai.provider.name", "vllm"
        yield "gen_ai.request.model", line.model
        yield "gen_ai.request.stream", line.stream
        yield "gen_ai.usage.input_tokens", line.prompt_tokens
        yield "gen_ai.usage.output_tokens", line.completion_tokens
        yield "gen_ai.usage.cache_read.input_tokens", line.cached_tokens
        yield "gen_ai.usage.reasoning.output_tokens", line.reasoning_tokens
        if line.stream and line.ttft_ms is not None:
            yield "gen_ai.response.time_to_first_chunk", line.ttft_ms / 1000
        yield "gatehouse.usage.estimated", line.estimated
        yield "gatehouse.engine_attempts", self.attempts
