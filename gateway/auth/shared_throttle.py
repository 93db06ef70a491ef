"""Back-off on login that all workers share, in Redis; while Redis is away each one counts for itself."""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import hiredis

from gateway.auth.throttle import ACCOUNT, ADDRESS, FORGET_SECONDS, KNOWN_SECONDS, PAIR, Throttle, network_of
from gateway.redis import Link, RedisAway

SCRIPT = Path(__file__).with_name("throttle.lua").read_bytes()
LAYOUT = 1  # of the keys
RETRY_SECONDS = 1.0
_POLICIES = [figure for policy in (PAIR, ADDRESS, ACCOUNT) for figure in (policy.free, round(policy.longest * 1000))]
_log = logging.getLogger("gateway.auth")


class SharedThrottle:
    """What Throttle is, for all workers at once."""

    def __init__(
        self,
        make_link: Callable[[Callable[[str], None]], Link],
        namespace: str,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`clock` in seconds; default: the server's own."""
        self._link = make_link(self._lost)
        self._prefix = f"{{{namespace}:login:{LAYOUT}}}"
        self._hash = hashlib.sha1(SCRIPT).hexdigest()  # noqa: S324 - EVALSHA's own
        self._clock = clock
        self._alone = Throttle()
        self._dialling: asyncio.Task[None] | None = None
        self._closing = False

    async def start(self) -> None:
        """Connect; where that fails, go on alone and try again."""
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

    async def attempt(self, account: str, address: str) -> float:
        """See Throttle.attempt."""
        try:
            return await self._call("attempt", account, address) / 1000
        except RedisAway:
            return await self._alone.attempt(account, address)

    async def succeeded(self, account: str, address: str) -> None:
        """See Throttle.succeeded."""
        try:
            await self._call("succeeded", account, address)
        except RedisAway:
            await self._alone.succeeded(account, address)

    async def _call(self, operation: str, account: str, address: str) -> int:
        now = "" if self._clock is None else round(self._clock() * 1000)
        arguments = (1, self._prefix, operation, network_of(address), account, now)
        tail = (*arguments, FORGET_SECONDS * 1000, KNOWN_SECONDS * 1000, *_POLICIES)
        reply = await self._link.call("EVALSHA", self._hash, *tail)
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            reply = await self._link.call("EVAL", SCRIPT, *tail)
        if isinstance(reply, hiredis.ReplyError):
            raise self._link.refused(reply)
        return int(reply)

    def _lost(self, reason: str) -> None:
        if self._closing or (self._dialling is not None and not self._dialling.done()):
            return
        _log.warning("redis: %s; until it is back each worker counts failed logins for itself", reason)
        self._dialling = asyncio.create_task(self._dial())

    async def _dial(self) -> None:
        while not self._link.open:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(RedisAway):
                await self._link.connect()
