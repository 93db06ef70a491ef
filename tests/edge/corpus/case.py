"""What a case is, and the parts that cases are made of."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import time
from dataclasses import dataclass
from typing import Any

from gateway.auth.keys import Key
from gateway.auth.tokens import issue_token
from gateway.config import AuthSettings

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
# stands in each case for an id of eight characters, by which the engine's record is told apart
ID = "CASEIDXX"
# stands for the cookie of somebody who is signed in
SESSION = "SESSION-" * 5 + "SES"
# stands for the origin of the page that is served
ORIGIN = "https://origin-of-the-page"
# known to the world, as the corpus is: the gateway under test signs with it and nobody else does
SECRET = b"a key of the corpus; it opens nothing but the gateway under test"

_KEY = Key.from_secret(SECRET)


def token(**how: Any) -> str:
    """A token that the gateway under test accepts, unless `how` spoils it."""
    return issue_token(_KEY, AuthSettings(), **{"subject": "corpus", "ttl_seconds": 3600, **how})[0]


def forged(header: dict[str, Any] | str, claims: dict[str, Any] | None = None, *, secret: bytes | None = SECRET) -> str:
    """A JWT of our own making; `secret` None leaves the signature empty."""
    now = math.floor(time.time())
    claims = {"sub": "corpus", "iat": now, "exp": now + 3600, "scope": "api", **(claims or {})}
    head = header if isinstance(header, str) else json.dumps(header)
    signing = f"{_segment(head.encode())}.{_segment(json.dumps(claims).encode())}"
    signature = b"" if secret is None else hmac.new(secret, signing.encode(), hashlib.sha256).digest()
    return f"{signing}.{_segment(signature)}"


def _segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


TOKEN = token()
KID = _KEY.kid
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": f"hello {ID}"}], "max_tokens": 3}
AS_HELLO = ({"path": CHAT, **HELLO},)  # what the engine gets of it

Statuses = int | tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One connection. `engine` is what reaches the engine, each a body with its `path`."""

    name: str
    why: str
    send: bytes
    alone: Statuses
    nginx: Statuses | None = None
    code: str = ""  # of the first answer's error, at the gateway alone
    engine: tuple[dict[str, Any], ...] = ()
    engine_behind_nginx: tuple[dict[str, Any], ...] | None = None
    bodiless: bool = False  # the first answer is to a HEAD


def request(
    *fields: str,
    method: str = "POST",
    path: str = CHAT,
    body: bytes | dict[str, Any] | None = None,
    version: str = "HTTP/1.1",
    without: str = "",
    id: str = ID,  # noqa: A002 - that is what it is
) -> bytes:
    """A request that passes, unless `fields` (added) or `without` (names left out, separated by spaces) spoil it.

    A GET has no body.
    """
    if body is None:
        body = HELLO if method == "POST" else b""
    data = json.dumps(body, ensure_ascii=False).encode() if isinstance(body, dict) else body
    lines = ["Host: localhost", f"Authorization: Bearer {TOKEN}", f"X-Request-Id: {id}"]
    if method == "POST" or data:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    left_out = without.lower().split()
    lines = [line for line in lines if line.partition(":")[0].lower() not in left_out]
    head = "\r\n".join([f"{method} {path} {version}", *lines, *fields, "", ""])
    return head.encode("utf-8", "surrogateescape") + data


def get(path: str, *fields: str, **how: Any) -> bytes:
    """A GET."""
    return request(*fields, method="GET", path=path, **how)


def chunks(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A body in the chunked coding."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + end


def chunked(coded: bytes, *fields: str, **how: Any) -> bytes:
    """A request whose body is in the chunked coding."""
    head = request("Transfer-Encoding: chunked", *fields, body=b"", **{"without": "content-length", **how})
    return head + coded


HELLO_JSON = json.dumps(HELLO).encode()
SMUGGLED = request(id="evil.smuggled")
