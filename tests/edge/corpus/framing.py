"""Request smuggling: what is a request's end? Lengths, chunks, trailers, pipelines, line ends."""

from tests.edge.corpus.case import AS_HELLO, CHAT, HELLO, HELLO_JSON, SMUGGLED, Case, chunked, chunks, get, request

_TWO = "two framings: who believes the other one sees another request (RFC 9112, section 6.3)"
_LENGTH = "a length that parsers read differently"
_CODING = "a coding that one hop knows and the next ignores"
_CHUNK = "a chunk that parsers cut differently"
_LINE = "a line end or fold that parsers read differently (RFC 9112, section 2.2)"

HALF = len(HELLO_JSON) // 2
WHOLE = chunks(HELLO_JSON)


def head(*lines: bytes, body: bytes = b"") -> bytes:
    """A head with line ends of our own."""
    start = request(without="content-length", body=b"").removesuffix(b"\r\n\r\n")
    return start + b"".join(lines) + body


CASES = [
    # CL.TE, TE.CL, TE.TE
    Case("cl-te", _TWO, request("Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED), 400),
    Case("cl-te-length-0", _TWO, request("Transfer-Encoding: chunked", body=b"") + WHOLE + SMUGGLED, 400),
    Case("te-cl", _TWO, chunked(chunks(SMUGGLED), "Content-Length: 4"), 400),
    Case("te-cl-agreeing", _TWO, chunked(WHOLE, f"Content-Length: {len(WHOLE)}"), 400),
    Case("te-before-cl", _TWO, request("Content-Length: 4", without="content-length", body=b"").replace(b"Content-Length: 4", b"Transfer-Encoding: chunked\r\nContent-Length: 4") + chunks(SMUGGLED), 400),
    Case("te-te-identity", _CODING, chunked(WHOLE, "Transfer-Encoding: identity"), 400),
    Case("te-te-twice", _CODING, chunked(WHOLE, "Transfer-Encoding: chunked"), 400),
    Case("te-list-twice", _CODING, request("Transfer-Encoding: chunked, chunked", without="content-length", body=WHOLE), 400, 501),
    Case("te-list-identity", _CODING, request("Transfer-Encoding: chunked, identity", without="content-length", body=WHOLE), 400, 501),
    Case("te-identity", _CODING, request("Transfer-Encoding: identity", body=HELLO_JSON), 400, 501),
    Case("te-gzip", _CODING, request("Transfer-Encoding: gzip, chunked", without="content-length", body=WHOLE), 400, 501),
    Case("te-unknown", _CODING, request("Transfer-Encoding: xchunked", without="content-length", body=WHOLE), 400, 501),
    Case("te-unknown-with-length", _CODING, request("Transfer-Encoding: xchunked"), 400, 501),
    Case("te-vertical-tab", _CODING, request("Transfer-Encoding: \x0bchunked", without="content-length", body=WHOLE), 400, 501),
    Case("te-trailing-tab", _CODING, request("Transfer-Encoding: chunked\t", without="content-length", body=WHOLE), 400, 501),
    Case("te-upper-case", "codings have no case", request("Transfer-Encoding: CHUNKED", without="content-length", body=WHOLE), 200, engine=AS_HELLO),
    Case("te-quoted", _CODING, request('Transfer-Encoding: "chunked"', without="content-length", body=WHOLE), 400, 501),
    Case("te-empty", _CODING, request("Transfer-Encoding: ", body=HELLO_JSON), 400, 501),
    Case("te-space-before-colon", _CODING, request("Transfer-Encoding : chunked", without="content-length", body=WHOLE), 400),
    Case("te-underscore", "Transfer_Encoding is not Transfer-Encoding", request("Transfer_Encoding: chunked"), 200, engine=AS_HELLO),
    Case("te-http-1.0", "HTTP/1.0 knows no chunks (RFC 9112, section 6.1)", request("Transfer-Encoding: chunked", without="content-length", version="HTTP/1.0", body=WHOLE), 400),
    Case("te-get", "a GET with a body hides a request behind it", get("/v1/models", "Transfer-Encoding: chunked", body=b"").replace(b"Content-Type: application/json\r\nContent-Length: 0\r\n", b"") + chunks(SMUGGLED), 200),
    # Content-Length
    Case("cl-twice-different", _LENGTH, request("Content-Length: 5"), 400),
    Case("cl-twice-equal", _LENGTH, request(f"Content-Length: {len(HELLO_JSON)}"), 400),
    Case("cl-list", _LENGTH, request(f"Content-Length: {len(HELLO_JSON)}, {len(HELLO_JSON)}", without="content-length"), 400),
    Case("cl-negative", _LENGTH, request("Content-Length: -1", without="content-length"), 400),
    Case("cl-plus", _LENGTH, request(f"Content-Length: +{len(HELLO_JSON)}", without="content-length"), 400),
    Case("cl-hex", _LENGTH, request(f"Content-Length: 0x{len(HELLO_JSON):x}", without="content-length"), 400),
    Case("cl-underscore", _LENGTH, request("Content-Length: 1_0", without="content-length"), 400),
    Case("cl-float", _LENGTH, request(f"Content-Length: {len(HELLO_JSON)}.0", without="content-length"), 400),
    Case("cl-exponent", _LENGTH, request("Content-Length: 1e2", without="content-length"), 400),
    Case("cl-words", _LENGTH, request("Content-Length: five", without="content-length"), 400),
    Case("cl-empty", _LENGTH, request("Content-Length: ", without="content-length"), 400),
    Case("cl-spaces-inside", _LENGTH, request("Content-Length: 1 0", without="content-length"), 400),
    Case("cl-arabic-digits", _LENGTH, request("Content-Length: ١٠", without="content-length"), 400),
    Case("cl-overflow-64", _LENGTH, request("Content-Length: 18446744073709551617", without="content-length"), 400),
    Case("cl-overflow-signed", _LENGTH, request("Content-Length: 9223372036854775808", without="content-length"), 413, 400),
    Case("cl-leading-zeros", "zeros before a number are digits like others", request(f"Content-Length: 000{len(HELLO_JSON)}", without="content-length"), 200, engine=AS_HELLO),
    Case("cl-space-before-colon", _LENGTH, request(f"Content-Length : {len(HELLO_JSON)}", without="content-length"), 400),
    Case("cl-too-long", "the rest never comes", request(f"Content-Length: {len(HELLO_JSON) + 9}", without="content-length"), 408, ()),
    Case("cl-too-short", "what is left over is no request", request(f"Content-Length: {HALF}", without="content-length"), 400, (400, 400)),
    Case("cl-none", "a POST without any length has no body; its body is then taken for a request", request(without="content-length"), 400, (400, 400)),
    Case("cl-larger-than-allowed", "refused before it is read", request("Content-Length: 900000000", without="content-length", body=b""), 413, code="request_too_large"),
    Case("cl-get-hides-a-request", "the body of a GET is read and thrown away, not taken for the next request", get("/v1/models", body=SMUGGLED), 200),
    # chunks
    Case("chunk-whole", "an ordinary chunked body passes, and reaches the engine with a length", chunked(WHOLE), 200, engine=AS_HELLO),
    Case("chunk-small", "byte by byte", chunked(chunks(*[bytes([each]) for each in b'{"messages":[],"max_tokens":3}'])), 200, engine=({"path": CHAT, "messages": [], "max_tokens": 3},)),
    Case("chunk-extension", "extensions are read over, and do not go on", chunked(b"%x;evil=1\r\n%s\r\n0;evil\r\n\r\n" % (len(HELLO_JSON), HELLO_JSON)), 200, engine=AS_HELLO),
    Case("chunk-extension-quoted", "a quoted line end would hide one", chunked(b'%x;a="\r\n%s\r\n0\r\n\r\n' % (len(HELLO_JSON), HELLO_JSON)), 400, (200,), engine_behind_nginx=AS_HELLO),
    Case("chunk-extension-bare-lf", "TERM.EXT: whether LF ends an extension's line is disputed (CVE-2025-55315)", chunked(b"%x;\n%s\r\n0\r\n\r\n" % (len(HELLO_JSON), HELLO_JSON)), 400, 200, engine_behind_nginx=AS_HELLO),
    Case("chunk-extension-huge", "an extension is not bounded by the body's limit", chunked(b"%x;%s\r\n" % (len(HELLO_JSON), b"x" * 100_000)), 408, ()),
    Case("chunk-size-overflow", _CHUNK, chunked(b"ffffffffffffffff1\r\n" + HELLO_JSON), 400),
    Case("chunk-size-64-bit", _CHUNK, chunked(b"ffffffffffffffff\r\n" + HELLO_JSON), 408, 400),
    Case("chunk-size-negative", _CHUNK, chunked(b"-1\r\n" + HELLO_JSON), 400),
    Case("chunk-size-plus", _CHUNK, chunked(b"+%x\r\n%s\r\n0\r\n\r\n" % (len(HELLO_JSON), HELLO_JSON)), 400),
    Case("chunk-size-0x", _CHUNK, chunked(b"0x%x\r\n%s\r\n0\r\n\r\n" % (len(HELLO_JSON), HELLO_JSON)), 400),
    Case("chunk-size-underscore", _CHUNK, chunked(b"1_0\r\n" + HELLO_JSON), 400),
    Case("chunk-size-empty", _CHUNK, chunked(b"\r\n" + HELLO_JSON), 400),
    Case("chunk-size-space", _CHUNK, chunked(b"%x \r\n%s\r\n0\r\n\r\n" % (len(HELLO_JSON), HELLO_JSON)), 400, 200, engine_behind_nginx=AS_HELLO),
    Case("chunk-size-letters", _CHUNK, chunked(b"zz\r\n" + HELLO_JSON), 400),
    Case("chunk-size-bare-lf", _CHUNK, chunked(b"%x\n%s\r\n0\r\n\r\n" % (len(HELLO_JSON), HELLO_JSON)), 400, 200, engine_behind_nginx=AS_HELLO),
    Case("chunk-data-too-long", _CHUNK, chunked(b"3\r\n" + HELLO_JSON + b"\r\n0\r\n\r\n"), 400),
    Case("chunk-data-without-crlf", _CHUNK, chunked(b"%x\r\n%s0\r\n\r\n" % (len(HELLO_JSON), HELLO_JSON)), 400),
    Case("chunk-never-ends", "no last chunk", chunked(chunks(HELLO_JSON, end=b"")), 408, ()),
    Case("chunk-cut", "half a chunk", chunked(b"ff\r\n{"), 408, ()),
    Case("chunk-behind-the-last", "what follows the last chunk is the next request, and not HTTP: neither is served", chunked(WHOLE + b"evil"), 400, (200, 400), engine_behind_nginx=AS_HELLO),
    Case("chunk-too-large-in-all", "chunks hide the size until it is too large", chunked(chunks(*[b"x" * 60_000] * 20)), 413, code="request_too_large"),
    # trailers
    Case("trailer", "trailers are read over, and do not go on", chunked(chunks(HELLO_JSON, end=b"0\r\nX-Evil: evil\r\n\r\n")), 200, engine=AS_HELLO),
    Case("trailer-length", "a trailer is no header", chunked(chunks(HELLO_JSON, end=b"0\r\nContent-Length: 5\r\n\r\n")), 400, 200, engine_behind_nginx=AS_HELLO),
    Case("trailer-authorization", "credentials in a trailer are none", chunked(chunks(HELLO_JSON, end=b"0\r\nAuthorization: Bearer evil\r\n\r\n")), 200, engine=AS_HELLO),
    Case("trailer-never-ends", "trailers are bounded in time", chunked(chunks(HELLO_JSON, end=b"0\r\nX-Evil: e")), 408, ()),
    Case("trailer-huge", "trailers are bounded in size", chunked(chunks(HELLO_JSON, end=b"0\r\nX-Evil: " + b"e" * 200_000 + b"\r\n\r\n")), 431, 200, engine_behind_nginx=AS_HELLO),
    # line ends and folds
    Case("bare-lf-everywhere", _LINE, request().replace(b"\r\n", b"\n"), 400, 200, engine_behind_nginx=AS_HELLO),
    Case("bare-lf-hides-a-field", _LINE, head(b"\r\nX-A: b\nContent-Length: %d\r\n\r\n" % len(HELLO_JSON), body=HELLO_JSON), 400, 200, engine_behind_nginx=AS_HELLO),
    Case("bare-cr-in-a-value", _LINE, request("X-A: b\rX-Evil: 1"), 400),
    Case("bare-cr-as-line-end", _LINE, request().replace(b"\r\n", b"\r"), 400),
    Case("obs-fold", _LINE, request("X-A: b\r\n X-Evil: 1"), 400),
    Case("obs-fold-length", _LINE, request("Content-Length:\r\n 5", without="content-length"), 400),
    Case("obs-fold-first", _LINE, request().replace(b"Host:", b" Host:", 1), 400),
    Case("nul-in-a-value", _LINE, request("X-A: b\0c"), 400),
    Case("nul-in-a-name", _LINE, request("X-A\0: b"), 400),
    Case("empty-line-before", "an empty line before a request is read over (RFC 9112, section 2.2)", b"\r\n" + request(), 200, engine=AS_HELLO),
    Case("many-empty-lines-before", "any number of them keeps a connection busy", b"\r\n" * 50_000 + request(), 200, engine=AS_HELLO),
    Case("no-colon", "a field without a colon", request("X-A"), 400, 200, engine_behind_nginx=AS_HELLO),
    Case("empty-name", "a field without a name", request(": b"), 400),
    Case("no-end-of-head", "a head that never ends", request(method="GET", path="/v1/models").removesuffix(b"\r\n"), 408, ()),
    # pipelines
    Case("pipeline", "two requests at once get two answers in order", request() + request(), (200, 200), engine=AS_HELLO * 2),
    Case("pipeline-behind-a-refusal", "what follows a refused request is a request of its own", request(path="/metrics") + request(), (404, 200), engine=AS_HELLO),
    Case("pipeline-behind-no-http", "nothing that follows what is no HTTP is served", b"evil\r\n\r\n" + request(), 400),
    Case("pipeline-behind-an-unread-body", "a refused body is not taken for requests", request(without="authorization", body=SMUGGLED) + get("/v1/models"), (401, 200)),
    Case("pipeline-behind-close", "nothing is served after Connection: close", request("Connection: close") + request(id="evil.2"), 400, 200, engine_behind_nginx=AS_HELLO),
    Case("pipeline-with-other-credentials", "credentials are those of each request", request() + request(without="authorization"), (200, 401), engine=AS_HELLO),
    Case("pipeline-of-40", "a long pipeline is served in order", get("/healthz") * 40, (200,) * 40),
    Case("expect-continue", "an expectation is met, and does not go on", request("Expect: 100-continue"), 200, engine=AS_HELLO),
    Case("expect-unknown", "an expectation that nobody can meet", request("Expect: evil"), 417, 200, engine_behind_nginx=AS_HELLO),
    Case("body-of-another-path", "the body's length is the same on routes that take none", request(path="/healthz", body=SMUGGLED), 405),
    Case("body-of-delete", "a body where none is expected", request(method="DELETE", path=CHAT, body=HELLO), 405),
]
