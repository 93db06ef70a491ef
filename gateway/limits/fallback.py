"""Limits while Redis is away, and the way back.

Redis fails whenever it does not answer in time or answers with an error (a full memory, a replica that may not write).
The first request that notices waits for `redis.timeout_seconds`; from then on nobody asks, until a probe was answered
like a real request. Meanwhile `redis.on_failure` decides: each worker counts for itself (`local`), nobody counts
(`open`), or requests are refused (`closed`).

What happens in the dark is not forgotten:
- settlements of what Redis had reserved are kept, and delivered when it is back. Redis takes each id once;
- requests that run when it is back are entered into its books, and from then on are its own;
- what others have used of a day's or month's budget is booked, as one sum for each account.

The mode is `redis` while Redis counts, else what `on_failure` says.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Literal

import msgspec

from gateway.ids import new_id
from gateway.limits.calendar import Calendar
from gateway.limits.limiter import Allowance, Limiter, Rule, Verdict
from gateway.limits.memory import MemoryLimiter, wall
from gateway.limits.redis import GIVEN_UP_SECONDS, MOST_AT_ONCE, RedisLimiter
from gateway.redis import Link, RedisAway

_log = logging.getLogger("gatehouse.limits")

FIRST_RETRY, LONGEST_RETRY = 0.1, 2.0  # seconds between probes; doubled each time, with jitter
MOST_HOPS = 4  # redirections followed at once
STEADY_SECONDS = 10.0  # so long after the return the patience begins anew

OnFailure = Literal["local", "open", "closed"]


class LimiterUnavailable(Exception):
    """Redis is away, and the policy is to refuse."""


class _Held(msgspec.Struct):
    """A reservation that was granted and not settled."""

    rules: Sequence[Rule]
    tokens: int
    dark: bool  # granted while Redis was away: it does not know of it


class _Debt(msgspec.Struct):
    """What an account has used in the dark, of budgets that last until then."""

    rule: Rule
    day_end: int
    month_end: int
    tokens: int = 0
    entry_id: str = msgspec.field(default_factory=new_id)


class FallbackLimiter:
    """Implements `Limiter`. `on_mode` hears of each change: `redis`, `local`, `open` or `closed`."""

    def __init__(
        self,
        make_redis: Callable[[Link], RedisLimiter],
        make_link: Callable[[Callable[[str], None]], Link],
        local: MemoryLimiter,
        *,
        on_failure: OnFailure,
        time_zone: str,
        on_mode: Callable[[str], None],
    ) -> None:
        self._link = make_link(self._lost)
        self._redis = make_redis(self._link)
        self._local: Limiter = local
        self._on_failure = on_failure
        self._on_mode = on_mode
        self._calendar = Calendar(time_zone)
        self._bright = False
        self._held: dict[str, _Held] = {}
        self._kept: dict[str, int] = {}  # settlements that Redis has not confirmed
        self._debts: dict[tuple[str, int, int], _Debt] = {}
        self._sealed: list[_Debt] = []  # on their way: nothing is added to them
        self._recovery: asyncio.Task[None] | None = None
        self._retry = FIRST_RETRY
        self._back_since = 0.0

    @property
    def mode(self) -> str:
        """What counts now."""
        return "redis" if self._bright else self._on_failure

    async def start(self) -> None:
        """Connect; where that fails, go on without and try again."""
        try:
            await self._return()
        except RedisAway as error:
            _log.error("redis: %s; limits are %s until it is there", error, self._on_failure)
            self._on_mode(self.mode)
            self._recover()

    async def close(self) -> None:
        """Close the connection. What could not be delivered is lost, and said to be."""
        if self._recovery is not None:
            self._recovery.cancel()
            with suppress(asyncio.CancelledError):
                await self._recovery
        self._bright = False
        await self._link.aclose()
        if owed := len(self._kept) + len(self._debts) + len(self._sealed):
            _log.error("redis: %d settlements are lost with this process", owed)

    async def acquire(self, reservation_id: str, rules: Sequence[Rule], tokens: int) -> Verdict:
        """See Limiter.acquire. Raises LimiterUnavailable where the policy is to refuse."""
        if self._bright:
            try:
                verdict = await self._redis.acquire(reservation_id, rules, tokens)
            except RedisAway as error:
                self._fail(error)
                self._kept[reservation_id] = 0  # it may have been granted: taken back, whatever follows here
            except BaseException:  # the caller has left; they settle what may have been granted
                self._held[reservation_id] = _Held(rules, tokens, dark=False)
                raise
            else:
                if verdict.refusal is None:
                    self._held[reservation_id] = _Held(rules, tokens, dark=False)
                return verdict
        verdict = await self._in_the_dark(reservation_id, rules, tokens)
        if verdict.allowed:
            self._held[reservation_id] = _Held(rules, tokens, dark=True)
        return verdict

    async def _in_the_dark(self, reservation_id: str, rules: Sequence[Rule], tokens: int) -> Verdict:
        match self._on_failure:
            case "closed":
                raise LimiterUnavailable
            case "open":
                own = rules[0].key
                running = sum(held.rules[0].key == own for held in self._held.values())
                return Verdict(None, running, None, None, None, None)
            case "local":
                return await self._local.acquire(reservation_id, rules, tokens)

    async def renew(self, reservation_ids: Iterable[str]) -> None:
        """See Limiter.renew. What Redis has forgotten (it was restarted empty) is entered again."""
        ids = [each for each in reservation_ids if each in self._held]
        await self._local.renew(ids)
        if not self._bright:
            return
        try:
            for each in await self._redis.unknown_of(ids):
                if held := self._held.get(each):
                    await self._redis.enter(each, held.rules, held.tokens)
        except RedisAway as error:
            self._fail(error)

    async def settle(self, used: Mapping[str, int]) -> None:
        """See Limiter.settle. Never fails: what Redis does not take now is kept for later."""
        await self._local.settle(used)
        for reservation_id, tokens in used.items():
            held = self._held.pop(reservation_id, None)
            if held is None:
                continue
            if held.dark:
                self._owe(held.rules, tokens)
            else:
                self._kept[reservation_id] = tokens
        if self._bright and self._kept:
            try:
                await self._deliver_settlements()
            except RedisAway as error:
                self._fail(error)

    def _owe(self, rules: Sequence[Rule], tokens: int) -> None:
        now = wall()
        day, month = self._calendar.day_end(now), self._calendar.month_end(now)
        for rule in rules:
            budgets = Allowance(
                tokens_per_day=rule.allowance.tokens_per_day, tokens_per_month=rule.allowance.tokens_per_month
            )
            if not budgets.unlimited and tokens:
                debt = self._debts.setdefault((rule.key, day, month), _Debt(Rule(rule.key, budgets), day, month))
                debt.tokens += tokens

    def _lost(self, reason: str) -> None:
        if self._bright:
            self._fail(RedisAway(reason))

    def _fail(self, error: RedisAway) -> None:
        """Redis is away from now on."""
        if not self._bright:
            return
        self._bright = False
        _log.error("redis: %s; limits are %s until it is back", error, self._on_failure)
        self._on_mode(self.mode)
        self._link.close(str(error))
        if asyncio.get_running_loop().time() - self._back_since > STEADY_SECONDS:
            self._retry = FIRST_RETRY
        self._recover()

    def _recover(self) -> None:
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.create_task(self._come_back(), name="redis-recovery")

    async def _come_back(self) -> None:
        while not self._bright:
            # jitter spreads the gateways; what was under way must have been answered or be refused
            await asyncio.sleep(max(GIVEN_UP_SECONDS, self._retry * random.uniform(0.5, 1)))  # noqa: S311
            self._retry = min(LONGEST_RETRY, 2 * self._retry)
            try:
                await self._return()
            except RedisAway as error:
                _log.debug("redis: still away: %s", error)
                self._link.close()
            except Exception:  # noqa: BLE001 - whatever ails it, the next try is made
                _log.exception("redis: the way back failed; trying again")
                self._link.close()

    async def _return(self) -> None:
        """Connect, make sure that Redis counts again, hand over what happened in the dark, and let it count."""
        await self._reach()
        kept, debts = len(self._kept), len(self._debts)
        missing = list(self._held)  # all of them: a Redis that came back empty knows of none
        while missing or self._kept or self._debts or self._sealed:
            for some in (missing[at : at + MOST_AT_ONCE] for at in range(0, len(missing), MOST_AT_ONCE)):
                done = await asyncio.gather(*map(self._enter, some), return_exceptions=True)
                for error in filter(None, done):
                    raise error
            await self._deliver_settlements()
            await self._book_debts()
            missing = [reservation_id for reservation_id, held in self._held.items() if held.dark]
        self._bright = True  # nothing has been awaited since the last look: nobody was admitted in between
        self._back_since = asyncio.get_running_loop().time()
        if self._recovery is None:  # it has never been away
            _log.info("redis: it counts")
        else:
            _log.warning("redis: it counts; %d settlements and %d sums were delivered", kept, debts)
        self._on_mode(self.mode)

    async def _reach(self) -> None:
        """Connect to the one that keeps our books, and probe it."""
        for hop in range(MOST_HOPS):
            await self._link.connect()
            try:
                await self._redis.probe()
            except RedisAway as error:
                if not error.redirected or hop == MOST_HOPS - 1:
                    raise
            else:
                return

    async def _enter(self, reservation_id: str) -> None:
        held = self._held.get(reservation_id)
        if held is None:
            return
        try:
            await self._redis.enter(reservation_id, held.rules, held.tokens)
        except RedisAway:
            if held.dark:  # it may have been entered: taken back at the next chance, unless it is entered again first
                self._kept[reservation_id] = 0
            raise
        if reservation_id in self._held:
            held.dark = False
            self._kept.pop(reservation_id, None)
        elif held.dark:  # it has ended meanwhile, and is among the debts
            self._kept[reservation_id] = 0

    async def _deliver_settlements(self) -> None:
        while self._kept:
            some = dict(islice(self._kept.items(), MOST_AT_ONCE))
            await self._redis.settle(some)
            for reservation_id, tokens in some.items():
                if self._kept.get(reservation_id) == tokens:
                    del self._kept[reservation_id]

    async def _book_debts(self) -> None:
        self._sealed += self._debts.values()
        self._debts.clear()
        while self._sealed:
            debt, now = self._sealed[-1], wall()
            allowance = Allowance(
                tokens_per_day=debt.rule.allowance.tokens_per_day if debt.day_end > now else None,
                tokens_per_month=debt.rule.allowance.tokens_per_month if debt.month_end > now else None,
            )
            if not allowance.unlimited:
                await self._redis.book(debt.entry_id, (Rule(debt.rule.key, allowance),), debt.tokens)
            self._sealed.pop()
