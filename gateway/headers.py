"""Which fields cross the hop, in each direction. Pure.

Requests carry almost nothing on: the engine gets the body's type, what the client accepts, and the request id. Answers
carry everything but the fields that belong to one connection, that the gateway sets itself, or that would steer whoever
is in front: an engine that was taken over must not get at browsers and nginx.
"""

from collections.abc import Iterable
from functools import lru_cache

from multidict import CIMultiDict, CIMultiDictProxy, istr

from gateway.trace_context import TraceContext

# RFC 9110 section 7.6.1, and the older fields that proxies must not pass
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

# what the client may say to the engine; everything else (credentials, cookies, forwarding and identity) stays here
TO_ENGINE: frozenset[str] = frozenset(
    map(istr, ("accept", "accept-language", "traceparent", "tracestate", "anthropic-version", "anthropic-beta"))
)
MOST_LABELS = 256  # names of the engine's fields that are remembered
NOTHING_ASKED = CIMultiDictProxy(CIMultiDict[str]())  # the fields of who sent none

NOT_FROM_ENGINE = HOP_BY_HOP | {
    "content-length",  # aiohttp writes it from the body
    "date",  # the gateway's own, as RFC 9110 wants of who makes the message
    "server",  # who runs behind is nobody's business
    "set-cookie",  # the engine has no sessions; a cookie from it would be taken for ours
    "request-id",  # ours
    "x-request-id",  # ours
    # what a browser would act on: the API is on the origin of the chat
    "alt-svc",
    "clear-site-data",
    "content-security-policy",
    "link",
    "location",
    "nel",
    "origin-agent-cluster",
    "proxy-status",
    "public-key-pins",
    "refresh",
    "report-to",
    "reporting-endpoints",
    "service-worker-allowed",
    "sourcemap",
    "strict-transport-security",
    "www-authenticate",
    "x-powered-by",
    "x-sendfile",
}
# nginx obeys X-Accel-Redirect: it would hand out its internal files; CORS is the gateway's to grant
NOT_FROM_ENGINE_PREFIXES = ("x-accel-", "access-control-", "x-gatehouse-", "x-ratelimit-")


def request_head(
    *,
    method: str,
    target: str,
    authority: str,
    request_id: str,
    api_key: str | None,
    length: int,
    fields: CIMultiDictProxy[str] = NOTHING_ASKED,
    trace: TraceContext | None = None,
) -> bytes:
    """Build the head of the request to the engine.

    `target` comes from the route table, never from the client; `fields` are the client's, of which TO_ENGINE pass.
    `trace`: the engine's span becomes the child of ours; where there is none, of the client's.
    A value with a control character cannot come through aiohttp's parser, and is dropped here all the same.
    """
    lines, passing = "", TO_ENGINE
    if trace is not None:
        lines = f"traceparent: {trace.header()}\r\n"
        # `tracestate` belongs to the trace that is continued
        passing -= {"traceparent"} if trace.parent_id is not None else {"traceparent", "tracestate"}
    for name in passing:
        if name in fields:
            for value in fields.getall(name):
                if value.isprintable():
                    lines += f"{name}: {value}\r\n"
    ours = f"X-Request-Id: {request_id}\r\nContent-Length: {length}\r\n"
    return f"{_same_for_all(method, target, authority, api_key)}{ours}{lines}\r\n".encode("latin-1", "ignore")


@lru_cache(maxsize=256)
def _same_for_all(method: str, target: str, authority: str, api_key: str | None) -> str:
    lines = [
        f"{method} {target} HTTP/1.1",
        f"Host: {authority}",
        "User-Agent: gatehouse",
        "Content-Type: application/json",
        "Accept-Encoding: identity",
    ]
    if api_key is not None:
        lines.append(f"Authorization: Bearer {api_key}")
    return "".join(f"{line}\r\n" for line in lines)


def fields_in(lines: str) -> dict[str, str]:
    """The fields of a head's lines, which all have different names."""
    return dict(line.split(": ", 1) for line in lines.splitlines())


def answer_lines(fields: Iterable[tuple[bytes, bytes]]) -> str:
    """The engine's fields that the client gets, as lines of a head: in their order, duplicates kept."""
    lines = hops = ""
    for name, value in fields:
        label = _labels[name]
        if label:
            lines += f"{label}{value.decode('latin-1')}\r\n"
        elif label is None:
            hops += f"{value.decode('latin-1')},"
    return _without(lines, hops) if hops else lines


def is_event_stream(lines: str) -> bool:
    """Whether an answer with these lines in its head is a stream of events."""
    return "\ncontent-type: text/event-stream" in f"\n{lines.lower()}"


def _without(lines: str, connection: str) -> str:
    """The lines, less those of fields that `Connection` names."""
    hops = tuple(f"{token.strip().lower()}: " for token in connection.split(","))
    return "".join(f"{line}\r\n" for line in lines.split("\r\n")[:-1] if not line.lower().startswith(hops))


class _Labels(dict[bytes, str | None]):
    """How the line of an engine's field begins; empty where the client does not get it, None for `Connection`."""

    def __missing__(self, name: bytes) -> str | None:
        text = name.decode("latin-1")
        label = None if text.lower() == "connection" else f"{text}: " if _from_engine(text) else ""
        if len(self) < MOST_LABELS:
            self[name] = label
        return label


_labels = _Labels()


def _from_engine(name: str) -> bool:
    name = name.lower()
    return name not in NOT_FROM_ENGINE and not name.startswith(NOT_FROM_ENGINE_PREFIXES)
