"""Put identity into an application: keys, users, sessions, routes, and the watch on what others revoke."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from aiohttp import web

from gateway.auth.account import AccountRoutes
from gateway.auth.authenticate import Authenticator
from gateway.auth.issuers import ForeignIssuers
from gateway.auth.keys import load_keys
from gateway.auth.passwords import Passwords
from gateway.auth.revocations import RevocationList
from gateway.auth.routes import AuthRoutes
from gateway.auth.sessions import Sessions
from gateway.auth.shared_throttle import SharedThrottle
from gateway.auth.sso_routes import SsoRoutes
from gateway.auth.throttle import Throttle
from gateway.auth.tokens import TokenVerifier
from gateway.auth.users import Users
from gateway.config import Config
from gateway.redis import LastingLink
from gateway.store import Store, StoreError, setup_store

AUTHENTICATOR: web.AppKey[Authenticator] = web.AppKey("authenticator", Authenticator)
WATCH_SECONDS = 0.5  # a revocation reaches every worker within a second
REFRESH_SECONDS = 5
PURGE_SECONDS = 3600
_log = logging.getLogger("gateway.auth")


def setup_auth(app: web.Application, config: Config, redis: LastingLink | None = None) -> Authenticator:
    """Register identity with `app`: `app[AUTHENTICATOR]`, `/auth/*`, and what must run while it serves.

    `redis`: where failed logins are counted together with other workers; it is started and closed by others.

    Raises KeyFileError at once; StoreError when the application starts and the database cannot be used.
    """
    store = setup_store(app, config)
    revocations = RevocationList(time.time)
    issuers = ForeignIssuers(config.auth)
    keys = load_keys(config)
    verifier = TokenVerifier(config.auth, config.plans, keys, revocations, issuers=issuers.by_claim)
    sessions = Sessions(store, config.auth, config.plans, revocations)
    authenticator = Authenticator(config.auth, verifier, sessions, revocations)
    passwords = Passwords()
    users = Users(store, config.auth, passwords, Throttle() if redis is None else SharedThrottle(redis))

    async def lifetime(_: web.Application) -> AsyncIterator[None]:
        watch = _Watch(store, revocations, sessions, config.auth.session_idle_hours * 3600)
        await watch.revoked()  # before the first request: a revoked token is never let through
        task = asyncio.create_task(watch.run())
        async with issuers.kept_current(changed=verifier.forget):
            yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        passwords.close()

    app[AUTHENTICATOR] = authenticator
    app.cleanup_ctx.append(lifetime)
    AuthRoutes(config, authenticator, users).add_to(app)
    AccountRoutes(config, authenticator, users, store, keys.signing).add_to(app)
    providers = issuers.sso_providers(config.auth, config.plans, keys.signing)
    SsoRoutes(config.auth, providers, authenticator, users).add_to(app)
    return authenticator


class _Watch:
    """Brings into memory what other workers and the command have written, and clears away what is over."""

    def __init__(self, store: Store, revocations: RevocationList, sessions: Sessions, idle_seconds: float) -> None:
        self._store = store
        self._revocations = revocations
        self._sessions = sessions
        self._idle_seconds = idle_seconds
        self._version: tuple[int, int] | None = None
        self._refreshed_at = self._purged_at = time.monotonic()
        self._away = False

    async def run(self) -> None:
        """Watch for ever; while SQL is away, try on."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self._step()
            except StoreError as error:
                if not self._away:
                    _log.warning("the database is away; known sessions and tokens go on: %s", error)
                self._away = True
            else:
                if self._away:
                    _log.warning("the database is back")
                self._away = False

    async def revoked(self) -> None:
        """Read the revocations if there are new ones."""
        version = await self._store.revocations.version()
        if version != self._version:
            self._revocations.add(await self._store.revocations.current(time.time()))
            self._version = version

    async def _step(self) -> None:
        await self.revoked()
        now = time.monotonic()
        if now - self._refreshed_at >= REFRESH_SECONDS:
            self._refreshed_at = now
            await self._sessions.refresh()
        if now - self._purged_at >= PURGE_SECONDS:
            self._purged_at = now
            self._revocations.forget()
            await self._store.revocations.purge(time.time())
            await self._store.sessions.purge(now=time.time(), idle_since=time.time() - self._idle_seconds)
