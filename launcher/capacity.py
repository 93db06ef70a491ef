"""What the GPUs have against what the settings ask of them: their number, their free memory, room for the model."""

from collections.abc import Iterator, Mapping

from launcher import gpus, host
from launcher.config import EngineSettings
from launcher.findings import Finding, note, problem
from launcher.fit import fit
from launcher.gpus import Accelerators, Gpu
from launcher.model import Model

# Flags that spread one model over more than engine.tensor_parallel_size GPUs, or over several machines.
_SPREAD = (
    "--distributed-executor-backend",
    "--pipeline-parallel-size",
    "-pp",
    "--data-parallel-size",
    "-dp",
    "--nnodes",
)


def accelerators(
    settings: EngineSettings, model: Model, there: Accelerators, env: Mapping[str, str], *, running: bool = False
) -> Iterator[Finding]:
    """Tell what is good and what is wrong; `env` is the engine's environment; a `running` one has its memory."""
    if not there.gpus:
        if there.others:
            yield Finding("accelerator", f"{', '.join(there.others)}; its memory is not looked at")
            return
        yield problem(
            "GPU",
            "this machine has no GPU that vLLM could use",
            "try everything but the model with `gatehouse up --demo`, or install vLLM's CPU build and name it in"
            " engine.command",
        )
        return
    usable = gpus.visible(there.gpus, env.get("CUDA_VISIBLE_DEVICES"))
    names = ", ".join(dict.fromkeys(gpu.name for gpu in there.gpus))
    yield Finding("GPU", f"{len(there.gpus)} × {names}, driver {there.driver}")
    if usable is None or any(arg.partition("=")[0] in _SPREAD for arg in settings.extra_args):
        yield note("GPU", "which GPUs this engine takes is not known here", "vLLM itself will say what does not fit")
        return
    wanted = settings.tensor_parallel_size
    if len(usable) < wanted:
        hidden = " (CUDA_VISIBLE_DEVICES hides the others)" if len(usable) < len(there.gpus) else ""
        yield problem(
            "GPU",
            f"engine.tensor_parallel_size is {wanted}, but {len(usable)} GPU(s) can be used{hidden}",
            f"set it to {max(len(usable), 1)}",
        )
    for gpu in () if running else usable[:wanted]:
        yield _free_memory(settings, gpu)
    if usable:
        yield from _fit(settings, model, min(gpu.total_mib for gpu in usable[:wanted]))


def _free_memory(settings: EngineSettings, gpu: Gpu) -> Finding:
    share = settings.gpu_memory_utilization
    if gpu.free_mib >= share * gpu.total_mib:
        return Finding("GPU memory", f"GPU {gpu.index} has {gpu.free_mib} of {gpu.total_mib} MiB free")
    users = ", ".join(
        host.describe_process(pid) + (f" with {held} MiB" if held is not None else "") for pid, held in gpu.users
    )
    return problem(
        "GPU memory",
        f"GPU {gpu.index} ({gpu.name}) has {gpu.free_mib} of {gpu.total_mib} MiB free, but"
        f" engine.gpu_memory_utilization {share} asks for {int(share * gpu.total_mib)}",
        f"stop what else uses it ({users or '`nvidia-smi` shows it'}), or lower engine.gpu_memory_utilization",
        passing=True,
    )


def _fit(settings: EngineSettings, model: Model, total_mib: int) -> Iterator[Finding]:
    judged = fit(settings, model, total_mib)
    if judged is None:
        return
    told = f"{judged} (an estimate)"
    if judged.impossible:
        yield problem(
            "model memory",
            told,
            "take more GPUs (engine.tensor_parallel_size), a smaller or more quantized model, a smaller"
            " engine.max_model_len, or a higher engine.gpu_memory_utilization",
        )
    elif judged.tight:
        yield note("model memory", told, "if vLLM refuses, lower engine.max_model_len or use more GPUs")
    else:
        yield Finding("model memory", told)
