"""Other ways to write a path: none of them is a route."""

from tests.edge.corpus.case import AS_HELLO, CHAT, Case, get, request

_ADMIN = "a route of vLLM's that is not for callers; its key does not guard it"
_OTHER = "another way to write a path that somebody behind might take for the same"


def post(name: str, path: str, why: str = _OTHER, status: int = 404, nginx: int | tuple[int, ...] | None = None) -> Case:
    """A POST that must find no route."""
    return Case(f"path-{name}", why, request(path=path), status, nginx, code="route_not_found" if status == 404 else "")


CASES = [
    *[
        post(path.strip("/").replace("/", "-"), path, _ADMIN)
        for path in (
            "/invocations", "/pooling", "/classify", "/score", "/rerank", "/v2/rerank", "/generative_scoring", "/pause",
            "/resume", "/sleep", "/wake_up", "/collective_rpc", "/update_weights", "/scale_elastic_ep", "/abort_requests",
            "/reset_prefix_cache", "/reset_mm_cache", "/server_info", "/v1/load_lora_adapter", "/v1/unload_lora_adapter",
            "/v1/systemone", "/v1/chat/completions/batch", "/v1/audio/transcriptions", "/inference/v1/generate", "/ping",
            "/sim/knobs", "/sim/reset", "/start_profile", "/engine/restart", "/sessions/revoke",
        )
    ],
    *[
        Case(f"path-get-{path.strip('/').replace('/', '-')}", _ADMIN, get(path), 404, code="route_not_found")
        for path in ("/metrics", "/engine/metrics", "/engine/status", "/health", "/load", "/version", "/docs", "/openapi.json", "/requests", "/.env", "/.git/config", "/server-status", "/debug/pprof")
    ],
    post("double-slash", "//v1/chat/completions"),
    post("double-slash-inside", "/v1//chat/completions"),
    post("triple-slash", "///v1/chat/completions"),
    post("encoded-slash", "/v1/chat%2fcompletions"),
    post("encoded-slash-upper", "/v1/chat%2Fcompletions"),
    post("twice-encoded-slash", "/v1/chat%252fcompletions"),
    post("encoded-letter", "/v1/ch%61t/completions"),
    post("encoded-dots", "/v1/%2e%2e/invocations"),
    post("encoded-nul", "/v1/chat/completions%00", nginx=400),
    post("encoded-crlf", "/v1/chat/completions%0d%0aX-Evil:1"),
    post("encoded-space", "/v1/chat/completions%20"),
    post("encoded-tab", "/v1/chat/completions%09"),
    post("encoded-question-mark", "/v1/chat/completions%3fx"),
    post("encoded-hash", "/v1/chat/completions%23"),
    post("broken-escape", "/v1/chat/completions%", nginx=400),
    post("broken-escape-letters", "/v1/chat/completions%zz", nginx=400),
    post("unicode-escape", "/v1/chat/completions%u002f", nginx=400),
    post("overlong-utf-8", "/v1/chat%c0%afcompletions"),
    post("overlong-dots", "/v1/%c0%ae%c0%ae/invocations"),
    post("raw-utf-8", "/v1/chat/completions\u00e9", status=400),
    post("full-width-slash", "/v1/chat\uff0fcompletions", status=400),
    post("dot-dot", "/v1/chat/../chat/completions"),
    post("dot-dot-out", "/../invocations", nginx=400),
    post("dot-dot-semicolon", "/v1/..;/invocations"),
    post("dot", "/v1/./chat/completions"),
    post("dot-behind", "/v1/chat/completions/."),
    post("trailing-dot", "/v1/chat/completions."),
    post("trailing-slash", "/v1/chat/completions/"),
    post("semicolon", "/v1/chat/completions;x=1"),
    post("semicolon-first", "/;/v1/chat/completions"),
    post("backslash", "/v1\\chat\\completions", nginx=404),
    post("backslash-dots", "/v1/..\\invocations", nginx=404),
    post("upper-case", "/V1/CHAT/COMPLETIONS"),
    post("mixed-case", "/v1/Chat/completions"),
    post("without-v1", "/chat/completions"),
    post("v2", "/v2/chat/completions"),
    post("prefixed", "/evil/v1/chat/completions"),
    post("suffix", "/v1/chat/completions.json"),
    post("tilde", "/v1/chat/completions~"),
    post("star", "/v1/chat/*"),
    post("braces", "/v1/models/{id}", status=405),
    post("colon", "/v1:chat"),
    post("hash", "/v1/chat/completions#x", status=404),
    Case("query", "a query is no part of the route, and does not go on", request(path=CHAT + "?evil=1"), 200, engine=AS_HELLO),
    Case("query-with-a-path", "not even one that looks like a path", request(path=CHAT + "?/../invocations"), 200, engine=AS_HELLO),
    Case("query-with-question-marks", "only the first one counts", request(path=CHAT + "??x=1?y"), 200, engine=AS_HELLO),
    Case("query-encoded-crlf", "line ends in a query stay where they are", request(path=CHAT + "?x=%0d%0aX-Evil:%201"), 200, engine=AS_HELLO),
    Case("query-as-path", "a path in the query opens nothing", get("/?path=/invocations"), 200),
    Case("static-dot-dot", "the files are a table, not a folder", get("/static/../../etc/passwd"), 404, 400),
    Case("static-encoded", "the files are a table, not a folder", get("/static/%2e%2e/%2e%2e/etc/passwd"), 404, 400),
    Case("static-absolute", "the files are a table, not a folder", get("/static//etc/passwd"), 404),
    Case("static-source", "only the page's files", get("/static/../gateway/app.py"), 404),
    Case("static-folder", "no listing", get("/static/"), 404),
    Case("static-nul", "no string's end", get("/static/js/main.js%00.txt"), 404, 400),
    Case("models-dot-dot", "a model's name is no path", get("/v1/models/../../metrics"), 404),
    Case("models-encoded", "a model's name is no path", get("/v1/models/..%2f..%2fmetrics"), 404),
    Case("models-other", "a model that is not served", get("/v1/models/evil"), 404, code="model_not_found"),
    Case("response-dot-dot", "an id is no path", get("/v1/responses/../../metrics"), 404),
    Case("response-encoded", "an id is no path", get("/v1/responses/resp_x%2f..%2f..%2fmetrics"), 404),
    Case("response-query", "an id has no query", get("/v1/responses/resp_x?y"), 404, code="response_not_found"),
    Case("response-semicolon", "an id has no parameters", get("/v1/responses/resp_x;y"), 404),
    Case("response-of-somebody-else", "an id is bound to whom it was made for", get("/v1/responses/resp_0123456789abcdef"), 404, code="response_not_found"),
    Case("response-cancel-of-somebody-else", "on cancel, too (LibreChat CVE-2026-31950)", request(path="/v1/responses/resp_0123456789abcdef/cancel", body=b""), 404, code="response_not_found"),
]
