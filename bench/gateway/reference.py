"""`gatehouse bench` beside vLLM's own `vllm bench serve`: the same load on the same server, in turns.

    python -m bench.gateway.reference [--server vllm|simulated|fast] [--rounds 4] [--out FILE]

The server is the real vLLM on the CPU with the tiny model (deploy/cpu), without the gateway. As that is never as fast
twice on a machine that does other work, there are two whose times are known: the simulated engine, with the first token
after 0.3 s, then 20 a second; and one in C that has 64 streams emit every 4 ms, 16,000 events a second, as two GPUs do.
Both send as many requests, with prompts and answers of as many tokens.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.gateway import host
from bench.gateway.measures import started
from bench.gateway.vllm import LOAD, WORKLOAD, pinned_stack, targets
from gatehouse.bench.client import Target
from gatehouse.bench.load import Load, Round, generator
from gatehouse.bench.report import figures
from gatehouse.bench.workload import Workload
from tests.support.real_engine import install, real_engine
from tests.support.stack import running_stack

Figures = dict[str, float]
TIMES = [(name, point) for name in ("ttft", "itl", "tpot") for point in ("mean", "p50", "p99")]  # milliseconds
SIMULATED = {"engine": {"kind": "simulated", "simulator": {"ttft": 0.3, "tps": 20}}}
# the tiny model makes many of them, and what has no text is no token to us, but one to them
WITH_SPECIAL_TOKENS = {"skip_special_tokens": False}
FAST = Load(concurrency=64, requests=512)
FAST_TICK_US = 4000
SECONDS = 600.0
SEEDS = itertools.count(1)  # new prompts each time: none comes out of the prefix cache


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=["vllm", "simulated", "fast"], default="vllm")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    machine = host.describe()
    with server(chosen.server) as (engine, workload, load):
        found = measure(engine, workload, load, chosen.rounds)
    for figure, values in found["medians"].items():
        print(f"{figure:14} ours {values['ours']:9.2f}   theirs {values['theirs']:9.2f}")
    if chosen.out:
        host.write(chosen.out, machine | found)


@contextlib.contextmanager
def server(name: str) -> Iterator[tuple[Target, Workload, Load]]:
    """The server of this name, and what is asked of it."""
    if name == "fast":
        workload = replace(WORKLOAD, output_tokens=256)
        with started() as bench:
            bench.control(chunks=workload.output_tokens, interval=FAST_TICK_US, together=1)
            yield Target("engine", f"http://127.0.0.1:{bench.engine}"), workload, FAST
        return
    with running_stack(SIMULATED, ready_seconds=60) if name == "simulated" else pinned_stack() as stack:
        yield targets(stack)[0], replace(WORKLOAD, fields=WITH_SPECIAL_TOKENS), LOAD


def measure(engine: Target, workload: Workload, load: Load, rounds: int) -> dict[str, Any]:
    """Every figure that both have, of each round, and the medians."""
    found: dict[str, list[Figures]] = {"ours": [], "theirs": []}
    with generator() as generate:
        # warm; their prompts have exactly as many tokens as they are told, ours are near
        prompt = round(ours(generate.run(engine, workload, load))["prompt tokens"])
        same = replace(workload, input_tokens=prompt)
        theirs(engine, same, load)
        ways: dict[str, Callable[[], Figures]] = {
            "ours": lambda: ours(generate.run(engine, workload, load)),
            "theirs": lambda: theirs(engine, same, load),
        }
        for number in range(rounds):
            for name in ways if number % 2 == 0 else reversed(ways):
                found[name].append(ways[name]())
                print(name, found[name][-1], file=sys.stderr)
    medians = {
        figure: {name: statistics.median(each[figure] for each in taken) for name, taken in found.items()}
        for figure in found["ours"][0]
    }
    return {"workload": asdict(workload), "sent": asdict(load), "rounds": rounds, "medians": medians, **found}


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


def theirs(engine: Target, workload: Workload, load: Load) -> Figures:
    """Those of `vllm bench serve`."""
    vllm, model = install()
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "backend": "openai", "base-url": engine.url, "endpoint": workload.path, "model": workload.model,
            "tokenizer": model, "dataset-name": "random", "random-input-len": workload.input_tokens,
            "random-output-len": workload.output_tokens, "num-prompts": load.requests, "seed": next(SEEDS),
            "max-concurrency": load.concurrency, "percentile-metrics": "ttft,tpot,itl", "metric-percentiles": "50,99",
            "temperature": 0, "extra-body": json.dumps(workload.fields), "result-dir": folder,
            "result-filename": "found.json",
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
