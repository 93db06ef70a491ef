"""Answers for whom no request of ours can be made out; the connection is closed after each."""

from collections.abc import Iterable

from aiohttp import web

from gateway.context import Api
from gateway.errors import GatewayError, error_body


def closing_response(error: GatewayError) -> web.Response:
    """An error for a request that our application never saw; the connection is closed after it."""
    headers = {"Server": "gatehouse", "Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}
    response = web.Response(status=error.status, headers=headers, body=error_body(error, Api.OTHER, ""))
    response.force_close()
    return response


def raw_response(error: GatewayError) -> bytes:
    """An error for a connection that has no request."""
    body = error_body(error, Api.OTHER, "")
    fields: Iterable[tuple[str, str]] = (
        ("Server", "gatehouse"),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
        *error.headers.items(),
    )
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {error.status} {error.reason}\r\n{lines}\r\n".encode("latin-1") + body
