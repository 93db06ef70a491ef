"""Start-up as `vllm serve` prints it, phase by phase, taking as long as the knobs say, and failing as they say.

The lines are those of vLLM 0.32 and 0.25 on two GPUs, so that whoever reads progress out of vLLM's log can read it
out of this one: importing, loading weights n/m, compiling, capturing graphs n/m.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from launcher.simulator.args import Options
from launcher.simulator.knobs import Knobs, StartHold

_SHARDS = 3
_GRAPHS = 83
_SHARES = {"import": 0.3, "load": 0.2, "compile": 0.2, "capture": 0.3}
"""How start-up time divides, roughly as on two GPUs (45 s imports, 25 s compile, 81 s capture of 257 s)."""
_HANG_SECONDS = 3600.0
_LOGO = (
    "       █     █     █▄   ▄█",
    " ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.32.0 (simulated)",
    "  █▄█▀ █     █     █     █  model   {model}",
    "   ▀▀  ▀▀▀▀▀ ▀▀▀▀▀ ▀     ▀",
)
_OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.12 GiB. GPU 0 has a total capacity of 139.81 GiB"
    " of which 512.00 MiB is free. Process 1 has 131.00 GiB memory in use."
)
_CORE_FAILED = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"
)


class StartupError(Exception):
    """Start-up failed; the exit status and what to print on stderr."""

    def __init__(self, status: int, *lines: str) -> None:
        super().__init__(lines[-1] if lines else "")
        self.status, self.lines = status, lines


class Log:
    """Prints lines as vLLM's processes do: who, when, where."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def line(self, text: str, *, who: str = "APIServer", where: str = "api_utils.py:347", level: str = "INFO") -> None:
        """One line of vLLM's logger."""
        now = time.strftime("%m-%d %H:%M:%S")
        self.raw(f"({who} pid={self._pid}) {level} {now} [{where}] {text}")

    def raw(self, text: str) -> None:
        """One line as it is (tqdm bars, uvicorn)."""
        print(text, flush=True)  # noqa: T201


def check_model(model: str) -> None:
    """A path has to be there; anything else counts as a hub name. Raises StartupError as vLLM fails."""
    if model.startswith((".", "/", "~")) and not Path(model).expanduser().is_dir():
        raise StartupError(
            1,
            "Traceback (most recent call last):",
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or"
            f" 'namespace/repo_name': '{model}'. Use `repo_type` argument if needed.",
        )


def announce(options: Options, log: Log) -> None:
    """The logo and the arguments, printed before anything can fail."""
    for line in _LOGO:
        log.line(line.format(model=options.model))
    arguments = {"model_tag": options.model, "host": options.host, "port": options.port}
    log.line(f"non-default args: {arguments}", where="api_utils.py:286")


def phases(options: Options, knobs: Knobs, log: Log) -> None:
    """Everything up to the point where the server could listen; raises StartupError where the knobs want it to fail."""
    waits = {name: share * knobs.startup for name, share in _SHARES.items()}
    _hold(knobs, "importing")
    time.sleep(waits["import"])
    log.line("Resolved architecture: GptOssForCausalLM", where="model.py:733")
    log.line(f"Using max model len {options.max_model_len}", where="model.py:2152")
    core = f"Initializing a V1 LLM engine (v0.32.0) with config: model='{options.model}'"
    log.line(core, who="EngineCore", where="core.py:133")
    worker = "Worker_TP0" if options.tensor_parallel_size > 1 else "Worker"
    log.line(f"Starting to load model {options.model}...", who=worker, where="gpu_model_runner.py:5209")
    _hold(knobs, "loading")
    if knobs.start_fault == "oom":
        raise StartupError(1, "Traceback (most recent call last):", _OUT_OF_MEMORY, _CORE_FAILED)
    if knobs.start_fault == "exit":
        raise StartupError(max(knobs.exit_code, 0))
    _counted(log, "Loading safetensors checkpoint shards: {percent}% Completed | {n}/{total}", _SHARDS, waits["load"])
    log.line(f"Loading weights took {waits['load']:.2f} seconds", who=worker, where="default_loader.py:501")
    took = f"Model loading took 6.64 GiB memory and {waits['load']:.6f} seconds"
    log.line(took, who=worker, where="gpu_model_runner.py:5306")
    log.line("Dynamo bytecode transform time: 6.08 s", who=worker, where="backends.py:1148")
    _hold(knobs, "compiling")
    time.sleep(waits["compile"])
    took = f"Compiling a graph for compile range (1, 8192) takes {waits['compile']:.2f} s"
    log.line(took, who=worker, where="backends.py:393")
    compiled = f"torch.compile took {waits['compile']:.2f} s in total"
    log.line(compiled, who=worker, where="monitor.py:53")
    log.line("GPU KV cache size: 1,048,576 tokens", who="EngineCore", where="kv_cache_utils.py:2146")
    for kind in ("mixed prefill-decode, PIECEWISE", "decode, FULL"):
        bar = f"({worker} pid={os.getpid()}) Capturing CUDA graphs ({kind}): {{percent}}%|{{n}}/{{total}}"
        _counted(log, bar, _GRAPHS, waits["capture"] / 2)
        _hold(knobs, "capturing")
    finished = f"Graph capturing finished in {waits['capture']:.0f} secs, took 0.77 GiB"
    log.line(finished, who=worker, where="gpu_model_runner.py:6707")
    init = f"init engine (profile, create kv cache, warmup model) took {knobs.startup:.2f} s"
    log.line(init, who="EngineCore", where="core.py:402")


def _hold(knobs: Knobs, phase: StartHold) -> None:
    if knobs.start_hold == phase:
        time.sleep(_HANG_SECONDS)


def _counted(log: Log, template: str, total: int, seconds: float) -> None:
    """A progress bar's lines; every step when it takes time, else only its ends."""
    steps = range(total + 1) if seconds > 0 else (0, total)
    for n in steps:
        percent = f"{100 * n // total:3d}"
        shown = template.format(percent=percent, n=n, total=total)
        rate = "[00:00<?, ?it/s]" if n == 0 else f"[00:{seconds * n / total:02.0f}<00:00, 9.99it/s]"
        log.raw(f"{shown} {rate}")
        time.sleep(seconds / (total + 1))


def install_start_signals(knobs: Knobs) -> None:
    """Set what SIGTERM does before the server is up: all three were seen in vLLM, depending on the moment.

    `die` is the default action (exit by signal), `hang` waits for a second SIGTERM, `ignore` goes on to serve.
    """

    def swallow(_number: int, _frame: object) -> None:
        if knobs.start_signal == "hang":
            signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
            time.sleep(_HANG_SECONDS)

    if knobs.start_signal != "die":
        signal.signal(signal.SIGTERM, swallow)


def report(error: StartupError) -> int:
    """Print why start-up failed; returns the exit status."""
    for line in error.lines:
        print(line, file=sys.stderr, flush=True)  # noqa: T201
    return error.status
