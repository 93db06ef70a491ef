"""What the simulator can be told beyond vLLM's own flags: how fast it is, and how it fails.

Three ways in, the later wins: `--sim-NAME VALUE`, the environment variable VLLM_SIM_KNOBS (a JSON object), and
`POST /sim/knobs` while it runs (with `--sim-control`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

Fault = Literal[
    "none",
    "die_before_first_byte",  # the process ends as if SIGKILLed when the request arrives
    "die_mid_stream",  # … after `fault_after` tokens
    "engine_death",  # EngineCore dies after `fault_after` tokens: error frames, /health 503, then exit 0
    "error_frame",  # this request alone gets EngineCore's error after `fault_after` tokens
    "hang",  # after `fault_after` tokens all streams stall; /health stays 200
    "close_mid_chunk",  # the connection closes inside a chunk after `fault_after` tokens
    "reset",  # the connection is reset after `fault_after` tokens
    "garbage_http",  # the answer is not HTTP
    "garbage_json",  # the answer, or the frame after `fault_after` tokens, is not JSON
]
StartFault = Literal["none", "oom", "exit"]
StartHold = Literal["none", "importing", "loading", "compiling", "capturing"]
StartSignal = Literal["die", "hang", "ignore"]


@dataclass(slots=True)
class Knobs:
    """The current settings. Times in seconds."""

    ttft: float = 0.05  # from the start of a request's prefill to its first token
    tps: float = 60.0  # tokens a second and stream; 0 is as fast as it goes
    startup: float = 0.0  # how long start-up takes, spread over vLLM's phases
    reasoning: bool = True  # answer as gpt-oss does, with reasoning before the answer
    hidden_tokens: int = 0  # control tokens before each answer, counted but without text (Harmony has some)
    store_responses: bool = True  # keep finished /v1/responses for GET (vLLM: VLLM_ENABLE_RESPONSES_API_STORE)
    fault: Fault = "none"
    fault_after: int = 3  # tokens of the request before the fault strikes
    fault_times: int = -1  # how many requests get the fault before all is well again; -1 is all of them
    health_503: bool = False
    ignore_sigterm: bool = False
    exit_code: int = -1  # of the die faults; -1 is death by SIGKILL
    start_fault: StartFault = "none"  # at start-up, before it is ready: out of memory, or exit with `exit_code`
    start_hold: StartHold = "none"  # start-up comes as far as this phase and stays there
    start_signal: StartSignal = "die"  # what SIGTERM does during start-up: all three were seen in vLLM
    death_linger: float = 0.5  # how long /health answers 503 after an engine death, before exit 0
    worker_death_delay: float = 0.0  # how long a worker's death goes unnoticed (9 s were seen at TP=2)

    def update(self, values: dict[str, Any]) -> None:
        """Take over `values`; ValueError names the first one that is unknown or of the wrong type."""
        taken = {}
        for given, value in values.items():
            name = _SHORT.get(given, given)
            if name not in KNOB_NAMES:
                raise ValueError(f"no such knob: {name} (there are {', '.join(KNOB_NAMES)})")
            taken[name] = _coerce(name, value, getattr(self, name))
        for name, value in taken.items():
            setattr(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        """All settings by name."""
        return {name: getattr(self, name) for name in KNOB_NAMES}

    def take_fault(self) -> Fault:
        """The fault that the next request gets; counts it."""
        if self.fault == "none" or self.fault_times == 0:
            return "none"
        if self.fault_times > 0:
            self.fault_times -= 1
        return self.fault


ALIASES = {"tps": ("tokens_per_second",), "ttft": ("time_to_first_token",)}
"""Longer names that mean the same."""
_SHORT = {long: short for short, names in ALIASES.items() for long in names}
KNOB_NAMES = tuple(field.name for field in fields(Knobs))
_CHOICES: dict[str, tuple[str, ...]] = {
    "fault": get_args(Fault),
    "start_fault": get_args(StartFault),
    "start_hold": get_args(StartHold),
    "start_signal": get_args(StartSignal),
}


def _coerce(name: str, value: Any, current: Any) -> Any:
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} is one of {', '.join(_CHOICES[name])}, not {value!r}")
        return value
    if isinstance(current, bool):
        words = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}
        key = str(value).lower()
        if key not in words:
            raise ValueError(f"{name} is true or false, not {value!r}")
        return words[key]
    try:
        return type(current)(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is a number, not {value!r}") from None
