"""Which requests may open the chat's WebSocket: aiohttp takes more for a handshake than RFC 6455 does, section 4.2.1.

A body would be read as frames here and as a body by whoever stands before us, so there may be none.
"""

import re

from aiohttp import HttpVersion11, web

from gateway.errors import BadRequest

_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")


def require_handshake(request: web.Request) -> None:
    """BadRequest unless the request is a handshake to the letter, version 13, without a body."""
    fields = request.headers
    if request.version != HttpVersion11:
        raise _refusal("it takes HTTP/1.1")
    if [value.lower() for value in fields.getall("Upgrade", ())] != ["websocket"]:
        raise _refusal("`Upgrade` must be websocket")
    if "upgrade" not in (
        token.strip().lower() for each in fields.getall("Connection", ()) for token in each.split(",")
    ):
        raise _refusal("`Connection` must name Upgrade")
    if fields.getall("Sec-WebSocket-Version", ()) != ["13"]:
        raise _refusal("`Sec-WebSocket-Version` must be 13")
    keys = fields.getall("Sec-WebSocket-Key", ())
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise _refusal("`Sec-WebSocket-Key` must be 16 bytes in base64")
    if fields.get("Content-Length", "0") != "0" or "Transfer-Encoding" in fields:
        raise _refusal("it has no body")


def _refusal(why: str) -> BadRequest:
    return BadRequest(f"This is no handshake of a WebSocket: {why}.")
