"""Pure: the line that a request leaves, and what may stand in it."""

import datetime as dt
import re

import msgspec

from gateway.context import Exchange
from gateway.timing import Timing

_CREDENTIAL = re.compile(r"eyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]+)?|(?i:bearer|basic)\s+[\w.~+/=-]{8,}")


class LogLine(msgspec.Struct, frozen=True):
    """One request. Times are milliseconds as gateway/timing.py defines them; the order of fields is the line's."""

    ts: str
    request_id: str
    subject: str | None
    team: str | None
    plan: str | None
    token_id: str | None
    client_ip: str
    method: str
    route: str
    model: str | None
    status: int
    outcome: str | None
    stream: bool
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    estimated: bool
    ttft_ms: float | None
    duration_ms: float
    queue_ms: float | None
    overhead_ms: float
    tokens_per_second: float | None
    bytes_in: int
    bytes_out: int
    user_agent: str
    error_code: str | None

    @classmethod
    def of(cls, exchange: Exchange, timing: Timing) -> "LogLine":
        """The line of a request that has ended."""
        principal, usage = exchange.principal, exchange.usage
        return cls(
            ts=timestamp(exchange.started_at),
            request_id=clean(exchange.request_id),
            subject=clean(principal.subject) if principal else None,
            team=clean(principal.team) if principal and principal.team else None,
            plan=clean(principal.plan) if principal else None,
            token_id=clean(principal.token_id) if principal and principal.token_id else None,
            client_ip=exchange.client_ip,
            method=clean(exchange.method),
            route=exchange.route,
            model=clean(exchange.model) if exchange.model else None,
            status=exchange.status,
            outcome=exchange.outcome,
            stream=exchange.stream,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            estimated=usage.estimated,
            ttft_ms=_milliseconds(timing.ttft),
            duration_ms=round(timing.duration * 1000, 3),
            queue_ms=_milliseconds(timing.queue),
            overhead_ms=round(timing.overhead * 1000, 3),
            tokens_per_second=None if timing.tokens_per_second is None else round(timing.tokens_per_second, 2),
            bytes_in=exchange.bytes_in,
            bytes_out=exchange.bytes_out,
            user_agent=clean(exchange.user_agent),
            error_code=clean(exchange.error_code) if exchange.error_code else None,
        )

    def json(self) -> bytes:
        """The line as the file has it."""
        return _encode(self) + b"\n"

    def console(self) -> bytes:
        """The line for people."""
        ttft = "" if self.ttft_ms is None else f" first token {self.ttft_ms:.0f} ms"
        speed = "" if self.tokens_per_second is None else f" {self.tokens_per_second:.0f} tok/s"
        error = "" if self.error_code is None else f" ({self.error_code})"
        return (
            f"{self.ts[11:23]} {self.status} {self.method} {self.route} {self.subject or '-'} {self.model or '-'}"
            f" {self.outcome}{error} {self.duration_ms:.0f} ms{ttft}"
            f" {self.prompt_tokens}+{self.completion_tokens} tokens{speed} {self.request_id}\n"
        ).encode()


_encode = msgspec.json.Encoder().encode


def clean(text: str, longest: int = 256) -> str:
    """Fit for a log: bounded, no credential, nothing that a terminal obeys or that is no valid Unicode."""
    text = text[:longest]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return redact(text)


def redact(text: str) -> str:
    """The text without what looks like a token or an Authorization header."""
    return _CREDENTIAL.sub("[redacted]", text)


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as `2026-11-22T11:36:32.123Z`."""
    when = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03}Z"


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
