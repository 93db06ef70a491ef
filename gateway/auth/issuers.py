"""Whose tokens are accepted: the house's own, and those of the configured issuers, each by its own keys and rules."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from gateway.auth.claims import ClaimRules
from gateway.auth.fetch import Fetcher, JwksDocument, JwksFile
from gateway.auth.keys import Key, KeyFileError, KeyFinder, KeySet, read_secret_file
from gateway.auth.published import PublishedKeys
from gateway.auth.sso import SsoProvider
from gateway.config import AuthSettings, IssuerSettings

FIRST_FETCH_SECONDS = 5.0  # a start waits so long for keys; who is slower than that is not waited for
FILE_SECONDS = 2.0  # how often a key set's file is read


@dataclass(frozen=True, slots=True)
class Issuer:
    """One that signs tokens: by which keys, and what its tokens must say."""

    rules: ClaimRules
    keys: KeyFinder


class ForeignIssuers:
    """The configured issuers. Raises KeyFileError at once for key files that cannot be used."""

    def __init__(self, auth: AuthSettings) -> None:
        self.fetcher = Fetcher()
        self.by_claim = {
            settings.issuer: Issuer(ClaimRules.of_issuer(settings, auth), self._keys(settings, auth))
            for settings in auth.issuers
        }
        """By their `iss`."""

    def sso_providers(self, auth: AuthSettings, plans: Collection[str], key: Key) -> list[SsoProvider]:
        """Those of them that people sign in to the chat at. `key` is the house's, which all its workers know."""
        return [
            SsoProvider(
                settings,
                settings.sso,
                auth,
                plans,
                keys=self.by_claim[settings.issuer].keys,
                fetcher=self.fetcher,
                secret=key.secret,
            )
            for settings in auth.issuers
            if settings.sso is not None
        ]

    @property
    def published(self) -> list[PublishedKeys]:
        """The key sets that change."""
        return [issuer.keys for issuer in self.by_claim.values() if isinstance(issuer.keys, PublishedKeys)]

    @contextlib.asynccontextmanager
    async def kept_current(self, changed: Callable[[], None]) -> AsyncIterator[None]:
        """Fetch keys while the context lasts; `changed` is called when a key is withdrawn."""
        for keys in self.published:
            keys.changed = changed
        tasks = [asyncio.create_task(keys.run()) for keys in self.published]
        try:
            await self.first_fetch()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.fetcher.close()

    async def first_fetch(self) -> None:
        """Wait until each set was tried once, for a few seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_FETCH_SECONDS):
                await asyncio.gather(*(keys.tried.wait() for keys in self.published))

    async def fetch_for(self, claim: object) -> bool:
        """Fetch the keys of the issuer of that `iss` now, if it publishes any: for a command that explains a token."""
        issuer = self.by_claim.get(claim) if isinstance(claim, str) else None
        if issuer is None or not isinstance(issuer.keys, PublishedKeys):
            return False
        await issuer.keys.refresh()
        return True

    def _keys(self, settings: IssuerSettings, auth: AuthSettings) -> KeyFinder:
        if settings.pem_files:
            return KeySet(_pem_key(path, kid, settings.algorithm) for kid, path in settings.pem_files.items())
        if settings.secret_files:
            return KeySet(_secret_key(path, kid, settings.algorithm) for kid, path in settings.secret_files.items())
        local = settings.jwks_file is not None
        return PublishedKeys(
            settings.name,
            JwksFile(settings).fetch if local else JwksDocument(self.fetcher, settings).fetch,
            max_age=FILE_SECONDS if local else auth.jwks_max_age_seconds,
            cooldown=FILE_SECONDS if local else auth.jwks_cooldown_seconds,
            stale=auth.jwks_stale_seconds,
        )


def _pem_key(path: Path, kid: str, algorithm: str | None) -> Key:
    from gateway.auth.jwks import read_pem  # noqa: PLC0415 - with cryptography, which only public keys need

    try:
        return read_pem(path.read_bytes(), kid, algorithm)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot read the key: {error.strerror}") from None
    except ValueError as error:
        raise KeyFileError(f"{path}: {error}") from None


def _secret_key(path: Path, kid: str, algorithm: str | None) -> Key:
    algorithm = algorithm or "HS256"
    if not algorithm.startswith("HS"):
        raise KeyFileError(f"{path}: a secret is for HS256, HS384 or HS512, not {algorithm}")
    return Key.from_secret(read_secret_file(path, int(algorithm[2:]) // 8), algorithm, kid)
