"""The request line: methods, versions, forms of the target; upgrades to other protocols."""

from tests.edge.corpus.case import AS_HELLO, CHAT, HELLO_JSON, SMUGGLED, TOKEN, Case, get, request

_METHOD = "a method that the route does not offer"
_FORM = "a form of the target for proxies; ours is the origin form only (RFC 9112, section 3.2)"
_SPACE = "white space that parsers split differently"
_UPGRADE = "a change of protocol would pass by everything behind it"


def line(text: str, host: str = "localhost") -> bytes:
    """A request with a line of our own."""
    return f"{text}\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()


CASES = [
    *[
        Case(f"method-{method.lower()}", _METHOD, request(method=method, body=b""), 405, code="method_not_allowed")
        for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND")
    ],
    Case("method-head", _METHOD, request(method="HEAD"), 405, bodiless=True),
    Case("method-trace", "TRACE echoes credentials", request(method="TRACE", body=b""), 405),
    Case("method-lower-case", "methods have a case", request(method="post"), 400, 400),
    Case("method-unknown", _METHOD, request(method="EVIL"), 400),
    Case("method-override", "a header does not change the method", get(CHAT, "X-HTTP-Method-Override: POST"), 405),
    Case("method-override-query", "nor does a query", get(CHAT + "?_method=POST"), 405),
    Case("method-with-space", _SPACE, line("PO ST /v1/models HTTP/1.1"), 400),
    Case("method-with-nul", _SPACE, line("GE\0T /v1/models HTTP/1.1"), 400),
    Case("method-pri", "HTTP/2's preface on an HTTP/1 connection", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    Case("http-0.9", "no version, no headers", b"GET /healthz\r\n\r\n", 400, ()),
    Case("http-0.9-post", "no version", request(version="").replace(b" \r\nHost", b"\r\nHost", 1), 400, ()),
    Case("http-1.0", "answered, and closed", get("/healthz", version="HTTP/1.0"), 200),
    Case("http-1.0-keep-alive", "kept open where it is asked for", get("/healthz", "Connection: keep-alive", version="HTTP/1.0"), 200),
    Case("http-1.2", "a later minor version is HTTP/1.1", get("/healthz", version="HTTP/1.2"), 400, 200),
    Case("http-2.0", "HTTP/2 is not spoken like this", get("/healthz", version="HTTP/2.0"), 400, 505),
    Case("http-9.9", "no such version", get("/healthz", version="HTTP/9.9"), 400, 505),
    Case("http-11", "a version without a dot", get("/healthz", version="HTTP/11"), 400, 505),
    Case("http-lower-case", "the protocol's name has a case", get("/healthz", version="http/1.1"), 400),
    Case("https", "no such protocol", get("/healthz", version="HTTPS/1.1"), 400),
    Case("rtsp", "another protocol's name, with a version that is ours: it opens nothing", get("/healthz", version="RTSP/1.0"), 200, 400),
    Case("icecast", "another protocol's name", request(method="SOURCE", version="ICE/1.0"), 405, 400),
    Case("absolute-form", _FORM, get("http://localhost/v1/models"), 404, 200),
    Case("absolute-form-other-host", _FORM, get("http://169.254.169.254/v1/models"), 404, ()),
    Case("absolute-form-to-the-engine", _FORM, request(path="http://127.0.0.1:8000/invocations"), 404, ()),
    Case("absolute-form-with-user", _FORM, get("http://evil@localhost/v1/models"), 404, (400,)),
    Case("absolute-form-other-scheme", _FORM, get("file:///etc/passwd"), 400),
    Case("authority-form", _FORM, line("CONNECT 127.0.0.1:8000 HTTP/1.1"), 404, 400),
    Case("authority-form-get", _FORM, line("GET 127.0.0.1:8000 HTTP/1.1"), 400),
    Case("asterisk-form", _FORM, line("OPTIONS * HTTP/1.1"), 404, 400),
    Case("asterisk-form-get", _FORM, line("GET * HTTP/1.1"), 400),
    Case("no-target", "nothing is asked for", line("GET  HTTP/1.1"), 400),
    Case("two-spaces", _SPACE, line("GET  /v1/models HTTP/1.1"), 200),
    Case("tab-between", _SPACE, line("GET\t/v1/models\tHTTP/1.1"), 400),
    Case("space-in-target", _SPACE, line("GET /v1/models evil HTTP/1.1"), 400),
    Case("space-behind", _SPACE, line("GET /v1/models HTTP/1.1 "), 400, 200),
    Case("space-before", _SPACE, line(" GET /v1/models HTTP/1.1"), 400),
    Case("form-feed", _SPACE, line("GET\x0c/v1/models HTTP/1.1"), 400),
    Case("nul-in-target", "a string's end for some", line("GET /v1/models\0 HTTP/1.1"), 400),
    Case("line-too-long", "a target of 100,000 bytes", line("GET /" + "x" * 100_000 + " HTTP/1.1"), 431, 414),
    Case("host-twice", "two names: which of them is meant? (RFC 9112, section 3.2)", get("/healthz", "Host: evil.example"), 400),
    Case("host-missing", "HTTP/1.1 needs one", get("/healthz", without="host"), 400),
    Case("host-empty", "no name", get("/healthz", "Host: ", without="host"), 200, 400),
    Case("host-of-somebody-else", "names do not choose what is served", request("Host: evil.example", without="host"), 200, (), engine=AS_HELLO, engine_behind_nginx=()),
    Case("host-with-path", "vLLM's key was passed by through Host (CVE-2026-48746)", request("Host: localhost/evil", without="host"), 400, 400),
    Case("host-with-user", "a name that is none", request("Host: evil@localhost", without="host"), 400, ()),
    Case("host-with-spaces", "a name that is none", request("Host: local host", without="host"), 400, 400),
    Case("host-internal", "the engine's own name opens nothing", request("Host: 127.0.0.1:8000", without="host", path="/invocations"), 404, ()),
    Case("tls-on-plain", "a TLS handshake where HTTP is spoken", bytes.fromhex("16030100a5010000a10303") + bytes(32), 400),
    Case("websocket-elsewhere", _UPGRADE, get("/v1/models", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), 200),
    Case("h2c-upgrade", _UPGRADE, get("/v1/models", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"), 200),
    Case("h2c-upgrade-with-a-request-behind", _UPGRADE, get("/v1/models", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk") + SMUGGLED.replace(b"evil.smuggled", b"CASEIDXX"), 200, (200, 200), engine_behind_nginx=AS_HELLO),
    Case("h2c-upgrade-post", _UPGRADE, request("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), 200, engine=AS_HELLO),
    Case("tls-upgrade", _UPGRADE, get("/v1/models", "Connection: Upgrade", "Upgrade: TLS/1.0"), 200),
    Case("h2-prior-knowledge", "HTTP/2 without asking", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"), 400),
    Case("proxy-protocol", "PROXY's line is believed by nobody", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + get("/healthz"), 400),
    Case("smtp", "another protocol", b"EHLO evil\r\nMAIL FROM:<evil>\r\n\r\n", 400),
    Case("redis", "another protocol", b"*1\r\n$4\r\nPING\r\n", 400),
    Case("shellshock", "no shell here", get("/healthz", "User-Agent: () { :; }; echo evil"), 200),
    Case("json-without-http", "a body alone", HELLO_JSON + b"\r\n\r\n", 400),
]
