"""The gateway with layers taken out, to see what each costs. No way to run it: nothing of this is in the product.

python -m bench.gateway.without record,metrics gateway --config …
"""

import sys
from typing import Any

from gatehouse.cli import main
from gateway.app import Gateway
from gateway.auth.authenticate import Authenticator
from gateway.auth.claims import Identity
from gateway.context import Principal, Via
from gateway.dialects.openai import OpenAIMeter
from gateway.logs import RequestLog
from gateway.metrics import Metrics

SOMEBODY = Principal("somebody", None, frozenset({"api"}), "service", (), None, Via.BEARER)


def without_record() -> None:
    RequestLog.write = lambda self, exchange, timing=None: None  # type: ignore[method-assign]


def without_metrics() -> None:
    Metrics.observe = lambda self, exchange, timing=None: None  # type: ignore[method-assign]


def without_tokens() -> None:
    async def authenticate(_self: Authenticator, _request: Any) -> Principal:
        return SOMEBODY

    Authenticator.authenticate = authenticate  # type: ignore[method-assign]


def without_usage() -> None:
    def pass_on(meter: OpenAIMeter, events: bytes) -> bytes:
        meter.started = True
        meter.finished = meter.finished or b"[DONE]" in events
        return events

    OpenAIMeter._events = pass_on  # type: ignore[method-assign]


LAYERS = {"record": without_record, "metrics": without_metrics, "tokens": without_tokens, "usage": without_usage}

if __name__ == "__main__":
    assert Gateway and Identity
    for layer in filter(None, sys.argv.pop(1).split(",")):
        if layer in LAYERS:
            LAYERS[layer]()
    main()
