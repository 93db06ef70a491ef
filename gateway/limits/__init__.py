"""Limits: what the gateway composes. Reserve before a request is sent, settle when it has ended, however it ended."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from gateway.config import Config
from gateway.context import Exchange
from gateway.estimate import Corrections
from gateway.ids import new_id
from gateway.limits.fallback import FallbackLimiter, LimiterUnavailable
from gateway.limits.limiter import Kind, Limiter, Verdict
from gateway.limits.memory import MemoryLimiter
from gateway.limits.patience import Durations
from gateway.limits.plans import Plans
from gateway.limits.redis import RedisLimiter
from gateway.redis import Link

__all__ = ["LimiterUnavailable", "Limits"]

_log = logging.getLogger(__name__)


class _Reservation(msgspec.Struct, frozen=True):
    """One request that holds a reservation. It keeps the exchange alive, so that `id(exchange)` stays its own."""

    exchange: Exchange
    reservation_id: str
    plan: str
    model: str
    prompt_estimate: int  # uncorrected
    reserved_at: float


class Limits:
    """Reserves and settles; one task renews the leases of all running requests, one delivers settlements.

    `reserve` and `settle` never raise for want of the other: a request that was refused, or never reserved, is settled
    without effect, and settling twice is settling once.
    """

    def __init__(
        self, config: Config, limiter: Limiter | None = None, *, on_mode: Callable[[str], None] = lambda _mode: None
    ) -> None:
        """`limiter` defaults to what the configuration says; `on_mode` hears what counts, and when that changes.

        Raises ValueError for a default plan that is not configured, or an address of Redis that is none.
        """
        limits = config.limits
        self.plans = Plans(config)
        self._shared = _shared(config, on_mode) if limiter is None else None
        self._limiter: Limiter = limiter or self._shared or _in_process(config)
        self._on_mode = on_mode
        self._heartbeat_seconds = limits.lease_seconds / 3
        self._max_prompt = config.engine.max_model_len
        self._corrections = Corrections()
        self._durations = {name: Durations() for name in config.plans}
        self._reservations: dict[int, _Reservation] = {}
        self._due: dict[str, int] = {}
        self._wake: asyncio.Future[None] | None = None  # what the task that delivers waits for while nothing is due
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the background tasks; call it once, on the loop that serves requests."""
        self._on_mode(self.mode)
        if self._shared is not None:
            await self._shared.start()
        self._tasks = [asyncio.create_task(self._heartbeats()), asyncio.create_task(self._settlements())]

    async def close(self) -> None:
        """Deliver every settlement that was asked for, then stop."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._tasks = []
        await self._deliver()
        if self._shared is not None:
            await self._shared.close()

    @property
    def mode(self) -> str:
        """What counts now: `memory`, `redis`, or what `redis.on_failure` puts in its place."""
        return "memory" if self._shared is None else self._shared.mode

    async def reserve(self, exchange: Exchange, model: str, prompt_tokens: int, max_tokens: int) -> Verdict:
        """Reserve for an authenticated request; `prompt_tokens` is `estimate_prompt_tokens`' figure.

        `exchange.prompt_estimate` is set to that figure, corrected by what the model's settled requests have taught and
        cut at the model's context, beyond which the engine refuses. For `n` choices, `max_tokens` is that of all of
        them together. The verdict's `running` feeds `plans.priority`. Raises LimiterUnavailable while Redis is away
        and `redis.on_failure` is to refuse.
        """
        principal = exchange.principal
        if principal is None:
            raise RuntimeError("limits: reserve() before the caller is authenticated")
        estimate = self._corrections.of(model).apply(prompt_tokens) if prompt_tokens else 0
        estimate = min(estimate, self._max_prompt)
        exchange.prompt_estimate = estimate
        reservation_id = new_id()  # not the request id, which a client may choose and repeat
        plan = self.plans.of(principal).name
        rules = self.plans.rules(principal, model)
        try:
            verdict = await self._limiter.acquire(reservation_id, rules, estimate + max_tokens)
        except BaseException:  # the client left while the limiter was asked: it may have said yes
            self._owe(reservation_id, 0)
            raise
        if verdict.refusal is not None:
            return self._patient(verdict, plan)
        self._reservations[id(exchange)] = _Reservation(
            exchange, reservation_id, plan, model, prompt_tokens, time.monotonic()
        )
        return verdict

    def settle(self, exchange: Exchange) -> None:
        """Settle to `exchange.usage`. Returns at once; nothing that befalls the caller's task can undo it."""
        reservation = self._reservations.pop(id(exchange), None)
        if reservation is None:
            return
        usage = exchange.usage
        self._owe(reservation.reservation_id, usage.total)
        if usage.prompt_tokens and reservation.prompt_estimate and not usage.estimated:
            self._corrections.of(reservation.model).learn(reservation.prompt_estimate, usage.prompt_tokens)
        self._durations[reservation.plan].learn(time.monotonic() - reservation.reserved_at)

    def reload(self, config: Config) -> None:
        """Take over plans and limits; counters and running requests stay. Raises ValueError, having changed nothing."""
        self.plans = Plans(config)
        for name in config.plans:
            self._durations.setdefault(name, Durations())

    @property
    def in_flight(self) -> int:
        """Requests that hold a reservation."""
        return len(self._reservations)

    def _owe(self, reservation_id: str, tokens: int) -> None:
        """Have a settlement delivered."""
        self._due[reservation_id] = tokens
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _patient(self, verdict: Verdict, plan: str) -> Verdict:
        """Where only running requests stand in the way: not their leases' expiry, but when one should have ended."""
        refusal = verdict.refusal
        likely = self._durations[plan].within()
        if refusal is None or refusal.kind is not Kind.CONCURRENT or refusal.retry_after is None or likely is None:
            return verdict
        wait = max(refusal.floor, min(refusal.retry_after, likely))
        return msgspec.structs.replace(verdict, refusal=msgspec.structs.replace(refusal, retry_after=wait))

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            try:
                await self._limiter.renew([held.reservation_id for held in self._reservations.values()])
            except Exception:  # noqa: BLE001 - whatever ails the limiter, the next beat is tried
                _log.exception("leases could not be renewed; trying again")

    async def _settlements(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._due:
                self._wake = loop.create_future()
                await self._wake
            try:
                await self._deliver()
            except Exception:  # noqa: BLE001 - whatever ails the limiter, nothing due is lost
                _log.exception("settlements could not be delivered; they are kept")
                await asyncio.sleep(self._heartbeat_seconds)

    async def _deliver(self) -> None:
        """Hand over what is due. What the limiter did not confirm stays due; settling twice is harmless."""
        if not self._due:
            return
        due = self._due.copy()
        await self._limiter.settle(due)
        for reservation_id in due:
            del self._due[reservation_id]


def _shared(config: Config, on_mode: Callable[[str], None]) -> FallbackLimiter | None:
    settings, limits = config.redis, config.limits
    if settings.url is None:
        return None
    url = settings.url.get_secret_value()

    def limiter(link: Link) -> RedisLimiter:
        return RedisLimiter(link, lease=limits.lease_seconds, time_zone=limits.time_zone, namespace=settings.namespace)

    return FallbackLimiter(
        limiter,
        lambda on_lost: Link.to(url, settings.timeout_seconds, on_lost),
        _in_process(config),
        on_failure=settings.on_failure,
        time_zone=limits.time_zone,
        on_mode=on_mode,
    )


def _in_process(config: Config) -> MemoryLimiter:
    return MemoryLimiter(lease=config.limits.lease_seconds, time_zone=config.limits.time_zone)
