"""Routes beyond vLLM's public ones: its development mode (VLLM_SERVER_DEV_MODE=1), and the test double's own /sim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from urllib.parse import parse_qs

from launcher.simulator.errors import ApiError
from launcher.simulator.knobs import Knobs
from launcher.simulator.service import Call

Routes = dict[str, dict[str, Callable[[Call], None]]]


def dev_routes() -> Routes:
    """What vLLM serves in development mode, as far as operating an engine needs it."""
    return {
        "/reset_prefix_cache": {"POST": _reset_prefix_cache},
        "/sleep": {"POST": _sleep},
        "/wake_up": {"POST": _wake_up},
        "/is_sleeping": {"GET": lambda call: call.json(200, {"is_sleeping": call.service.metrics.sleeping})},
        "/pause": {"POST": _pause},
        "/resume": {"POST": _resume},
        "/is_paused": {"GET": lambda call: call.json(200, {"is_paused": call.service.engine.paused})},
    }


def sim_routes() -> Routes:
    """The test double's: turn its knobs, read what reached it."""
    return {
        "/sim/knobs": {"GET": lambda call: call.json(200, call.service.knobs.as_dict()), "POST": _set_knobs},
        "/sim/requests": {"GET": _requests},
        "/sim/reset": {"POST": _reset},
    }


def _reset_prefix_cache(call: Call) -> None:
    call.service.engine.cache.clear()
    call.json(200, {"success": True})


def _sleep(call: Call) -> None:
    query = parse_qs(call.request.target.partition("?")[2])
    call.service.metrics.sleeping = True
    call.service.engine.paused = True
    call.json(200, {"status": "sleeping", "level": int(query.get("level", ["1"])[0])})


def _wake_up(call: Call) -> None:
    call.service.metrics.sleeping = False
    _go_on(call)
    call.json(200, {"status": "awake", "tags": None})


def _pause(call: Call) -> None:
    call.service.engine.paused = True
    call.json(200, {"status": "paused"})


def _resume(call: Call) -> None:
    _go_on(call)
    call.json(200, {"status": "resumed"})


def _go_on(call: Call) -> None:
    call.service.engine.paused = False
    call.service.engine.wake()


def _set_knobs(call: Call) -> None:
    knobs = call.service.knobs
    try:
        knobs.update(call.body)
    except ValueError as error:
        raise ApiError(str(error)) from None
    if knobs.fault == "none":
        call.service.engine.stalled = False
        call.service.engine.wake()
    call.json(200, knobs.as_dict())


def _requests(call: Call) -> None:
    call.json(200, [asdict(record) for record in call.service.records])


def _reset(call: Call) -> None:
    """All knobs as after the start without any, no record, no stall. Counters stay: they only ever grow."""
    call.service.knobs.update(Knobs().as_dict())
    call.service.records.clear()
    call.service.engine.stalled = False
    call.service.engine.wake()
    call.json(200, {"reset": True})
