"""Pure: the line that a request leaves, and what may stand in it."""

import datetime as dt
import re
from functools import lru_cache

import msgspec

from gateway.context import Exchange
from gateway.timing import Timing

_CREDENTIAL = re.compile(r"eyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]+)?|(?i:bearer|basic)\s+[\w.~+/=-]{8,}")


class LogLine(msgspec.Struct, frozen=True, omit_defaults=True):
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
    request_body: str | None = None
    response_body: str | None = None

    @classmethod
    def of(cls, exchange: Exchange, timing: Timing) -> "LogLine":
        """The line of a request that has ended. Its fields are passed in their order: by name msgspec takes longer."""
        principal, usage = exchange.principal, exchange.usage
        subject = team = plan = token_id = None
        if principal is not None:
            subject, team, plan, token_id = _names(
                principal.subject, principal.team, principal.plan, principal.token_id
            )
        return cls(
            timestamp(exchange.started_at),
            clean(exchange.request_id),
            subject,
            team,
            plan,
            token_id,
            exchange.client_ip,
            _name(exchange.method) or "",
            exchange.route,
            _name(exchange.model),
            exchange.status,
            exchange.outcome,
            exchange.stream,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            usage.reasoning_tokens,
            usage.estimated,
            _milliseconds(timing.ttft),
            round(timing.duration * 1e6) / 1000,  # of an integer it is much faster than to 3 digits
            _milliseconds(timing.queue),
            round(timing.overhead * 1e6) / 1000,
            None if timing.tokens_per_second is None else round(timing.tokens_per_second * 100) / 100,
            exchange.bytes_in,
            exchange.bytes_out,
            _name(exchange.user_agent) or "",
            _name(exchange.error_code),
        )

    def json(self) -> bytes:
        """The line as the file has it."""
        return _encode(self) + b"\n"

    def shown(self, form: str, record: bytes) -> bytes:
        """As the stream has it; `record` is what the file has."""
        return record if form == "json" else self.console()

    def console(self) -> bytes:
        """The line for people."""
        ttft = "" if self.ttft_ms is None else f" first token {self.ttft_ms:.0f} ms"
        speed = "" if self.tokens_per_second is None else f" {self.tokens_per_second:.0f} tok/s"
        error = "" if self.error_code is None else f" ({self.error_code})"
        return (
            f"{local_time(self.ts)} {self.status} {self.method} {self.route} {self.subject or '-'} {self.model or '-'}"
            f" {self.outcome}{error} {self.duration_ms:.0f} ms{ttft}"
            f" {self.prompt_tokens}+{self.completion_tokens} tokens{speed} {self.request_id}\n"
        ).encode()


_encode = msgspec.json.Encoder().encode


def clean(text: str, longest: int = 256) -> str:
    """Fit for a log: bounded, no credential, nothing that a terminal obeys or that is no valid Unicode."""
    text = text[:longest]
    if not text.isprintable():
        text = redact(text)  # before the white space that a credential may contain is written as escapes
        text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return redact(text) if "eyJ" in text or " " in text else text


@lru_cache(maxsize=2048)
def _clean_once(text: str) -> str:
    return clean(text)


def _name(text: str | None) -> str | None:
    """A subject, model, client …: cleaned, and remembered as clean, for the same few come again and again."""
    if not text:
        return None
    return _clean_once(text) if len(text) <= 256 else clean(text)


@lru_cache(maxsize=1024)
def _names(
    subject: str, team: str | None, plan: str, token_id: str | None
) -> tuple[str | None, str | None, str | None, str | None]:
    """Those of a caller, whose identity is proven: these are no strangers' texts, and may be kept however long."""
    return _name(subject), _name(team), _name(plan), _name(token_id)


def redact(text: str) -> str:
    """The text without what looks like a token or an Authorization header."""
    return _CREDENTIAL.sub("[redacted]", text)


def local_time(ts: str) -> str:
    """The time of a line as the reader's clock shows it, `19:36:32.123`."""
    return dt.datetime.fromisoformat(ts).astimezone().isoformat(sep=" ", timespec="milliseconds")[11:23]


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as `2026-11-22T11:36:32.123Z`."""
    milliseconds = int(seconds * 1000)
    return _second(milliseconds // 1000) + _fraction(milliseconds % 1000)


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=1000)
def _fraction(milliseconds: int) -> str:
    return f".{milliseconds:03}Z"


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e6) / 1000
