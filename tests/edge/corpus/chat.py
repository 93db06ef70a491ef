"""The chat's routes: requests of other sites' pages, other methods, other ways to write a path, ids of others."""

from tests.edge.corpus.case import ORIGIN, TOKEN, Case, get, request
from tests.edge.corpus.cookies import COOKIE, OWN

_CSRF = "another site's page makes the browser send the cookie"
_FORM = "a form, or a script without a preflight, can send this across sites"
_OVERRIDE = "a header or a query does not change the method: an image's address must not delete"
_OTHER = "another way to write a path that somebody behind might take for the same"
_ADMIN = "a member who is no admin"
_OTHERS = "what belongs to somebody else does not exist"

CHAT, RUN = "/api/chats/c_0123456789abcdef", "/api/runs/m_0123456789abcdef"
CHANGES = {
    "make": ("POST", "/api/chats"),
    "change": ("PATCH", CHAT),
    "delete": ("DELETE", CHAT),
    "run": ("POST", CHAT + "/runs"),
    "stop": ("DELETE", RUN),
    "import": ("POST", "/api/import"),
    "admin-restart": ("POST", "/api/admin/engine/restart"),
    "admin-drain": ("POST", "/api/admin/engine/drain"),
    "admin-cache": ("POST", "/api/admin/engine/reset-prefix-cache"),
    "admin-user": ("PATCH", "/api/admin/users/corpus"),
}
JSON = "Content-Type: application/json"


def change(
    name: str, *fields: str, kind: str | None = JSON, cookie: str | None = COOKIE, body: bytes | None = None
) -> bytes:
    """One of CHANGES, by who is signed in; without marks of the page unless `fields` has them."""
    method, path = CHANGES[name]
    content = b'{"parent":null,"content":"evil"}' if name == "run" else b"{}"
    more = [*([kind] if kind else []), *([cookie] if cookie else []), *fields]
    return request(
        *more, method=method, path=path, body=content if body is None else body, without="authorization content-type"
    )


def read(path: str, *fields: str) -> bytes:
    """A GET by who is signed in."""
    return get(path, COOKIE, OWN, *fields, without="authorization")


CASES = [
    *[
        case
        for name in CHANGES
        for case in (
            Case(f"chat-{name}-no-marks", _CSRF, change(name), 403, code="cross_site_request"),
            Case(f"chat-{name}-cross-site", _CSRF, change(name, "Sec-Fetch-Site: cross-site"), 403, code="cross_site_request"),
            Case(f"chat-{name}-same-site", "a sister host is another site, too", change(name, "Sec-Fetch-Site: same-site"), 403),
            Case(f"chat-{name}-cross-site-own-origin", "the browser's word goes before Origin's", change(name, "Sec-Fetch-Site: cross-site", f"Origin: {ORIGIN}"), 403),
            Case(f"chat-{name}-foreign-origin", _CSRF, change(name, "Origin: https://evil.example"), 403),
            Case(f"chat-{name}-origin-null", "a sandboxed frame", change(name, "Origin: null"), 403),
            Case(f"chat-{name}-text-plain", _FORM, change(name, OWN, kind="Content-Type: text/plain"), 415),
            Case(f"chat-{name}-form", _FORM, change(name, OWN, kind="Content-Type: application/x-www-form-urlencoded", body=b"%7B%7D="), 415),
            Case(f"chat-{name}-multipart", _FORM, change(name, OWN, kind="Content-Type: multipart/form-data; boundary=x", body=b"--x--\r\n"), 415),
            Case(f"chat-{name}-json-parameter", "a type that only ends like JSON", change(name, OWN, kind="Content-Type: text/plain; application/json"), 415),
            Case(f"chat-{name}-no-type", "an empty body without a type", change(name, OWN, kind=None, body=b""), 415),
            Case(f"chat-{name}-no-cookie", "nobody", change(name, OWN, cookie=None), 401, code="token_missing"),
            Case(f"chat-{name}-token", "a token that leaked changes nobody's chats", change(name, OWN, f"Authorization: Bearer {TOKEN}", cookie=None), 403, code="session_required"),
        )
    ],
    *[
        Case(f"chat-{name}-not-an-admin", _ADMIN, change(name, OWN), 403, code="insufficient_scope")
        for name in CHANGES
        if name.startswith("admin-")
    ],
    *[
        Case(f"chat-admin-{name}-not-an-admin", _ADMIN, read(f"/api/admin/{name}"), 403, code="insufficient_scope")
        for name in ("engine", "requests", "users", "plans", "usage")
    ],
    *[
        Case(f"chat-{name}-of-others", _OTHERS, change(name, OWN), 404)
        for name in ("change", "delete", "run", "stop")
    ],
    Case("chat-read-of-others", _OTHERS, read(CHAT), 404, code="chat_not_found"),
    Case("chat-export-of-others", _OTHERS, read(CHAT + "/export"), 404, code="chat_not_found"),
    Case("chat-events-of-others", _OTHERS, read(RUN + "/events"), 404, code="run_not_found"),
    # the method is the one of the request line
    *[
        Case(f"chat-override-{name.lower()}", _OVERRIDE, read(CHAT, f"{name}: DELETE"), 404, code="chat_not_found")
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
    ],
    Case("chat-override-query", _OVERRIDE, read(CHAT + "?_method=DELETE"), 404, code="chat_not_found"),
    Case("chat-override-form", _OVERRIDE, change("make", OWN, kind="Content-Type: application/x-www-form-urlencoded", body=b"_method=DELETE"), 415),
    Case("chat-override-field", "nor does a field of the body", change("make", OWN, body=b'{"_method":"DELETE"}'), 400),
    Case("chat-override-cross-site", "a GET that a header makes a POST would need no mark", get("/api/admin/engine/restart", COOKIE, "Sec-Fetch-Site: cross-site", "X-HTTP-Method-Override: POST", without="authorization"), 405),
    *[
        Case(f"chat-get-{name}", _OVERRIDE, read(path), 405)
        for name, path in (("run", CHAT + "/runs"), ("stop", RUN), ("import", "/api/import"), ("restart", "/api/admin/engine/restart"), ("user", "/api/admin/users/corpus"))
    ],
    *[
        Case(f"chat-{method.lower()}", "a method that the route does not offer", request(COOKIE, OWN, JSON, method=method, path=CHAT, body=b"", without="authorization"), 405)
        for method in ("PUT", "OPTIONS", "TRACE")
    ],
    Case("chat-preflight", "no preflight of another site is answered", request("Origin: https://evil.example", "Access-Control-Request-Method: DELETE", method="OPTIONS", path=CHAT, body=b"", without="authorization"), 405),
    # fields
    Case("chat-extra-field", "no field of one's own", change("make", OWN, body=b'{"owner":"evil"}'), 400),
    Case("chat-prototype", "nor one that means something in JavaScript", change("make", OWN, body=b'{"__proto__":{"admin":true}}'), 400),
    Case("chat-array", "a body of another shape", change("make", OWN, body=b"[]"), 400),
    Case("chat-deep", "thousands of brackets", change("make", OWN, body=b'{"params":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), 400),
    Case("chat-parameter-unknown", "a parameter of the engine's own", change("make", OWN, body=b'{"params":{"priority":-1}}'), 400),
    Case("chat-compressed", "a body that grows", change("make", OWN, "Content-Encoding: gzip"), 415),
    Case("chat-large", "a body larger than any may be", change("make", OWN, body=b'{"title":"' + b"x" * 1_100_000 + b'"}'), 413),
    Case("chat-search-long", "a query has a bound", read("/api/search?q=" + "x" * 300), 400),
    Case("chat-search-operators", "words are no query language", read("/api/search?q=%22%29+OR+1%3D1+NEAR%28%2A"), 200),
    Case("chat-search-nul", "a string's end for some", read("/api/search?q=%00"), 200),
    Case("chat-cursor", "a cursor is a number that we named", read("/api/chats?cursor=evil"), 400),
    Case("chat-cursor-nan", "not every number is one", read("/api/chats?cursor=nan_1"), 400),
    Case("chat-cursor-huge", "nor has SQL room for every one", read("/api/chats?cursor=1.5_" + "9" * 30), 400),
    Case("chat-limit", "digits of another script", read("/api/chats?limit=%D9%A1"), 400),
    Case("chat-export-format", "a format is no path", read(CHAT + "/export?format=../../evil"), 400),
    # paths
    *[
        Case(f"chat-path-{name}", _OTHER, read(path), status, nginx)
        for name, path, status, nginx in (
            ("trailing-slash", "/api/chats/", 404, None),
            ("double-slash", "//api/chats", 404, None),
            ("double-slash-inside", "/api//chats", 404, None),
            ("upper-case", "/API/chats", 404, None),
            ("encoded-letter", "/api/ch%61ts", 404, None),
            ("encoded-slash", "/api%2fchats", 404, None),
            ("dot-dot", "/api/x/../chats", 404, None),
            ("dot-dot-semicolon", "/api/..;/metrics", 404, None),
            ("to-the-engine", "/api/../v1/models", 404, None),
            ("to-metrics", "/api/../metrics", 404, 404),
            ("id-dot-dot", "/api/chats/../admin/users", 404, None),
            ("id-encoded-dot-dot", "/api/chats/..%2fadmin%2fusers", 404, None),
            ("id-encoded-slash", "/api/chats/x%2fexport", 404, None),
            ("id-nul", "/api/chats/c_%00", 404, 400),
            ("id-quote", "/api/chats/'%20OR%20'1'='1", 404, None),
            ("id-long", "/api/chats/" + "c" * 4000, 404, None),
            ("id-lone-surrogate", "/api/chats/%ed%a0%80", 404, None),
            ("id-not-utf-8", "/api/chats/%ff%fe", 404, None),
            ("admin-semicolon", "/api/admin;x/users", 404, None),
            ("admin-encoded", "/api/%61dmin/users", 404, None),
            ("admin-double-slash", "/api/admin//users", 404, None),
            ("admin-below", "/api/admin/engine/metrics", 404, None),
            ("admin-page", "/api/admin", 404, None),
            ("unknown", "/api/evil", 404, None),
        )
    ],
]
