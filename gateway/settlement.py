"""The end of a request: complete its usage where the engine left it open, then settle, count and log it, once.

A stream of the Responses or Messages API that was cut short, or of an engine that tells no token ids, has no figure
from the engine for what it generated: the text that was sent is counted with the engine's own /tokenize, after the
request, and the record is marked `estimated`.
A request whose client left before the engine reported anything is charged its estimated prompt.
"""

import asyncio
import logging
from collections.abc import Callable

from gateway.context import Exchange, Outcome
from gateway.engine import Engine
from gateway.estimate import estimate_prompt_tokens
from gateway.upstream import UpstreamClosed

log = logging.getLogger("gatehouse.settlement")

_LEFT = {Outcome.CLIENT_GONE, Outcome.SHUTDOWN}


class Settlement:
    """`finish` is what the observer calls at the end of each request.

    `record` settles it, and has it counted and logged.
    """

    def __init__(self, engine: Engine, record: Callable[[Exchange], None]) -> None:
        self._engine = engine
        self._record = record
        self._counting: set[asyncio.Task[None]] = set()

    def finish(self, exchange: Exchange) -> None:
        """Take over an exchange that has ended. Returns at once and never raises."""
        _charge_prompt(exchange)
        if exchange.unmetered:
            task = asyncio.create_task(self._count_and_record(exchange))
            self._counting.add(task)
            task.add_done_callback(self._counting.discard)
        else:
            self._record_safely(exchange)

    async def _count_and_record(self, exchange: Exchange) -> None:
        pieces = exchange.unmetered
        text = "".join(pieces)
        exchange.usage.estimated = True
        try:
            exchange.usage.completion_tokens = await self._engine.count_tokens(text)
        except UpstreamClosed as error:
            log.info("%s: its tokens are estimated from its text: %s", exchange.request_id, error)
            # vLLM sends a piece for each step of the engine, which makes a token or more
            exchange.usage.completion_tokens = max(len(pieces), estimate_prompt_tokens(text.encode()))
        self._record_safely(exchange)

    def _record_safely(self, exchange: Exchange) -> None:
        try:
            self._record(exchange)
        except Exception:
            log.exception("%s: the record of this request is incomplete", exchange.request_id)

    async def close(self) -> None:
        """Wait for the counts under way; each has the engine's deadline."""
        await asyncio.gather(*self._counting)


def _charge_prompt(exchange: Exchange) -> None:
    usage = exchange.usage
    if usage.prompt_tokens or exchange.sent_at is None:
        return
    unread = exchange.outcome is Outcome.TIMEOUT and not exchange.stream  # generated, but not sent
    if exchange.outcome in _LEFT or exchange.unmetered or unread:
        usage.prompt_tokens = exchange.prompt_estimate
        usage.estimated = True
    else:  # it failed before anything was generated
        usage.estimated = False
