"""The configuration of nginx before the gateway: a value that says what is wanted, and the files that follow. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil
from typing import Final

from gatehouse.deploy.templates import fill, find_templates
from gateway.chat.pages import CONTENT_TYPES, IMMUTABLE, SECURITY_HEADERS
from gateway.config import GatewaySettings
from gateway.context import Api
from gateway.errors import GatewayError, error_body

# status → what nginx says of it: (answered as, code, message). 494 and 497 are nginx's own numbers. `error_page` has no
# default: these are the ones of those in ngx_http_special_response.c that can come of what server.conf uses.
ERRORS: Final = {
    400: (400, "invalid_request", "This is not a well-formed HTTP request."),
    401: (401, "password_required", "A user name and a password are needed (Basic)."),
    403: (403, "forbidden", "This is not open to you."),
    404: (404, "route_not_found", "There is no such route."),
    405: (405, "method_not_allowed", "The method is not offered here."),
    408: (408, "request_timeout", "The request did not arrive in time."),
    412: (412, "precondition_failed", "The file is not as the request's condition says."),
    413: (413, "request_too_large", "The body is too large."),
    414: (414, "uri_too_long", "The address is too long."),
    416: (416, "range_not_satisfiable", "The file has no such range."),
    429: (429, "too_many_from_address", "Too many requests or connections from this address; come again in a second."),
    494: (431, "headers_too_large", "The header fields are too large."),
    497: (400, "https_required", "This port speaks HTTPS."),
    500: (500, "proxy_error", "The proxy failed."),
    501: (501, "not_implemented", "This is not offered."),
    502: (502, "gateway_unreachable", "The gateway does not answer; it may be restarting."),
    503: (503, "gateway_unavailable", "The gateway cannot be reached now."),
    504: (504, "gateway_timeout", "The gateway did not answer in time."),
    505: (505, "version_not_supported", "This version of HTTP is not spoken here."),
}
_COME_AGAIN = (429, 502, 503, 504)
_HTTP2_DIRECTIVE = (1, 25, 1)  # the first version that knows `http2 on;`, and warns of the word after `listen`


class _ProxyError(GatewayError):
    """An error of nginx's, for its body: an unknown 4xx has the shape of a bad request."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = 400 if status in (412, 414, 416, 431) else status
        super().__init__(message, code=code)


@dataclass(frozen=True)
class NginxSite:
    """What is to be served where. Folders and files are those of the machine that runs nginx."""

    domain: str
    upstreams: tuple[str, ...]  # `unix:PATH` or `HOST:PORT` of each worker
    settings: GatewaySettings = field(default_factory=GatewaySettings)
    version: tuple[int, ...] = ()  # of that nginx; not known: what every version takes
    basic_auth: bool = False
    certificate: str = "gatehouse/tls/fullchain.pem"  # relative: to the folder of nginx.conf
    certificate_key: str = "gatehouse/tls/privkey.pem"
    addresses: tuple[str, ...] = ("0.0.0.0", "[::]")  # noqa: S104 - nginx is what faces the network
    http_port: int = 80
    https_port: int = 443
    static_root: str = "/var/www/gatehouse"
    acme_dir: str = "/var/www/acme"
    user: str | None = "www-data"  # none: whoever starts nginx
    pid_file: str = "/run/nginx.pid"
    log_dir: str = "/var/log/nginx"
    temp_dir: str | None = None  # none: the folders nginx was built with
    requests_per_second: int = 50
    logins_per_second: int = 2
    connections: int = 256
    seconds_longer: int = (
        30  # than the gateway nginx waits for the same thing, so that the gateway's answer comes first
    )

    @property
    def authority(self) -> str:
        """The site's name as a browser writes it: with the port where that is not HTTPS's own."""
        return self.domain if self.https_port == 443 else f"{self.domain}:{self.https_port}"


def render(site: NginxSite) -> dict[str, str]:
    """Path below nginx's folder → content, of every file that belongs to the configuration."""
    folder = find_templates("nginx")
    values = _values(site)
    files = {
        path.relative_to(folder).as_posix(): fill(path.read_text("utf-8"), values)
        for path in sorted(folder.rglob("*.conf"))
    }
    files["gatehouse/error-bodies.conf"] = _error_bodies()
    files["gatehouse/static-headers.conf"] = _static_headers()
    if not site.basic_auth:
        none = "# No Basic auth; `gatehouse deploy nginx --basic-auth` writes it.\n"
        files |= dict.fromkeys(("gatehouse/basic-auth.conf", "gatehouse/basic-auth-users.conf"), none)
    return files


def upstreams(settings: GatewaySettings) -> tuple[str, ...]:
    """Where the workers of these settings listen: their own sockets, or the port that they share."""
    if settings.socket_dir is not None:
        return tuple(f"unix:{settings.socket_dir}/worker-{number}.sock" for number in range(1, settings.workers + 1))
    return (f"{_near(settings.host)}:{settings.port}",)


def version_numbers(version: str) -> tuple[int, ...]:
    """`1.26.3` → (1, 26, 3); none of an empty text."""
    return tuple(map(int, version.split("."))) if version else ()


def _near(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - who listens everywhere is near, too
    return f"[{host}]" if ":" in host else host


def _values(site: NginxSite) -> dict[str, str]:
    settings = site.settings
    longest = max(settings.total_seconds, settings.first_token_seconds, settings.next_token_seconds)
    word, directive = ("", ["http2 on;"]) if site.version >= _HTTP2_DIRECTIVE else (" http2", [])
    https = [f"{address}:{site.https_port} ssl{word}" for address in site.addresses]
    http = [f"{address}:{site.http_port}" for address in site.addresses]
    temp = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi") if site.temp_dir else ()
    credentials = {"Authorization": '""', "X-Api-Key": "$gatehouse_api_key"} if site.basic_auth else {}
    errors = [f"error_page {seen} ={said} /gatehouse-error/{seen};" for seen, (said, *_) in ERRORS.items()]
    return {
        "ACME_DIR": site.acme_dir,
        "AUTHORITY": site.authority,
        "BODY_SECONDS": str(ceil(settings.body_seconds)),
        "CERTIFICATE": site.certificate,
        "CERTIFICATE_KEY": site.certificate_key,
        "CONNECTIONS": str(site.connections),
        "CREDENTIAL_HEADERS": "\n".join(f"proxy_set_header {name} {value};" for name, value in credentials.items()),
        "DOMAIN": site.domain,
        "ERROR_PAGES": "\n".join(errors),
        "HEAD_SECONDS": str(ceil(settings.head_seconds)),
        "LISTEN_HTTP_DEFAULT": _lines(f"listen {each} default_server;" for each in http),
        "LISTEN_HTTPS": _lines([*(f"listen {each};" for each in https), *directive]),
        "LISTEN_HTTPS_DEFAULT": _lines([*(f"listen {each} default_server;" for each in https), *directive]),
        "LOGINS_BURST": str(site.logins_per_second * 10),
        "LOGINS_PER_SECOND": str(site.logins_per_second),
        "LOG_DIR": site.log_dir,
        "MAX_BODY_BYTES": str(settings.max_body_bytes),
        "PID_FILE": site.pid_file,
        "READ_SECONDS": str(ceil(longest + settings.hold_seconds) + site.seconds_longer),
        "REQUESTS_BURST": str(site.requests_per_second * 4),
        "REQUESTS_PER_SECOND": str(site.requests_per_second),
        "SEND_SECONDS": str(ceil(settings.write_seconds) + site.seconds_longer),
        "SHUTDOWN_SECONDS": str(ceil(settings.total_seconds)),
        "STATIC_ROOT": site.static_root,
        "TEMP_PATHS": _lines(f"{name}_temp_path {site.temp_dir}/{name};" for name in temp),
        "UPSTREAM_SERVERS": _lines(f"server {each} max_fails=0;" for each in site.upstreams),
        "USER_LINE": f"user {site.user};" if site.user else "",
    }  # fmt: skip


def _lines(lines: Iterable[str], indent: str = "    ") -> str:
    return f"\n{indent}".join(lines)


def _error_bodies() -> str:
    """What nginx's own errors say, in each API's shape, and what else of their answer depends on them."""
    bodies = []
    for seen, (said, code, message) in ERRORS.items():
        error = _ProxyError(said, code, message)
        for dialect, api in (("openai", Api.OTHER), ("anthropic", Api.MESSAGES)):
            body = error_body(error, api, "$gatehouse_request_id").decode()
            bodies.append(f'"{dialect} /gatehouse-error/{seen}" {_quoted(body)};')
    again = "|".join(map(str, _COME_AGAIN))
    return f"""\
# nginx's own errors in the API's shape, made of the gateway's.
map $request_uri $gatehouse_dialect {{
    default openai;
    "~^/v1/messages(/count_tokens)?(\\?|$)" anthropic;
}}
map "$gatehouse_dialect $uri" $gatehouse_error {{
    {_lines(bodies)}
}}
map $gatehouse_dialect $gatehouse_anthropic_request_id {{
    anthropic $gatehouse_request_id;
}}
map $uri $gatehouse_retry_after {{
    "~/({again})$" 1;
}}
map $https $gatehouse_hsts {{
    on "max-age=63072000"; # not over plain HTTP (RFC 6797, section 7.2)
}}
"""


def _static_headers() -> str:
    """What a file of the page is sent with: the same as from the gateway."""
    types = "\n".join(f"    {kind.partition(';')[0]} {suffix[1:]};" for suffix, kind in CONTENT_TYPES.items())
    headers = {**SECURITY_HEADERS, "Cache-Control": IMMUTABLE}
    fields = "\n".join(f"add_header {name} {_quoted(value)};" for name, value in headers.items())
    texts = {kind.partition(";")[0] for kind in CONTENT_TYPES.values() if "charset" in kind}
    return f"""\
# The gateway's own headers, for the files that nginx sends.
types {{
{types}
}}
charset utf-8;
charset_types {" ".join(sorted(texts - {"text/html"}))};
add_header Strict-Transport-Security "max-age=63072000" always;
{fields}
"""


def _quoted(text: str) -> str:
    """A string of nginx's configuration; a `$` in it stays a variable."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
