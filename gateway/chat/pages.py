"""The chat's page and its files: read once at start-up, served from memory with strict security headers.

Every servable path is a key of one table, so no request path ever reaches the file system: `..`, encoded
slashes and unknown names are plain 404s.

The page names its files below `/static/BUILD/`, where BUILD changes with any of them: what a browser has of one build
is good for ever, and files of two builds never mix. `page_files` are the same files for a web server in front.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from aiohttp import ETag, hdrs, web

_POLICY: Final[Mapping[str, str]] = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",  # no remote images: a model's answer could leak the conversation in an image's URL
    "font-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",  # the login form is sent by fetch(); without script, a password goes nowhere
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "dompurify",
}
CONTENT_SECURITY_POLICY: Final = "; ".join(f"{directive} {value}" for directive, value in _POLICY.items())

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

# Only these are served. The system's mime table differs from host to host; this one does not.
CONTENT_TYPES: Final[Mapping[str, str]] = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
IMMUTABLE: Final = "public, max-age=31536000, immutable"
REVALIDATED: Final = "no-cache"  # always ask; an unchanged file costs one 304
ALREADY_COMPRESSED: Final = frozenset({".woff2"})


@dataclass(frozen=True)
class Asset:
    """One file as it is sent: its bytes, their type and digest."""

    suffix: str
    body: bytes
    digest: str

    @classmethod
    def of(cls, body: bytes, suffix: str) -> "Asset":
        """Prepare `body`, a file whose name ends in `suffix` (a key of `CONTENT_TYPES`)."""
        return cls(suffix, body, hashlib.sha256(body).hexdigest()[:32])

    @cached_property
    def gzipped(self) -> bytes | None:
        """The bytes gzipped, when that is smaller; made when they are first asked for, not at every start."""
        if self.suffix in ALREADY_COMPRESSED:
            return None
        packed = gzip.compress(self.body, mtime=0)
        return packed if len(packed) < len(self.body) else None

    def respond(self, request: web.Request, cache: str = REVALIDATED) -> web.Response:
        """Send the whole file, gzipped where the client takes that, or 304 when the client already has it."""
        packed = self.gzipped if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, "") else None
        # A strong validator names exact bytes, so each encoding has its own.
        etag = ETag(self.digest + ("-gz" if packed is not None else ""))
        headers = {
            **SECURITY_HEADERS,
            hdrs.CACHE_CONTROL: cache,
        }
        if self.gzipped is not None:
            headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING
        if _matches(request, etag):
            response = web.Response(status=304, headers=headers)
        else:
            headers[hdrs.CONTENT_TYPE] = CONTENT_TYPES[self.suffix]
            if packed is not None:
                headers[hdrs.CONTENT_ENCODING] = "gzip"
            response = web.Response(body=self.body if packed is None else packed, headers=headers)
        response.etag = etag
        return response


def find_static_dir() -> Path:
    """Where the chat's files are: `gateway/static` in an installed wheel, `static` in a checkout.

    Raises FileNotFoundError when neither holds an index.html.
    """
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "static", package.parent / "static"):
        if (candidate / "index.html").is_file():
            return candidate
    raise FileNotFoundError(f"the web chat's files are neither in {package} nor beside it")


def setup_static(app: web.Application, static_dir: Path, public: dict[str, Any]) -> str:
    """Add `GET /`, `GET /static/{path}` and `GET /static/config.json`, which is `public`; return the build id.

    Files are read now: a change on disk needs a restart. Raises OSError when `static_dir` cannot be read.
    """
    index, assets, build = _read_page(static_dir)
    served = {path: (asset, REVALIDATED) for path, asset in assets.items()}
    served |= {f"{build}/{path}": (asset, IMMUTABLE) for path, asset in assets.items()}
    told = json.dumps({**public, "build": build}, ensure_ascii=False).encode()
    served["config.json"] = (Asset.of(told, ".json"), REVALIDATED)

    async def serve_index(request: web.Request) -> web.Response:
        return index.respond(request)

    async def serve_asset(request: web.Request) -> web.Response:
        try:
            asset, cache = served[request.match_info["path"]]
        except KeyError:
            raise web.HTTPNotFound(headers=SECURITY_HEADERS) from None
        return asset.respond(request, cache)

    app.router.add_get("/", serve_index)
    app.router.add_get("/static/{path:.+}", serve_asset)
    return build


def page_files(static_dir: Path) -> Iterator[tuple[str, bytes]]:
    """The page's files by their path on the server, each with its `.gz` sibling where that is smaller."""
    _, assets, build = _read_page(static_dir)
    for path, asset in assets.items():
        name = f"static/{build}/{path}"
        yield name, asset.body
        if asset.gzipped is not None:
            yield f"{name}.gz", asset.gzipped


def _read_page(static_dir: Path) -> tuple[Asset, dict[str, Asset], str]:
    """The index, the other files by their path, and the build's id."""
    assets = dict(_read_assets(static_dir))
    build = hashlib.sha256("".join(f"{path} {asset.digest}\n" for path, asset in assets.items()).encode())
    name = build.hexdigest()[:16]
    index = assets.pop("index.html", None)
    if index is None:
        raise FileNotFoundError(f"{static_dir} holds no index.html")
    return Asset.of(index.body.replace(b'="/static/', f'="/static/{name}/'.encode()), ".html"), assets, name


def _read_assets(static_dir: Path) -> Iterator[tuple[str, Asset]]:
    """Every servable file below `static_dir`, by its path relative to it."""
    for path in sorted(static_dir.rglob("*")):
        if path.suffix in CONTENT_TYPES and path.is_file():
            yield path.relative_to(static_dir).as_posix(), Asset.of(path.read_bytes(), path.suffix)


def _matches(request: web.Request, etag: ETag) -> bool:
    """Whether If-None-Match names `etag`; comparison is weak, as RFC 9110 §13.1.2 asks."""
    wanted = request.if_none_match or ()
    return any(entry.value in (etag.value, "*") for entry in wanted)
