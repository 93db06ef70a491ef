"""Traces: each request continues its caller's trace, the engine continues the request's, spans go out by OTLP."""

from gateway.tracing.export import Tracer, TracingUnavailableError, require_sdk

__all__ = ["Tracer", "TracingUnavailableError", "require_sdk"]
