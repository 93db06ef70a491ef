"""An OTLP collector for tests: listens, decodes the protobuf, keeps the spans.

with collector() as otlp:
    otlp.endpoint                # http://127.0.0.1:PORT/v1/traces
    otlp.spans                   # [Received(…)], of whoever sent them
    otlp.status = 503            # what it answers from now on
"""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class Received:
    """One span."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    kind: int
    failed: bool
    attributes: dict[str, Any]
    events: dict[str, int]


@dataclass
class Collector:
    """A running one."""

    endpoint: str = ""
    status: int = 200
    spans: list[Received] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)  # cleared: it takes connections and says nothing

    def of(self, request_id: str) -> list[Received]:
        """The gateway's spans of a request."""
        return [span for span in self.spans if span.attributes.get("gatehouse.request_id") == request_id]

    def children(self, parent: Received) -> list[Received]:
        """The spans that name this one as their parent."""
        return [s for s in self.spans if (s.trace_id, s.parent_id) == (parent.trace_id, parent.span_id)]


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """Run one on a free port."""
    running = Collector()
    running.open.set()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            running.open.wait()
            if self.path == "/v1/traces" and running.status == 200:
                running.spans.extend(_spans(body))
            with contextlib.suppress(ConnectionError):
                self.send_response(running.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        running.endpoint = f"http://127.0.0.1:{server.server_port}/v1/traces"
        try:
            yield running
        finally:
            running.open.set()
            server.shutdown()
            thread.join()


def _spans(body: bytes) -> Iterator[Received]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        about = _attributes(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    service=str(about.get("service.name")),
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    kind=span.kind,
                    failed=span.status.code == 2,
                    attributes=_attributes(span.attributes),
                    events={event.name: event.time_unix_nano for event in span.events},
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}


SERVER = Span.SPAN_KIND_SERVER
