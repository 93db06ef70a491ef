"""`vllm serve`'s command line: what the simulator understands, and every other flag of vLLM's, accepted and ignored.

An argument that vLLM would not know is refused as vLLM refuses it, with exit status 2.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.simulator.knobs import ALIASES, KNOB_NAMES, Knobs

DEFAULT_MAX_MODEL_LEN = 8192
DEFAULT_MAX_NUM_SEQS = 256
_DEFAULT_PORT = 8000
_FLAGS = Path(__file__).with_name("vllm_flags.txt")
_ARITY: dict[str, dict[str, Any]] = {
    "switch": {"action": "store_true"},
    "value": {"nargs": "?", "const": ""},
    "list": {"nargs": "*"},
}


@dataclass(frozen=True, slots=True)
class Options:
    """The flags that change what the simulator does."""

    model: str
    host: str
    port: int
    served: tuple[str, ...]
    max_model_len: int
    max_num_seqs: int
    priority: bool
    tensor_parallel_size: int
    shutdown_timeout: float
    prompt_tokens_details: bool
    request_id_headers: bool
    force_include_usage: bool
    auto_tool_choice: bool
    api_keys: tuple[str, ...]
    root_path: str
    dev_mode: bool
    keep_alive: float
    tree: bool
    control: bool


def parse(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> tuple[Options, Knobs]:
    """Flags and knobs from `argv` (what follows `vllm serve`). Exits with status 2 like vLLM on what it cannot read."""
    parser = _parser()
    given = parser.parse_args([_normalised(word) for word in argv if not _is_nested(word)])
    knobs = Knobs()
    try:
        knobs.update(_flag_knobs(given))
        knobs.update(json.loads(environ.get("VLLM_SIM_KNOBS") or "{}"))
    except ValueError as error:
        parser.error(str(error))
    model = given.model_tag or given.model or "Qwen/Qwen3-0.6B"
    env_key = environ.get("VLLM_API_KEY")
    options = Options(
        model=model,
        host=given.host or "127.0.0.1",
        port=given.port,
        served=tuple(given.served_model_name or [model]),
        max_model_len=given.max_model_len,
        max_num_seqs=given.max_num_seqs,
        priority=given.scheduling_policy == "priority",
        tensor_parallel_size=given.tensor_parallel_size,
        shutdown_timeout=given.shutdown_timeout,
        prompt_tokens_details=given.enable_prompt_tokens_details,
        request_id_headers=given.enable_request_id_headers,
        force_include_usage=given.enable_force_include_usage,
        auto_tool_choice=given.enable_auto_tool_choice,
        api_keys=tuple(given.api_key or ([env_key] if env_key else [])),
        root_path=given.root_path.rstrip("/"),
        dev_mode=environ.get("VLLM_SERVER_DEV_MODE") == "1",
        keep_alive=float(environ.get("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "5")),
        tree=given.sim_tree,
        control=given.sim_control,
    )
    return options, knobs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vllm", usage="vllm serve [model_tag] [options]", allow_abbrev=False)
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--model")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int, default=_DEFAULT_PORT)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--max-model-len", type=_human_int, default=DEFAULT_MAX_MODEL_LEN)
    parser.add_argument("--max-num-seqs", type=_human_int, default=DEFAULT_MAX_NUM_SEQS)
    parser.add_argument("--scheduling-policy", choices=("fcfs", "priority"), default="fcfs")
    parser.add_argument("--tensor-parallel-size", "-tp", type=int, default=1)
    parser.add_argument("--shutdown-timeout", type=float, default=0.0)
    parser.add_argument("--api-key", nargs="+")
    parser.add_argument("--root-path", default="")
    for switch in ("prompt-tokens-details", "request-id-headers", "force-include-usage", "auto-tool-choice"):
        parser.add_argument(f"--enable-{switch}", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--sim-tree", action="store_true", help="also spawn EngineCore and worker processes")
    parser.add_argument("--sim-control", action="store_true", help="serve /sim/knobs, /sim/requests, /sim/reset")
    for name in KNOB_NAMES:
        flags = [f"--sim-{each.replace('_', '-')}" for each in (name, *ALIASES.get(name, ()))]
        parser.add_argument(*flags, dest=f"knob_{name}", metavar="VALUE", nargs="?", const="true")
    known = {option for action in parser._actions for option in action.option_strings}  # noqa: SLF001
    for line in _FLAGS.read_text().splitlines():
        flag, arity = line.split()
        if flag not in known:
            parser.add_argument(flag, dest="ignored", help=argparse.SUPPRESS, **_ARITY[arity])
    return parser


def _flag_knobs(given: argparse.Namespace) -> dict[str, Any]:
    values = {name: getattr(given, f"knob_{name}") for name in KNOB_NAMES}
    return {name: value for name, value in values.items() if value is not None}


def _normalised(word: str) -> str:
    """Dashes for the underscores that vLLM accepts in a flag's name."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value


def _is_nested(word: str) -> bool:
    """Whether it is a setting inside a setting (`-cc.mode=none`, `-O3`), none of which matters here."""
    return word.startswith("-") and ("." in word.partition("=")[0] or word[:2] == "-O")


def _human_int(text: str) -> int:
    """`8k` is 8000 and `8K` is 8192, as in vLLM."""
    scale = {"k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}
    return int(float(text[:-1]) * scale[text[-1]]) if text[-1:] in scale else int(text)
