"""Settings of what is kept of requests: the record, and spans."""

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from gateway.section import Bytes, Count, Seconds, Section


class BodySettings(Section):
    """Prompts and answers in the record. They are what people said: mind whose eyes see the file, and for how long."""

    enabled: bool = Field(default=False, description="keep prompts and answers in the record's file")
    stdout: bool = Field(default=False, description="in its copy on stdout, too")
    max_bytes: Bytes = Field(16 * 1024, le=1024 * 1024, description="kept of each prompt and of each answer")
    redact_fields: tuple[str, ...] = Field(
        (
            "password", "passphrase", "secret", "client_secret", "api_key", "apikey", "access_token", "refresh_token",
            "authorization", "private_key",
        ),
        description="names of JSON fields, in any letters' case, whose values are not kept",
    )  # fmt: skip
    redact_patterns: tuple[str, ...] = Field((), description="regular expressions of what else is not kept")

    @field_validator("redact_patterns")
    @classmethod
    def _are_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                found = re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
            if found.match(""):
                raise ValueError(f"{pattern!r} matches nothing at all, and so everywhere")
        return patterns


class LoggingSettings(Section):
    """The record: one JSON line a request."""

    file: Path | None = Field(None, description="default: STATE_DIR/requests.jsonl")
    stdout: bool = Field(default=True, description="also print the lines")
    format: Literal["json", "console"] = Field("json", description="form of the lines on stdout")
    level: Literal["debug", "info", "warning", "error"] = "info"
    max_bytes: Bytes = Field(100 * 1024 * 1024, description="the file is rotated at this size")
    keep_files: Count = Field(5, description="rotated files kept")
    queue_lines: Count = Field(10_000, description="lines waiting for the disk; more are dropped and counted")
    bodies: BodySettings = BodySettings()


class TracingSettings(Section):
    """Spans, one a request, for a collector that speaks OTLP over HTTP. Needs the extra `otlp`."""

    endpoint: str | None = Field(
        None, description="where spans go, such as http://127.0.0.1:4318/v1/traces; none: no spans"
    )
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="share of the traces that begin here; a caller's own decision stands"
    )
    queue_spans: Count = Field(2048, description="spans waiting for the collector; more are dropped and counted")
    timeout_seconds: Seconds = Field(5, description="longest wait for the collector, off the request path")

    @field_validator("endpoint")
    @classmethod
    def _has_a_path(cls, endpoint: str | None) -> str | None:
        parts = urlsplit(endpoint or "http://none/path")
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path in {"", "/"}:
            raise ValueError("must be a URL with its path, such as http://127.0.0.1:4318/v1/traces")
        return endpoint
