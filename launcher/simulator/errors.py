"""vLLM's error bodies, as recorded: six shapes, told apart by who refuses.

`{"error": {message, type, param, code}}` from the API, `{"detail": …}` from the router, `{"error": "Unauthorized"}`
from the key check, `{"type": "error", "error": …}` from the Anthropic API, and inside streams a frame with spaces
after its separators (it is dumped by another encoder).
"""

from __future__ import annotations

import json
from typing import Any

ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
SHUT_DOWN = "cannot schedule new futures after shutdown"


def dumps(value: object) -> bytes:
    """JSON as vLLM writes it: compact, UTF-8. A lone surrogate (which no UTF-8 has) becomes '?'."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class ApiError(Exception):
    """A refusal in the OpenAI shape."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.kind, self.param = message, status, kind, param

    def body(self) -> dict[str, Any]:
        """The OpenAI shape."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}}

    def anthropic_body(self) -> dict[str, Any]:
        """The shape on /v1/messages. Validation errors keep the OpenAI shape there too, as recorded."""
        if isinstance(self, ValidationError):
            return self.body()
        return {"type": "error", "error": {"type": self.kind, "message": self.message}}


class ValidationError(ApiError):
    """What pydantic says before vLLM sees the request: `loc` is dotted, `given` describes the offending input."""

    def __init__(self, kind: str, loc: str, msg: str, given: object, context: str = "") -> None:
        ctx = f", 'ctx': {{'error': '{context}'}}" if context else ""
        detail = f"{{'type': '{kind}', 'loc': '{loc}', 'msg': '{msg}', 'input': '{_shown(given)}'{ctx}}}"
        super().__init__(f"1 validation error:\n  {detail}", kind="Bad Request", param=loc)


class MediaTypeError(ApiError):
    """The body is not declared as JSON."""

    def __init__(self) -> None:
        super().__init__(
            "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed", kind="Bad Request"
        )


def _shown(given: object) -> str:
    match given:
        case dict():
            return f"<dict of {len(given)} items>"
        case list():
            return f"<list of {len(given)} items>"
        case _:
            return str(given)


def missing(field: str, body: dict[str, Any]) -> ValidationError:
    """A required field is not there."""
    return ValidationError("missing", f"body.{field}", "Field required", body)


def parameter(message: str, name: str, value: object, *, param: str | None = None) -> ApiError:
    """A value out of its range, in vLLM's wording."""
    return ApiError(f"{message} (parameter={name}, value={value})", param=param or name)


def unknown_model(name: str, served: tuple[str, ...]) -> ApiError:
    """The model asked for is not served."""
    message = f"The model `{name}` does not exist. Valid aliases: {', '.join(served)}."
    return ApiError(message, status=404, kind="NotFoundError", param="model")


def engine_dead(message: str = ENGINE_DEAD) -> ApiError:
    """The engine cannot serve: it died, or it is being shut down."""
    return ApiError(message, status=500, kind="InternalServerError")


def error_frame(error: ApiError) -> bytes:
    """The frame that ends a chat or completion stream whose engine died."""
    return b"data: " + json.dumps(error.body(), ensure_ascii=False).encode() + b"\n\n"


def anthropic_error_event() -> bytes:
    """The event that ends a message stream whose engine died: the adapter chokes on the error frame above."""
    inner = "input_value={'error': {'message': 'En...am': None, 'code': 500}}, input_type=dict"
    seen = f"  Field required [type=missing, {inner}]\n"
    link = "    For further information visit https://errors.pydantic.dev/2.14/v/missing"
    message = f"2 validation errors for ChatCompletionStreamResponse\nmodel\n{seen}{link}\nchoices\n{seen}{link}"
    body = {"type": "error", "error": {"type": "internal_error", "message": message}}
    return b"event: error\ndata: " + dumps(body) + b"\n\n"
