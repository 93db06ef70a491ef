"""Who uses the chat, and what they send: what its routes share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from pydantic import ValidationError

from gateway.api import read_json_body
from gateway.auth import Authenticator, require_scope
from gateway.chat.settings import Parameters
from gateway.config import Config
from gateway.context import EXCHANGE, Principal, Via
from gateway.errors import BadRequest, Forbidden, NotFound, Unavailable
from gateway.store import StoreError

T = TypeVar("T", bound=msgspec.Struct)
MOST_CURSOR = 64  # characters


class Members:
    """Knows who is at the other end of a request."""

    def __init__(self, config: Config, authenticator: Authenticator) -> None:
        self._config = config
        self.authenticator = authenticator

    async def caller(self, request: web.Request, scope: str = "chat") -> Principal:
        """The member whose session it is. A token does not do: one that leaked reads nobody's chats."""
        principal = await self.authenticator.authenticate(request)
        request[EXCHANGE].principal = principal
        if principal.via is not Via.SESSION:
            raise Forbidden("This is for people who are signed in, not for tokens.", code="session_required")
        require_scope(principal, scope)
        return principal

    async def read(self, request: web.Request, form: type[T]) -> T:
        """The body as `form`; BadRequest says what does not fit."""
        return decode(await read_json_body(request, self._config.gateway), form)


def decode(body: bytes, form: type[T]) -> T:
    """JSON as `form`; BadRequest says what does not fit, without repeating it."""
    try:
        return msgspec.json.decode(body or b"{}", type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The body does not fit: {str(error)[:300]}.") from None


def parameters(given: dict[str, Any] | None) -> Parameters:
    """Parameters of an answer; BadRequest names the first that does not fit."""
    try:
        return Parameters.model_validate(given or {})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "params." + ".".join(map(str, first["loc"]))
        raise BadRequest(f"`{name}`: {first['msg']}.", code="value_out_of_range", param=name) from None


def check_client_id(client_id: str | None) -> None:
    """BadRequest for what the page cannot have chosen."""
    if client_id is not None and not (1 <= len(client_id) <= 64 and client_id.isascii() and client_id.isprintable()):
        raise BadRequest("`client_id` has 1 to 64 visible characters of ASCII.", param="client_id")


def number(request: web.Request, name: str, default: int, most: int) -> int:
    """A whole number from 1 to `most` in the query."""
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= 1):
        raise BadRequest(f"`{name}` must be a number from 1 to {most}.", param=name)
    return min(int(text), most)


def cursor(request: web.Request, name: str) -> int | None:
    """A whole number in the query that an earlier answer has named."""
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadRequest(f"`{name}` must be what an earlier answer named.", param=name)
    return int(text)


def no_chat() -> NotFound:
    """The error of a chat that is not there, or somebody else's."""
    return NotFound("There is no such chat.", code="chat_not_found")


@contextmanager
def chats_needed() -> Iterator[None]:
    """Turn StoreError into the answer of a request that cannot do without the database."""
    try:
        yield
    except StoreError:
        raise Unavailable(
            "Chats cannot be reached now; try again.", code="chats_unavailable", headers={"Retry-After": "2"}
        ) from None
