"""A link that comes back by itself, for what workers share beside the limits. While it is away its users do without."""

import asyncio
import hashlib
import logging
from contextlib import suppress
from typing import Any

import hiredis

from gateway.config import RedisSettings
from gateway.redis.link import Link, RedisAway

_log = logging.getLogger("gatehouse.redis")

LAYOUT = 1  # of the keys
RETRY_SECONDS = 1.0


class Script:
    """A Lua script, which is one atomic step in Redis."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.hash = hashlib.sha1(source).hexdigest()  # noqa: S324 - EVALSHA's own


class LastingLink:
    """Asks Redis; everything raises RedisAway at once while it is away."""

    def __init__(self, settings: RedisSettings, url: str) -> None:
        self._link = Link.to(url, settings.timeout_seconds, self._lost)
        # what all keys begin with; the hash tag keeps them on one node of a cluster
        self.prefix = f"{{{settings.namespace}:shared:{LAYOUT}}}"
        self._dialling: asyncio.Task[None] | None = None
        self._closing = False

    @classmethod
    def of(cls, settings: RedisSettings) -> "LastingLink | None":
        """The link to the Redis of the settings; None where they name none."""
        return None if settings.url is None else cls(settings, settings.url.get_secret_value())

    async def start(self) -> None:
        """Connect; where that fails, try again and again."""
        try:
            await self._link.connect()
        except RedisAway as error:
            self._lost(str(error))

    async def close(self) -> None:
        """Close the connection."""
        self._closing = True
        if self._dialling is not None:
            self._dialling.cancel()
            with suppress(asyncio.CancelledError):
                await self._dialling
        await self._link.aclose()

    async def call(self, *command: bytes | str | int) -> Any:
        """Send a command and return its reply, which is no error."""
        reply = await self._link.call(*command)
        if isinstance(reply, hiredis.ReplyError):
            raise self._link.refused(reply)
        return reply

    async def run(self, script: Script, *arguments: bytes | str | int) -> Any:
        """Run a script with `prefix` as its only key."""
        reply = await self._link.call("EVALSHA", script.hash, 1, self.prefix, *arguments)
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            return await self.call("EVAL", script.source, 1, self.prefix, *arguments)
        if isinstance(reply, hiredis.ReplyError):
            raise self._link.refused(reply)
        return reply

    def _lost(self, reason: str) -> None:
        if self._closing or (self._dialling is not None and not self._dialling.done()):
            return
        _log.warning("redis: %s; until it is back each worker goes by what it knows itself", reason)
        self._dialling = asyncio.create_task(self._dial())

    async def _dial(self) -> None:
        while not self._link.open:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(RedisAway):
                await self._link.connect()
