"""Back-off on login that all workers share, in Redis; while Redis is away each one counts for itself."""

from collections.abc import Callable
from pathlib import Path

from gateway.auth.throttle import ACCOUNT, ADDRESS, FORGET_SECONDS, KNOWN_SECONDS, PAIR, Throttle
from gateway.peers import network_of
from gateway.redis import LastingLink, RedisAway, Script

SCRIPT = Script(Path(__file__).with_name("throttle.lua").read_bytes())
_POLICIES = [figure for policy in (PAIR, ADDRESS, ACCOUNT) for figure in (policy.free, round(policy.longest * 1000))]


class SharedThrottle:
    """What Throttle is, for all workers at once."""

    def __init__(self, redis: LastingLink, clock: Callable[[], float] | None = None) -> None:
        """`clock` in seconds; default: the server's own."""
        self._redis = redis
        self._clock = clock
        self._alone = Throttle()

    async def attempt(self, account: str, address: str) -> float:
        """See BackOff.attempt."""
        try:
            return await self._run("attempt", account, address) / 1000
        except RedisAway:
            return await self._alone.attempt(account, address)

    async def succeeded(self, account: str, address: str) -> None:
        """See BackOff.succeeded."""
        try:
            await self._run("succeeded", account, address)
        except RedisAway:
            await self._alone.succeeded(account, address)

    async def _run(self, operation: str, account: str, address: str) -> int:
        now = "" if self._clock is None else round(self._clock() * 1000)
        spans = (FORGET_SECONDS * 1000, KNOWN_SECONDS * 1000, *_POLICIES)
        return int(await self._redis.run(SCRIPT, operation, network_of(address), account, now, *spans))
