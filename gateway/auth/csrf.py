"""Requests that change something and carry only the cookie must come from our own page.

Three independent marks, none of which another site's form or script can forge: the content type (a cross-site JSON
request needs a preflight that nobody answers), `Sec-Fetch-Site`, `Origin`.
Source: https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html
"""

import re

from aiohttp import web

from gateway.config import AuthSettings
from gateway.errors import Forbidden, UnsupportedMedia

_LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE | re.ASCII)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def require_json(request: web.Request) -> None:
    """UnsupportedMedia unless the body is declared to be JSON; an empty one too, for a form can be empty."""
    if request.content_type != "application/json":
        raise UnsupportedMedia("Send application/json.")


def require_own_page(request: web.Request, auth: AuthSettings, *, marks_required: bool = True) -> None:
    """Forbidden unless the browser says that our own page sent this.

    A request with neither mark comes from no current browser; without `marks_required` it may pass, which is right only
    where the cookie proves nothing (login).
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        own = site in ("same-origin", "none")
    elif "Origin" in request.headers:
        own = _has_own_origin(request, auth)
    else:
        own = not marks_required
    _require(own=own)


def require_own_origin(request: web.Request, auth: AuthSettings) -> None:
    """Forbidden unless the one `Origin` is this site: for WebSockets, which no other rule of browsers protects."""
    _require(own=_has_own_origin(request, auth))


def _has_own_origin(request: web.Request, auth: AuthSettings) -> bool:
    """Whether there is one `Origin`, and it is this site.

    `auth.public_url` is where browsers reach it, if that is configured; else it is told from `Host`. A page of plain
    http, which whoever sits on the line can make, counts only where the cookie goes over http, too: where that is
    configured, and on loopback, where browsers take http for secure (https://w3c.github.io/webappsec-secure-contexts/).
    """
    origins = request.headers.getall("Origin", ())
    if auth.public_url:
        own = {auth.public_url}
    else:
        own = {f"https://{request.host}"}
        if auth.cookie_over_http or _LOOPBACK.fullmatch(request.host):
            own.add(f"http://{request.host}")
    return len(origins) == 1 and origins[0] in own


def _require(*, own: bool) -> None:
    if not own:
        raise Forbidden("This request did not come from this site's own page.", code="cross_site_request")
