"""`gatehouse bench` beside vLLM's own `vllm bench serve`: the same load on the same server, in turns.

    python -m bench.gateway.reference [--rounds 4] [--out FILE]

The server is the real vLLM on the CPU with the tiny model (deploy/cpu), without the gateway. Both send as many
requests, with prompts of about as many tokens and answers of exactly as many.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.gateway import host
from bench.gateway.vllm import LOAD, WORKLOAD, pinned_stack, targets
from gatehouse.bench.client import Target
from gatehouse.bench.load import Round, generator
from gatehouse.bench.report import figures
from tests.support.real_engine import install, real_engine

Figures = dict[str, float]
TIMES = [(name, point) for name in ("ttft", "itl", "tpot") for point in ("mean", "p50", "p99")]  # milliseconds
SECONDS = 600.0
SEEDS = itertools.count(1)  # new prompts each time: none comes out of the prefix cache


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    machine = host.describe()
    with pinned_stack() as stack:
        found = measure(targets(stack)[0], chosen.rounds)
    for figure, values in found["medians"].items():
        print(f"{figure:14} ours {values['ours']:9.2f}   theirs {values['theirs']:9.2f}")
    if chosen.out:
        host.write(chosen.out, machine | found)


def measure(engine: Target, rounds: int) -> dict[str, Any]:
    """Every figure that both have, of each round, and the medians."""
    found: dict[str, list[Figures]] = {"ours": [], "theirs": []}
    with generator() as generate:
        ways: dict[str, Callable[[], Figures]] = {
            "ours": lambda: ours(generate.run(engine, WORKLOAD, LOAD)),
            "theirs": lambda: theirs(engine),
        }
        for take in ways.values():
            take()  # warm
        for number in range(rounds):
            for name in ways if number % 2 == 0 else reversed(ways):
                found[name].append(ways[name]())
                print(name, found[name][-1], file=sys.stderr)
    medians = {
        figure: {name: statistics.median(each[figure] for each in taken) for name, taken in found.items()}
        for figure in found["ours"][0]
    }
    return {"workload": asdict(WORKLOAD), "load": asdict(LOAD), "rounds": rounds, "medians": medians, **found}


def ours(done: Round) -> Figures:
    """Those of `gatehouse bench`."""
    row = figures([done])
    times = {
        f"{name} {point}": row[f"{name}_ms"][point] if point == "mean" else row[f"{name}_ms"][point]["value"]
        for name, point in TIMES
    }
    return {
        "tokens/s": row["output_tokens_per_second"],
        "prompt tokens": row["input_tokens"] / row["requests"],
        **times,
    }


def theirs(engine: Target) -> Figures:
    """Those of `vllm bench serve`."""
    vllm, model = install()
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "backend": "openai", "base-url": engine.url, "endpoint": WORKLOAD.path, "model": WORKLOAD.model,
            "tokenizer": model, "dataset-name": "random", "random-input-len": WORKLOAD.input_tokens,
            "random-output-len": WORKLOAD.output_tokens, "num-prompts": LOAD.requests, "seed": next(SEEDS),
            "max-concurrency": LOAD.concurrency, "percentile-metrics": "ttft,tpot,itl", "metric-percentiles": "50,99",
            "temperature": 0, "result-dir": folder, "result-filename": "found.json",
        }  # fmt: skip
        argv = [str(vllm / "bin" / "vllm"), "bench", "serve", "--ignore-eos", "--save-result"]
        argv += [word for name, value in options.items() for word in (f"--{name}", str(value))]
        settings = real_engine(vllm, model)["engine"]["env"]
        environment = os.environ | settings | {"OPENAI_API_KEY": engine.api_key or ""}
        done = subprocess.run(argv, env=environment, timeout=SECONDS, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"vllm bench serve ended with {done.returncode}: {done.stderr[-2000:]}")
        row = json.loads((Path(folder) / "found.json").read_text("utf-8"))
    times = {f"{name} {point}": row[f"{point}_{name}_ms"] for name, point in TIMES}
    return {
        "tokens/s": row["output_throughput"],
        "prompt tokens": row["total_input_tokens"] / row["completed"],
        **times,
    }


if __name__ == "__main__":
    main()
