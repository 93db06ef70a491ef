"""The gateway with layers taken out, to see what each costs. No way to run it: nothing of this is in the product.

python -m bench.gateway.without record,metrics gateway --config …
"""

import sys
from typing import Any

from gatehouse.cli import main
from gateway.auth.authenticate import Authenticator
from gateway.context import Principal, Via
from gateway.dialects.openai import OpenAIMeter
from gateway.logs import RequestLog
from gateway.metrics import Metrics

SOMEBODY = Principal("somebody", None, frozenset({"api"}), "service", (), None, Via.BEARER)


def nothing(*_: Any) -> None:
    """In place of a layer."""


def somebody(*_: Any) -> Principal:
    return SOMEBODY


def unread(meter: OpenAIMeter, events: bytes) -> bytes:
    meter.started = True
    meter.finished = meter.finished or b"[DONE]" in events
    return events


LAYERS = {
    "record": (RequestLog, "write", nothing),
    "metrics": (Metrics, "observe", nothing),
    "tokens": (Authenticator, "by_token", somebody),
    "usage": (OpenAIMeter, "_events", unread),
}

if __name__ == "__main__":
    for layer in sys.argv.pop(1).split(","):
        if layer in LAYERS:
            setattr(*LAYERS[layer])
    main()
