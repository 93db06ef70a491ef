"""The real vLLM (deploy/cpu), with and without the gateway before it: tokens a second in turns, and the CPU of each.

    python -m bench.gateway.vllm [--rounds 8] [--out FILE]

`gatehouse up` runs both; `gatehouse bench --direct` makes the load, one run to the engine, one through the gateway, in
turns. On a machine that does other work the speed of single runs says little: the share of the gateway's CPU time in
the engine's is the steadier figure, for what the gateway takes from the engine is that.
"""

import argparse
import datetime as dt
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from bench.gateway.host import cpu, describe, tree
from tests.support.real_engine import install, real_engine
from tests.support.stack import Stack, running_stack

START_SECONDS = 600.0
LOAD = [
    "--api",
    "completions",
    "--input-tokens",
    "64",
    "--output-tokens",
    "128",
    "--concurrency",
    "8",
    "--requests",
    "16",
]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    with running_stack(real_engine(*install()), ready_seconds=START_SECONDS) as stack:
        found = measure(stack, chosen.rounds)
    print(json.dumps({name: value for name, value in found.items() if name != "raw"}, indent=1))
    if chosen.out:
        today = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M")
        chosen.out.write_text(json.dumps({"date": today, **describe(), **found}, indent=1) + "\n", "utf-8")


def measure(stack: Stack, rounds: int) -> dict[str, Any]:
    """Tokens a second with and without, and CPU microseconds a token of gateway and engine."""
    gateway = json.loads((stack.state_dir / "gateway.json").read_text("utf-8"))["pid"]
    engine = _engine(stack.process.pid, gateway)
    before = cpu(tree(gateway)), cpu(tree(engine))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        argv = [
            sys.executable,
            "-m",
            "gatehouse",
            "bench",
            "--direct",
            *LOAD,
            "--rounds",
            str(rounds),
            "--json",
            str(file),
        ]
        argv += ["--config", str(stack.state_dir.parent / "gatehouse.yaml"), "--state-dir", str(stack.state_dir)]
        subprocess.run(argv, check=True)
        raw = json.loads(file.read_text("utf-8"))
    used = cpu(tree(gateway)) - before[0], cpu(tree(engine)) - before[1]
    return {"workload": " ".join(LOAD), "rounds": rounds, **summary(raw, used), "raw": raw}


def summary(raw: dict[str, Any], used: tuple[float, float]) -> dict[str, Any]:
    """What was lost, as `gatehouse bench` has it; CPU time of the gateway for tokens that went through it."""
    direct, through = raw["results"]
    tokens = direct["output_tokens"] + through["output_tokens"]
    gateway, engine = used[0] / through["output_tokens"], used[1] / tokens
    by_round = raw["differences"][0]["throughput_lost_percent_by_round"]
    return {
        "tokens_per_second": {each["target"]: each["output_tokens_per_second"] for each in (direct, through)},
        "lost_percent": raw["differences"][0]["throughput_lost_percent"],
        "lost_percent_median": statistics.median(by_round),
        "lost_percent_by_round": by_round,
        "gateway_cpu_us_a_token": gateway,
        "engine_cpu_us_a_token": engine,
        "gateway_share_percent": 100 * gateway / engine,
    }


def _engine(command: int, gateway: int) -> int:
    """The process of `vllm serve`: the child of the command that is not the gateway."""
    others = [child.pid for child in psutil.Process(command).children() if child.pid != gateway]
    return max(others, key=lambda pid: len(tree(pid)))


if __name__ == "__main__":
    main()
