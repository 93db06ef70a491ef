"""Keys that an issuer publishes and changes as it likes: fetched in the background, never by a request.

    fetched ──max-age──▶ fetch ──ok──▶ the new keys count, those that are gone are gone
       ▲   unknown kid ────┘  └─fails─▶ the last keys count on (stale-if-error), at most jwks_stale_seconds
       └──cooldown: two fetches are never closer than this, whatever tokens name and however often it fails

So a token under a key that is not known yet is refused at once and makes the next fetch come sooner; an issuer that
publishes a key before it signs with it (as all that rotate do) never sees that.
Sources: RFC 7517; RFC 5861, section 4; OpenID Connect Discovery 1.0, section 4.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from gateway.auth.keys import Key, find_key

if TYPE_CHECKING:
    from gateway.auth.jwks import JwkSet

MIN_MAX_AGE = 10.0  # seconds; an issuer's Cache-Control may ask for less, and gets this
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=(\d{1,9})(?:$|[\s,;])")
_log = logging.getLogger("gateway.auth")


class FetchError(Exception):
    """Keys could not be had. The text says from where and why, and holds nothing that came back."""


Fetch = Callable[[], Awaitable["tuple[JwkSet, str]"]]
"""Gets the set and its Cache-Control. Raises FetchError."""


class PublishedKeys:
    """The keys of one issuer as they were last published. `changed` is called when a key is gone or another."""

    def __init__(
        self,
        name: str,
        fetch: Fetch,
        *,
        max_age: float,
        cooldown: float,
        stale: float,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.changed = changed
        self.tried = asyncio.Event()  # fetched once, or failed to
        self._fetch = fetch
        self._max_age = max_age
        self._cooldown = cooldown
        self._stale = stale
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self._fresh_until = self._tried_at = self._fetched_at = float("-inf")
        self._wanted = asyncio.Event()
        self._failing = False

    def find(self, kid: str | None) -> Key | None:
        """The key that a token names, if it is known now; else the next fetch comes as soon as the cooldown lets it."""
        key = find_key(self._keys, kid)
        if key is None:
            self._wanted.set()
        return key

    async def run(self) -> None:
        """Keep the keys current, for ever."""
        while True:
            wait = self.wait()
            if wait > 0:
                try:
                    async with asyncio.timeout(wait):
                        await self._wanted.wait()
                except TimeoutError:
                    pass
                else:
                    await asyncio.sleep(self.wait())
            await self.refresh()

    def wait(self) -> float:
        """Seconds until the next fetch is due: a wanted one after the cooldown, else at the end of max-age."""
        now = self._clock()
        soonest = self._tried_at + self._cooldown
        return max(0.0, (soonest if self._wanted.is_set() else max(soonest, self._fresh_until)) - now)

    async def refresh(self) -> None:
        """Fetch now. A failure leaves the keys as they were, until they are too old to be trusted."""
        self._wanted.clear()
        self._tried_at = self._clock()
        try:
            found, cache_control = await self._fetch()
        except FetchError as error:
            self._failed(str(error))
            return
        finally:
            self.tried.set()
        self._fetched_at = self._clock()
        self._fresh_until = self._fetched_at + self._lifetime(cache_control)
        if self._failing:
            _log.warning("keys of the issuer %s: fetched again", self.name)
        self._failing = False
        for reason in found.left_out:
            _log.info("keys of the issuer %s: %s", self.name, reason)
        self._replace({key.kid: key for key in found.keys})

    def _failed(self, reason: str) -> None:
        if not self._failing:
            _log.warning("keys of the issuer %s cannot be fetched; the last ones count: %s", self.name, reason)
        self._failing = True
        if self._keys and self._clock() - self._fetched_at >= self._stale:
            _log.error("keys of the issuer %s are too old; its tokens are refused from now on", self.name)
            self._replace({})

    def _replace(self, keys: dict[str, Key]) -> None:
        before, self._keys = self._keys, keys
        if any(kid not in keys or not key.is_same(keys[kid]) for kid, key in before.items()):
            self.changed()  # what they signed must not live on in a cache

    def _lifetime(self, cache_control: str) -> float:
        asked = _MAX_AGE.search(cache_control.lower())
        return min(self._max_age, max(MIN_MAX_AGE, float(asked[1]))) if asked else self._max_age
