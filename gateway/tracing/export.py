"""Spans on their way to an OTLP collector: a bounded queue, and one thread that empties it.

A collector that is slow or dead costs no request anything: what the queue cannot hold, or the collector does not take,
is counted, announced once, and dropped.

The SDK (the extra `vllm-gatehouse[otlp]`) gives the data model and the exporter; its tracer and batch processor are not
used: they cost more on the event loop, and drop in silence.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gateway.config import TracingSettings
from gateway.context import Exchange
from gateway.logs import LogLine
from gateway.timing import Timing
from gateway.trace_context import TraceContext
from gateway.tracing.span import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_log = logging.getLogger("gatehouse.tracing")

GATHER_SECONDS = 0.2  # spans are gathered for so long: one request to the collector instead of many
BATCH_SPANS = 512
CLOSE_SECONDS = 2.0  # for the last spans, on close
_EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


class TracingUnavailableError(Exception):
    """Spans are asked for, and what makes them is not installed."""


def require_sdk() -> None:
    """Raise TracingUnavailableError, which says what to install, where the SDK or its exporter are not here."""
    try:
        missing = None in [find_spec(f"opentelemetry.{name}") for name in ("sdk", "exporter.otlp.proto.http")]
    except ModuleNotFoundError:  # of a package above it
        missing = True
    if missing:
        raise TracingUnavailableError(
            "tracing.endpoint is set, but OpenTelemetry's SDK is not installed: pip install 'vllm-gatehouse[otlp]'"
        )


class Tracer:
    """Gives requests their place in a trace, and sends their spans out."""

    def __init__(self, settings: TracingSettings, version: str, *, on_drop: Callable[[str, int], None]) -> None:
        """`on_drop(reason, spans)` is called, from any thread, for what `queue` or `collector` did not take.

        Raises TracingUnavailableError.
        """
        self._settings = settings
        self._on_drop = on_drop
        self._make = _Maker(settings, version)
        self._queue: deque[Span] = deque()
        self._failing = False
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)

    def start(self) -> None:
        """Start to send."""
        self._thread.start()

    def begin(self, traceparents: list[str]) -> TraceContext:
        """The place of a request that brought these `traceparent` headers."""
        return TraceContext.of(traceparents, self._settings.sample_ratio)

    def write(self, exchange: Exchange, timing: Timing) -> None:
        """Queue the span of a request that has ended, if it is sampled. Never waits."""
        trace = exchange.trace
        if trace is None or not trace.sampled:
            return
        if len(self._queue) >= self._settings.queue_spans:
            self._on_drop("queue", 1)
            return
        self._queue.append(Span.of(exchange, trace, LogLine.of(exchange, timing)))
        if not self._wake.is_set():
            self._wake.set()

    async def close(self) -> None:
        """Send what is queued, but wait no longer than CLOSE_SECONDS for the collector."""
        self._stop.set()
        self._wake.set()
        await asyncio.to_thread(self._thread.join, CLOSE_SECONDS)
        self._make.close()  # ends a retry under way
        await asyncio.to_thread(self._thread.join, CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._stop.wait(GATHER_SECONDS)
            self._wake.clear()
            while self._queue and self._send() and not self._stop.is_set():
                pass
        while self._queue and self._send():
            pass
        if self._queue:
            self._on_drop("collector", len(self._queue))

    def _send(self) -> bool:
        """Send one batch; whether the collector took it."""
        batch = [self._queue.popleft() for _ in range(min(BATCH_SPANS, len(self._queue)))]
        try:
            trouble = self._make.send(batch)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next spans shall be sent
            trouble = repr(error)
        if trouble is not None:
            self._on_drop("collector", len(batch))
        if trouble is not None and not self._failing:
            _log.warning(
                "tracing: %s does not take spans: %s; they are dropped until it does", self._settings.endpoint, trouble
            )
        if trouble is None and self._failing:
            _log.warning("tracing: %s takes spans again", self._settings.endpoint)
        self._failing = trouble is not None
        return trouble is None


class _Maker:
    """Our spans as the SDK's, and its exporter."""

    def __init__(self, settings: TracingSettings, version: str) -> None:
        require_sdk()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415

        self._exporter = OTLPSpanExporter(endpoint=settings.endpoint, timeout=settings.timeout_seconds)
        name = {"service.name": "gatehouse"} if "OTEL_SERVICE_NAME" not in os.environ else {}
        self._resource = Resource.create({**name, "service.version": version, "process.pid": os.getpid()})
        self._said = _LastWords()
        logging.getLogger(_EXPORTER).filters[:] = [self._said]

    def send(self, batch: Iterable[Span]) -> str | None:
        """Export spans; None, or why not."""
        result = self._exporter.export([self._sdk_span(span) for span in batch])
        return None if result.value == 0 else self._said.text

    def close(self) -> None:
        """Give up what is being sent."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _sdk_span(self, span: Span) -> ReadableSpan:
        from opentelemetry.sdk.trace import Event, ReadableSpan  # noqa: PLC0415
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags  # noqa: PLC0415

        trace, flags = span.trace, TraceFlags(TraceFlags.SAMPLED)
        parent = None if trace.parent_id is None else SpanContext(trace.trace_id, trace.parent_id, is_remote=True)
        return ReadableSpan(
            name=span.name,
            context=SpanContext(trace.trace_id, trace.span_id, is_remote=False, trace_flags=flags),
            parent=parent,
            resource=self._resource,
            attributes=span.attributes(),
            events=[Event(name, timestamp=moment) for name, moment in span.phases],
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
            start_time=span.start,
            end_time=span.end,
        )


class _LastWords(logging.Filter):
    """Keeps what the exporter says of a failure, which it tells its logger only, and says for every batch."""

    text = "it said nothing"

    def filter(self, record: logging.LogRecord) -> bool:
        self.text = " ".join(record.getMessage().split())[:300].rstrip(".")
        return False
