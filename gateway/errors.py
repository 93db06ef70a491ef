"""One table: what went wrong → status, code and body, in the shape of the API that was called.

Handlers raise a GatewayError before headers are sent; `observe.py` turns it into the answer. While a stream runs,
`stream_error` makes the event that ends it, in the API's own form.
"""

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from gateway.context import Api


class GatewayError(Exception):
    """A request that cannot be served. `message` is for the caller: what was wrong and what was expected.

    `code` is stable and fit for programs; `param` names the offending field; `headers` go out with the answer.
    """

    status = 500
    code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        type: str | None = None,  # noqa: A002 - the field is called so on the wire
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.param = param
        self.type = type or _OPENAI_TYPE.get(self.status, "server_error")
        self.headers = dict(headers or {})

    @property
    def reason(self) -> str:
        """What a status line says."""
        return HTTPStatus(self.status).phrase


class BadRequest(GatewayError):
    """The request is malformed or asks for what is not offered."""

    status = 400
    code = "invalid_request"


class Unauthorized(GatewayError):
    """No proof of identity, or one that does not hold."""

    status = 401
    code = "token_missing"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        reason = code or self.code
        challenge = (
            "Bearer" if reason == "token_missing" else f'Bearer error="invalid_token", error_description="{reason}"'
        )
        super().__init__(message, code=reason, headers={"WWW-Authenticate": challenge})


class Forbidden(GatewayError):
    """The caller is known and may not do this."""

    status = 403
    code = "insufficient_scope"


class NotFound(GatewayError):
    """No such route, model or object."""

    status = 404
    code = "not_found"


class MethodNotAllowed(GatewayError):
    """The route exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(GatewayError):
    """The request's body did not arrive in time."""

    status = 408
    code = "request_timeout"


class Gone(GatewayError):
    """It was there, and is no longer kept."""

    status = 410
    code = "gone"


class TooLarge(GatewayError):
    """The body is larger than gateway.max_body_bytes."""

    status = 413
    code = "request_too_large"


class UnsupportedMedia(GatewayError):
    """Not JSON, or JSON in a coding that is not offered."""

    status = 415
    code = "unsupported_media_type"


class TooManyRequests(GatewayError):
    """A limit is reached; the headers say when to come again."""

    status = 429
    code = "rate_limit_exceeded"


class ExpectationFailed(GatewayError):
    """`Expect` asks for what is not `100-continue`."""

    status = 417
    code = "expectation_failed"


class HeadTooLarge(GatewayError):
    """The request's line and fields are larger than anybody needs."""

    status = 431
    code = "headers_too_large"


class EngineError(GatewayError):
    """The engine answered what the gateway cannot use."""

    status = 502
    code = "engine_error"


class Unavailable(GatewayError):
    """The engine or the gateway cannot serve now; a later try may pass."""

    status = 503
    code = "engine_unavailable"


class EngineTimeout(GatewayError):
    """The engine did not answer in time; its work was aborted."""

    status = 504
    code = "engine_timeout"


_OPENAI_TYPE = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    410: "not_found_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    417: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
# https://docs.anthropic.com/en/api/errors
_ANTHROPIC_TYPE = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(error: GatewayError, api: Api, request_id: str) -> bytes:
    """Render the JSON body of an answer that is an error."""
    return msgspec.json.encode(_shape(error, api, request_id))


def stream_error(error: GatewayError, api: Api, request_id: str, sequence_number: int = 0) -> bytes:
    """Render the event that ends a running stream; the connection closes after it, without the API's end marker.

    `sequence_number` is that of the next event, which only the Responses API counts.
    """
    if api is Api.RESPONSES:
        event = {
            "type": "error",
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "sequence_number": sequence_number,
        }
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"
    prefix = b"event: error\ndata: " if api is Api.MESSAGES else b"data: "
    return prefix + msgspec.json.encode(_shape(error, api, request_id)) + b"\n\n"


def _shape(error: GatewayError, api: Api, request_id: str) -> dict[str, object]:
    if api is Api.MESSAGES:
        kind = _ANTHROPIC_TYPE.get(error.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}
    return {
        "error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code},
    }
