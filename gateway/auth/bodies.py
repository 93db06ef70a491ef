"""Small JSON in and out, and the session's cookie: what the routes of people's browsers share."""

import asyncio
from typing import TypeVar

import msgspec
from aiohttp import web

from gateway.config import AuthSettings
from gateway.context import EXCHANGE
from gateway.errors import BadRequest, RequestTimeout, TooLarge

MAX_BODY_BYTES = 4096
T = TypeVar("T", bound=msgspec.Struct)


async def read_body(request: web.Request, form: type[T], seconds: float) -> T:
    """The body as `form`. TooLarge, RequestTimeout, or BadRequest that names the fields and repeats no value."""
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise TooLarge(f"This takes at most {MAX_BODY_BYTES} bytes.")
    except TimeoutError:
        raise RequestTimeout("The request's body did not arrive in time.") from None
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError):  # its text is not passed on: it may quote a password
        fields = ", ".join(form.__struct_fields__)
        raise BadRequest(f"Send {{{fields}}} as JSON.") from None


def answer(value: object, status: int = 200) -> web.Response:
    """A JSON answer that nobody keeps."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(value),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def nothing() -> web.Response:
    """204."""
    return web.Response(status=204, headers={"Cache-Control": "no-store"})


def client_address(request: web.Request) -> str:
    """Who is at the other end: as the record has it, which knows the trusted proxies, or else the peer."""
    exchange = request.get(EXCHANGE)
    return exchange.client_ip if exchange is not None else request.remote or ""


class Cookie:
    """A cookie that only this site's own pages send and no script can read: `__Host-`, HttpOnly, Secure, Lax."""

    def __init__(self, auth: AuthSettings, name: str, max_age: float) -> None:
        self.name = name if auth.cookie_over_http else f"__Host-{name}"
        self._secure = not auth.cookie_over_http
        self._max_age = int(max_age)

    def read(self, request: web.Request) -> str | None:
        """Its value if the request has it; "", which is nobody's, if it has several that differ.

        Parsers that trim more than blanks from a name, or take the last of two, let other hosts of the same site plant
        a cookie that passes for this one: https://portswigger.net/research/cookie-chaos-how-to-bypass-host-and-secure-cookie-prefixes
        """
        found = {
            value
            for line in request.headers.getall("Cookie", ())
            for name, equals, value in (pair.strip(" \t").partition("=") for pair in line.split(";"))
            if equals and name == self.name
        }
        return None if not found else found.pop() if len(found) == 1 else ""

    def set(self, response: web.Response, value: str) -> None:
        """Give it to the browser."""
        self._write(response, value, self._max_age)

    def clear(self, response: web.Response) -> None:
        """Take it back."""
        self._write(response, "", 0)

    def _write(self, response: web.Response, value: str, max_age: int) -> None:
        response.set_cookie(
            self.name, value, max_age=max_age, path="/", secure=self._secure, httponly=True, samesite="Lax"
        )


def session_cookie(auth: AuthSettings) -> Cookie:
    """The cookie of a chat session."""
    return Cookie(auth, "session", auth.session_max_days * 86_400)
