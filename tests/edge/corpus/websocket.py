"""The chat's WebSocket: no rule of browsers protects it, and behind it nobody reads HTTP any more."""

from tests.edge.corpus.case import AS_HELLO, HELLO_JSON, ID, ORIGIN, SESSION, SMUGGLED, TOKEN, Case, request
from tests.edge.corpus.cookies import COOKIE

_ORIGIN = "another site's page may open a WebSocket to us, and the browser sends the cookie (CSWSH)"
_FORM = "what is not the handshake of RFC 6455, section 4.2.1, opens nothing"
_SMUGGLED = "what follows a handshake is no request: whoever believes that it is one serves it past everybody"
_H2C = "a change to HTTP/2 would pass by everything behind it"
PATH = "/api/ws"
FIELDS = {
    "Host": "localhost",
    "X-Request-Id": ID,
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Origin": ORIGIN,
    "Cookie": COOKIE.removeprefix("Cookie: "),
}


def handshake(
    *more: str, method: str = "GET", path: str = PATH, version: str = "1.1", body: bytes = b"", **changed: str | None
) -> bytes:
    """A handshake that succeeds, unless `more` fields (added) or `changed` ones (None: left out) spoil it."""
    names = {name.replace("-", "_").lower(): name for name in FIELDS}
    fields = {**FIELDS, **{names[name]: value for name, value in changed.items()}}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    head = "\r\n".join([f"{method} {path} HTTP/{version}", *lines, *more, "", ""])
    return head.encode("utf-8", "surrogateescape") + body


CASES = [
    Case("websocket", "the page's own", handshake(), 101),
    Case("websocket-query", "a query is no part of the route", handshake(path=PATH + "?x=1"), 101),
    Case("websocket-tokens-case", "Firefox's way to write it; names and tokens have no case", handshake(connection="keep-alive, UPGRADE", upgrade="WebSocket"), 101),
    Case("websocket-sec-fetch-site", "the browser's mark beside Origin", handshake("Sec-Fetch-Site: same-origin"), 101),
    # whose page it is
    Case("websocket-no-origin", "no page at all", handshake(origin=None), 403, code="cross_site_request"),
    Case("websocket-foreign-origin", _ORIGIN, handshake(origin="https://evil.example"), 403, code="cross_site_request"),
    Case("websocket-origin-null", "a sandboxed frame", handshake(origin="null"), 403, code="cross_site_request"),
    Case("websocket-origin-empty", "no origin's name", handshake(origin=""), 403),
    Case("websocket-origin-subdomain", "a sister host is another origin", handshake(origin="https://evil.localhost"), 403),
    Case("websocket-origin-parent", "so is a parent", handshake(origin="https://host"), 403),
    Case("websocket-origin-suffix", _ORIGIN, handshake(origin=ORIGIN + ".evil.example"), 403),
    Case("websocket-origin-other-port", "another port is another origin", handshake(origin="https://localhost:1"), 403),
    Case("websocket-origin-other-scheme", "whoever sits on the line can make a page of http", handshake(host="chat.example.com", origin="http://chat.example.com"), 403, ()),
    Case("websocket-origin-of-the-host", "behind nginx the host is its own", handshake(host="chat.example.com", origin="https://chat.example.com"), 101, ()),
    Case("websocket-origin-file", "a file on somebody's disk", handshake(origin="file://"), 403),
    Case("websocket-origin-extension", "a browser's extension", handshake(origin="moz-extension://0123"), 403),
    Case("websocket-origin-wss", "an origin has the page's scheme", handshake(origin="wss://localhost"), 403),
    Case("websocket-origin-user", _ORIGIN, handshake(origin="https://localhost@evil.example"), 403),
    Case("websocket-origin-path", "an origin has no path", handshake(origin=ORIGIN + "/"), 403),
    Case("websocket-origin-list", "one origin, not several", handshake(origin=f"https://evil.example {ORIGIN}"), 403),
    Case("websocket-origin-comma", "one origin, not several", handshake(origin=f"{ORIGIN}, https://evil.example"), 403),
    Case("websocket-origin-twice", "two marks", handshake(f"Origin: {ORIGIN}", origin="https://evil.example"), 403),
    Case("websocket-origin-twice-own-first", "two marks", handshake("Origin: https://evil.example"), 403),
    Case("websocket-origin-upper-case", "browsers write it in lower case", handshake(origin="HTTPS://LOCALHOST"), 403),
    Case("websocket-sec-websocket-origin", "the name that drafts gave it is no origin", handshake(f"Sec-WebSocket-Origin: {ORIGIN}", origin=None), 403),
    Case("websocket-referer", "a referer is no proof", handshake(f"Referer: {ORIGIN}/", origin=None), 403),
    Case("websocket-fetch-site-alone", "nor is Sec-Fetch-Site without Origin", handshake("Sec-Fetch-Site: same-origin", origin=None), 403),
    Case("websocket-fetch-site-cross-site", "Origin alone decides: no page can forge it", handshake("Sec-Fetch-Site: cross-site"), 101),
    Case("websocket-forwarded-host", "a name that the client made up makes no origin ours", handshake("X-Forwarded-Host: evil.example", origin="https://evil.example"), 403),
    # who it is
    Case("websocket-no-cookie", "nobody", handshake(cookie=None), 401, code="token_missing"),
    Case("websocket-wrong-cookie", "a value that was made up", handshake(cookie="__Host-session=" + "e" * 43), 401, code="session_expired"),
    Case("websocket-cookie-without-prefix", "a cookie that a sister host may plant", handshake(cookie=f"session={SESSION}"), 401),
    Case("websocket-cookies-twice", "which one is meant?", handshake(cookie=f"__Host-session={SESSION}; __Host-session={'e' * 43}"), 401, code="session_expired"),
    Case("websocket-cookies-in-two-fields", "which one is meant?", handshake(f"Cookie: __Host-session={'e' * 43}"), 401),
    Case("websocket-bearer", "a token that leaked reads nobody's chats", handshake(f"Authorization: Bearer {TOKEN}", cookie=None), 403),
    Case("websocket-bearer-and-cookie", "the token counts, and is none for this", handshake(f"Authorization: Bearer {TOKEN}"), 403),
    Case("websocket-api-key", "likewise", handshake(f"X-Api-Key: {TOKEN}", cookie=None), 403),
    Case("websocket-bad-bearer-and-cookie", "a bad token is not healed by a session", handshake("Authorization: Bearer evil"), 401),
    Case("websocket-token-in-the-query", "addresses stand in logs", handshake(path=f"{PATH}?access_token={TOKEN}", cookie=None), 401),
    Case("websocket-token-as-protocol", "nor is a token a sub-protocol", handshake(f"Sec-WebSocket-Protocol: bearer, {TOKEN}", cookie=None), 401),
    # whether it is a handshake
    Case("websocket-plain-get", _FORM, handshake(connection=None, upgrade=None), 400),
    Case("websocket-no-connection", _FORM, handshake(connection=None), 400),
    Case("websocket-connection-other", _FORM, handshake(connection="keep-alive"), 400),
    Case("websocket-connection-close", _FORM, handshake(connection="close"), 400),
    Case("websocket-no-upgrade", _FORM, handshake(upgrade=None), 400),
    Case("websocket-upgrade-empty", _FORM, handshake(upgrade=""), 400),
    Case("websocket-upgrade-other", _FORM, handshake(upgrade="evil"), 400),
    Case("websocket-upgrade-versioned", _FORM, handshake(upgrade="websocket/13"), 400),
    Case("websocket-version-missing", _FORM, handshake(sec_websocket_version=None), 400),
    Case("websocket-version-12", _FORM, handshake(sec_websocket_version="12"), 400),
    Case("websocket-version-8", "a draft's version", handshake(sec_websocket_version="8"), 400),
    Case("websocket-version-0", _FORM, handshake(sec_websocket_version="0"), 400),
    Case("websocket-version-list", _FORM, handshake(sec_websocket_version="13, 8"), 400),
    Case("websocket-version-text", _FORM, handshake(sec_websocket_version="evil"), 400),
    Case("websocket-version-digits", "digits of another script", handshake(sec_websocket_version="\u0661\u0663"), 400),
    Case("websocket-key-missing", _FORM, handshake(sec_websocket_key=None), 400),
    Case("websocket-key-empty", _FORM, handshake(sec_websocket_key=""), 400),
    Case("websocket-key-short", _FORM, handshake(sec_websocket_key="AAAA"), 400),
    Case("websocket-key-long", _FORM, handshake(sec_websocket_key="A" * 5000), 400),
    Case("websocket-key-no-base64", _FORM, handshake(sec_websocket_key="evil!"), 400),
    Case("websocket-key-not-ascii", _FORM, handshake(sec_websocket_key="\u00e9" * 12), 400),
    Case("websocket-key-twice", _FORM, handshake("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), 400),
    Case("websocket-hixie", "the drafts before version 4", handshake("Sec-WebSocket-Key1: 1 2", "Sec-WebSocket-Key2: 3 4", sec_websocket_key=None, sec_websocket_version=None), 400),
    Case("websocket-http-1.0", "HTTP/1.0 has no upgrades; nginx speaks 1.1 for its client", handshake(version="1.0"), 400, 101),
    Case("websocket-extensions", "no extension is agreed on: a compressor would tell lengths of secrets", handshake("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"), 101),
    Case("websocket-protocols", "nor a sub-protocol", handshake("Sec-WebSocket-Protocol: evil, mqtt"), 101),
    *[
        Case(f"websocket-{method.lower()}", "a handshake is a GET", handshake(method=method), 405)
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS")
    ],
    Case("websocket-head", "a handshake is a GET", handshake(method="HEAD"), 405, bodiless=True),
    # what it is good for besides
    Case("websocket-body", _SMUGGLED, handshake(f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED), 400),
    Case("websocket-chunked-body", _SMUGGLED, handshake("Transfer-Encoding: chunked", body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(HELLO_JSON), HELLO_JSON)), 400),
    Case("websocket-request-behind", _SMUGGLED, handshake(body=SMUGGLED), 101),
    Case("websocket-request-behind-a-wrong-version", "a proxy that takes every handshake for granted opens a tunnel here", handshake(sec_websocket_version="777", body=request()), 400, (400, 200), engine_behind_nginx=AS_HELLO),
    Case("websocket-request-behind-a-foreign-origin", _SMUGGLED, handshake(origin="https://evil.example", body=request()), 403, (403, 200), engine_behind_nginx=AS_HELLO),
    Case("websocket-length-and-chunked", _SMUGGLED, handshake("Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED), 400),
    Case("websocket-h2c", _H2C, handshake("HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", connection="Upgrade, HTTP2-Settings", upgrade="h2c"), 400),
    Case("websocket-h2c-beside", _H2C, handshake("HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", connection="Upgrade, HTTP2-Settings", upgrade="websocket, h2c"), 400),
    Case("websocket-h2c-before", _H2C, handshake("HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", connection="Upgrade, HTTP2-Settings", upgrade="h2c, websocket"), 400),
    Case("websocket-elsewhere-signed-in", "only one route changes the protocol", handshake(path="/api/chats"), 200),
    Case("websocket-events", "nor does the stream of events", handshake(path="/api/runs/m_x/events"), 404),
    # its path
    *[
        Case(f"websocket-path-{name}", "another way to write the path is another path", handshake(path=path), 404)
        for name, path in (
            ("trailing-slash", "/api/ws/"),
            ("double-slash", "//api/ws"),
            ("double-slash-inside", "/api//ws"),
            ("upper-case", "/API/WS"),
            ("encoded", "/api/%77s"),
            ("dot-dot", "/api/x/../ws"),
            ("semicolon", "/api/ws;x"),
            ("suffix", "/api/ws.json"),
            ("below", "/api/ws/metrics"),
            ("static", "/static/../api/ws"),
        )
    ],
]
