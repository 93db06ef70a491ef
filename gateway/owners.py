"""Whose a stored response is (Responses API): known to the worker that made it, and through Redis to the others."""

from collections import OrderedDict
from contextlib import suppress

from gateway.redis import LastingLink, RedisAway

MOST = 10_000  # remembered here; the newest
SHARED_SECONDS = 86_400  # remembered in Redis


class Owners:
    """Remembers for whom responses were made."""

    def __init__(self, redis: LastingLink | None) -> None:
        self._redis = redis
        self._known: OrderedDict[str, str] = OrderedDict()

    async def note(self, response_id: str, subject: str) -> None:
        """It was made for this subject."""
        self._known[response_id] = subject
        while len(self._known) > MOST:
            self._known.popitem(last=False)
        if self._redis is not None:
            with suppress(RedisAway):  # this worker knows
                await self._redis.call("SET", self._key(response_id), subject, "EX", SHARED_SECONDS)

    async def of(self, response_id: str) -> str | None:
        """For whom it was made; None where nobody knows."""
        known = self._known.get(response_id)
        if known is not None or self._redis is None:
            return known
        try:
            found = await self._redis.call("GET", self._key(response_id))
        except RedisAway:
            return None
        return None if found is None else found.decode()

    def _key(self, response_id: str) -> str:
        assert self._redis is not None  # noqa: S101 - both callers have looked
        return f"{self._redis.prefix}:response:{response_id}"
