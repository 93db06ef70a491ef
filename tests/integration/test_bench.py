"""`gatehouse bench` as it is used: against a running `gatehouse up`, its engine, and a server that refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from gatehouse.bench.client import Target
from gatehouse.cli import gatehouse
from gatehouse.commands.bench import _gpu_memory
from launcher.gpus import Accelerators, Gpu, Nvml
from tests.support.stack import SIMULATED, Stack, running_stack, until


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A running gateway and engine."""
    with running_stack({"engine": SIMULATED}) as running:
        yield running


def bench(stack: Stack, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command on this stack's state directory."""
    config = stack.state_dir.parent / "gatehouse.yaml"
    argv = [sys.executable, "-m", "gatehouse", "bench", "--config", str(config), "--state-dir", str(stack.state_dir)]
    argv += words
    return subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)


def test_the_gateway_beside_its_engine(stack: Stack, tmp_path: Path) -> None:
    """Without a URL it finds gateway and engine and needs no key; tokens are the engine's; record and JSON agree."""
    file, picture = tmp_path / "b.json", tmp_path / "b.svg"
    before = len(stack.log_lines())
    words = ["--direct", "--plan", "service", "--concurrency", "1,4", "--requests", "6", "--rounds", "2"]
    words += ["--warmup", "1", "--output-tokens", "9", "--processes", "2"]
    done = bench(stack, *words, "--json", str(file), "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text())
    rows = {(row["target"], row["concurrency"]): row for row in content["results"]}
    assert set(rows) == {("engine", 1), ("engine", 4), ("gateway", 1), ("gateway", 4)}
    for row in rows.values():
        assert (row["requests"], row["errors"], row["output_tokens"]) == (12, {}, 12 * 9)
        assert row["ttft_ms"]["p50"]["value"] > 0
    assert [(each["beside"], each["of"], each["concurrency"]) for each in content["differences"]] == [
        ("engine", "gateway", 1),
        ("engine", "gateway", 4),
    ]
    lines = until(lambda: stack.log_lines()[before + 24 :] and stack.log_lines()[before:], "all are in the record")
    assert len(lines) == 1 + 24
    assert sum(line["prompt_tokens"] for line in lines[1:]) == sum(
        rows["gateway", each]["input_tokens"] for each in (1, 4)
    )
    assert picture.read_text().startswith("<?xml")
    assert "loses" in done.stdout


def test_both_at_the_same_time(stack: Stack, tmp_path: Path) -> None:
    """Together, every request of the one runs beside one of the other; each user's first is not counted."""
    file = tmp_path / "b.json"
    words = ["--direct", "--together", "--plan", "service", "--concurrency", "2", "--requests", "6", "--rounds", "2"]
    done = bench(stack, *words, "--warmup", "0", "--output-tokens", "40", "--json", str(file))
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text())
    assert [(row["target"], row["requests"]) for row in content["results"]] == [("engine", 8), ("gateway", 8)]
    told = content["differences"][0]["user_throughput_lost_percent_typical"]["value"]
    assert f"gateway loses {told} % of the tokens/s" in done.stdout
    assert bench(stack, "--together", "--concurrency", "1").returncode == 2


def test_refusals_are_counted_and_fail_the_command(stack: Stack) -> None:
    """A server that refuses gives no figures: each refusal is counted under its name, and the exit code is 1."""
    done = bench(
        stack, stack.url, "--api-key", "nonsense", "--model", stack.model, "--concurrency", "2", "--warmup", "0"
    )
    assert done.returncode == 1
    assert "8 × 401 token_malformed" in done.stdout
    both = ("--compare", stack.url, stack.url, "--api-key", "nonsense", "--concurrency", "2", "--warmup", "0")
    for how in ((), ("--together",)):
        done = bench(stack, *both, *how)
        assert done.returncode == 1
        assert done.stdout.count("8 × 401 token_malformed") == 2, done.stderr
    once = bench(
        stack, "--plan", "once", "--concurrency", "1", "--requests", "3", "--warmup", "0", "--output-tokens", "2"
    )
    assert once.returncode == 1
    assert "2 × 429 rate_limit_exceeded" in once.stdout


@pytest.mark.parametrize(("url", "told"), [("http://127.0.0.1:8000", True), ("http://192.0.2.1:8000", False)])
def test_gpu_memory_is_told_of_this_machine_only(url: str, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the driver says is taken on each GPU; nothing where a server is elsewhere."""
    gpu = Gpu(0, "H200", "GPU-0", total_mib=143_771, free_mib=13_771)
    monkeypatch.setattr(Nvml, "look", lambda _self: Accelerators("580", (gpu,)))
    found = _gpu_memory([Target("it", url), Target("own", "http://localhost:1")])
    assert found == ([{"used_mib": 130_000, "total_mib": 143_771}] if told else [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["127.0.0.1:80"], "is not an address such as http://127.0.0.1:8080"),
        (["--direct", "http://127.0.0.1:9"], "choose one of URL, --compare and --direct"),
        (["--plan", "nosuch"], "nosuch: there are "),
        (["--concurrency", "1,x"], "is not a list of whole numbers above zero"),
        (["http://a", "--api-key", "1", "--api-key", "2"], "--api-key is given 2 times for 1 URL"),
    ],
)
def test_wrong_words_are_told(stack: Stack, words: list[str], said: str) -> None:
    """A mistake in the command line is exit code 2 and a sentence that names it."""
    done = CliRunner().invoke(gatehouse, ["bench", "--state-dir", str(stack.state_dir), *words])
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())


def test_no_gateway_to_measure(tmp_path: Path) -> None:
    """Without a running gateway the command says so and what to do."""
    argv = [sys.executable, "-m", "gatehouse", "bench", "--state-dir", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no gateway runs on" in done.stderr
    assert "gatehouse up" in done.stderr
