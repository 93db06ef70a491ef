"""Documents of an identity provider over HTTPS: bounded in time and size, no redirects, no surprises.

Providers are named in the configuration, but what they publish names further addresses; those must be HTTPS too.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from gateway.auth.claims import strict_json
from gateway.auth.published import FetchError
from gateway.config import IssuerSettings, is_near

if TYPE_CHECKING:
    from gateway.auth.jwks import JwkSet

MAX_BYTES = 256 * 1024
FETCH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Document:
    """What came back: the status, the body, and how long it may be kept."""

    status: int
    body: bytes
    cache_control: str

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; ValueError when it is none."""
        return strict_json(self.body)


class Fetcher:
    """Requests to identity providers. Raises FetchError only, whatever goes wrong."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Document:
        """GET a document; any status but 200 is a FetchError."""
        document = await self._request("GET", url, headers=headers)
        if document.status != 200:
            raise FetchError(f"{url}: status {document.status}")
        return document

    async def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Document:
        """POST a form; the status is the caller's to judge."""
        return await self._request("POST", url, data=form, headers=headers)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _request(self, method: str, url: str, **how: Any) -> Document:
        require_safe(url)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # aiohttp's own context trusts nobody: the command imports it without the machine's certificates
                connector=aiohttp.TCPConnector(ssl=ssl.create_default_context()),
                timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": "application/json", "User-Agent": "gatehouse"},
            )
        try:
            # a redirect could lead from the provider to anywhere
            async with self._session.request(method, url, allow_redirects=False, **how) as answer:
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise FetchError(f"{url}: more than {MAX_BYTES} bytes")
                return Document(answer.status, bytes(body), answer.headers.get("Cache-Control", ""))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise FetchError(f"{url}: {type(error).__name__}") from None


def require_safe(url: object) -> str:
    """The address, if it is one that may be asked: HTTPS, or this host. FetchError otherwise."""
    if not isinstance(url, str) or not (url.startswith("https://") or (url.startswith("http://") and is_near(url))):
        raise FetchError("an address that is not https")
    return url


class Discovery:
    """What a provider says about itself (OpenID Connect Discovery 1.0)."""

    def __init__(self, fetcher: Fetcher, issuer: str) -> None:
        self._fetcher = fetcher
        self._issuer = issuer

    async def fetch(self) -> dict[str, Any]:
        """The provider's metadata; FetchError unless it speaks for this very issuer."""
        url = self._issuer.removesuffix("/") + "/.well-known/openid-configuration"
        try:
            metadata = (await self._fetcher.get(url)).json()
        except ValueError:
            raise FetchError(f"{url}: not JSON") from None
        if metadata.get("issuer") != self._issuer:
            raise FetchError(f"{url}: it speaks for another issuer")
        return metadata


class JwksDocument:
    """How the key set of an issuer is fetched: by its address, or the one that discovery tells."""

    def __init__(self, fetcher: Fetcher, settings: IssuerSettings) -> None:
        self._fetcher = fetcher
        self._settings = settings
        self._discovery = Discovery(fetcher, settings.issuer)

    async def fetch(self) -> tuple[JwkSet, str]:
        """The set, and its Cache-Control."""
        url = self._settings.jwks_url
        if url is None:
            url = require_safe((await self._discovery.fetch()).get("jwks_uri"))
        document = await self._fetcher.get(url)
        return parse(document.body, url, self._settings), document.cache_control


class JwksFile:
    """How a key set is read from a file, anew each time."""

    def __init__(self, settings: IssuerSettings) -> None:
        self._settings = settings

    async def fetch(self) -> tuple[JwkSet, str]:
        """The set; a file says nothing of its age."""
        path = self._settings.jwks_file
        assert path is not None  # noqa: S101 - the settings have one source of keys
        try:
            data = await asyncio.to_thread(path.read_bytes)
        except OSError as error:
            raise FetchError(f"{path}: {error.strerror}") from None
        if len(data) > MAX_BYTES:
            raise FetchError(f"{path}: more than {MAX_BYTES} bytes")
        return parse(data, str(path), self._settings), ""


def parse(data: bytes, where: str, settings: IssuerSettings) -> JwkSet:
    """The key set; FetchError when it is none, or holds nothing that can be used."""
    from gateway.auth.jwks import read_jwks  # noqa: PLC0415 - with cryptography, which only public keys need

    try:
        found = read_jwks(data, settings.algorithm)
    except ValueError as error:
        raise FetchError(f"{where}: {error}") from None
    if not found.keys:
        raise FetchError(f"{where}: no key that can be used; {'; '.join(found.left_out) or 'it is empty'}")
    return found
