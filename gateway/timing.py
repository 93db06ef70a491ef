"""Pure: the durations of one request, computed once from its clocks, for the log line and the metrics alike."""

import time
from typing import Self

import msgspec

from gateway.context import Exchange


class Timing(msgspec.Struct, frozen=True):
    """Seconds. What a request never reached is None.

    | field | from | to |
    |---|---|---|
    | duration | arrival | end |
    | overhead | arrival | sent on (end, if never sent), less the wait for an engine that was not ready |
    | ttft | arrival | first token: what the client waits for |
    | queue | sent to the engine | first token: the engine's waiting line and prefill |
    | inter_token | first token | end; the mean between two tokens of a stream that has at least two |
    """

    duration: float
    overhead: float
    ttft: float | None
    queue: float | None
    inter_token: float | None
    tokens_per_second: float | None

    @classmethod
    def of(cls, exchange: Exchange, ended: float | None = None) -> Self:
        """The timing of a request that ended at `ended` (time.monotonic(); default: when it did, else now).

        Tokens per second are completion tokens from the first token to the end where the answer was streamed; from
        sending to the end where it came in one piece.
        """
        end = ended or exchange.ended or time.monotonic()
        sent, first, tokens = exchange.sent_at, exchange.first_token_at, exchange.usage.completion_tokens
        inter_token = speed = None
        if exchange.stream and first is not None and tokens > 1 and end > first:
            inter_token = (end - first) / (tokens - 1)
            speed = 1 / inter_token
        elif sent is not None and tokens and end > sent:
            speed = tokens / (end - sent)
        return cls(
            duration=end - exchange.started,
            overhead=(end if sent is None else sent) - exchange.started - exchange.held_seconds,
            ttft=None if first is None else first - exchange.started,
            queue=None if first is None or sent is None else first - sent,
            inter_token=inter_token,
            tokens_per_second=speed,
        )
