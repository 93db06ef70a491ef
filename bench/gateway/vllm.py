"""The real vLLM (deploy/cpu), with and without the gateway before it: tokens a second in turns, and the CPU of each.

    python -m bench.gateway.vllm [--rounds 12] [--out FILE]

`gatehouse up` runs both. The gateway and the load share the machine's first core, vLLM has the others for itself, in
both halves of a round: so the gateway takes no CPU from the engine, and its own is counted apart. A round is one load
on each, in turning order; what was lost is the median over rounds, with its 95 % confidence interval. On a machine
that does other work tokens a second say little: the engine's CPU time a token, with and without, is the steadier
figure. A gateway that holds requests back, so that the engine's batches are smaller, makes it dearer; so do the token
ids that the gateway asks for, which are asked of the engine itself, too, as a third way. Last, half of the users are at
the engine itself while the others are at the gateway (`together`): all that the gateway adds for its users is in that,
and nothing that it costs the engine, which hits both.
"""

import argparse
import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.gateway import host, report
from bench.gateway.host import cpu, tree
from gatehouse.bench.client import Target
from gatehouse.bench.load import Load, Round, generator, interleave
from gatehouse.bench.report import difference, figures
from gatehouse.bench.stats import percentile
from gatehouse.bench.workload import Workload
from tests.support.real_engine import install, real_engine
from tests.support.stack import Stack, running_stack

START_SECONDS = 600.0
WORKLOAD = Workload("gpt-oss-20b", "completions", input_tokens=64, output_tokens=128)
LOAD = Load(concurrency=8, requests=16)
HALF = Load(concurrency=4, requests=16)
# what the gateway asks of every stream, asked of the engine itself: how much of the difference is that
TOKEN_IDS = replace(WORKLOAD, fields={"stream_options": {"include_usage": True}, "return_token_ids": True})


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    machine = host.describe()
    with pinned_stack() as stack:
        found = measure(stack, chosen.rounds)
    print(json.dumps({name: value for name, value in found.items() if name != "results"}, indent=1))
    if chosen.out:
        host.write(chosen.out, machine | found)
        speeds = {row["target"]: list(enumerate(row["output_tokens_per_second_by_round"])) for row in found["results"]}
        report.lines({"tokens/s": speeds}, "round", chosen.out.with_suffix(".png"))


@contextlib.contextmanager
def pinned_stack() -> Iterator[Stack]:
    """`gatehouse up` with the tiny model: vLLM on the other cores, the gateway and this process on the first."""
    first, others = host.cores()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, others)  # what is started from here has it from here: vLLM counts its cores at the start
    try:
        with running_stack(real_engine(*install()), ready_seconds=START_SECONDS) as stack:
            host.pin(tree(gateway_pid(stack)), first)
            os.sched_setaffinity(0, first)
            yield stack
    finally:
        os.sched_setaffinity(0, before)


def gateway_pid(stack: Stack) -> int:
    """The process of the gateway beside the engine."""
    return int(json.loads((stack.state_dir / "gateway.json").read_text("utf-8"))["pid"])


def targets(stack: Stack) -> tuple[Target, Target]:
    """The engine itself, and the gateway before it."""
    return Target("engine", stack.engine_url, stack.engine_key), Target("gateway", stack.url, stack.token("bench"))


def measure(stack: Stack, rounds: int) -> dict[str, Any]:
    """Tokens a second and CPU microseconds a token, with and without."""
    gateway, engine = gateway_pid(stack), int(stack.status()["pid"])
    direct, through = targets(stack)
    asked = replace(direct, name="engine, token ids")
    ways = [direct, asked, through]
    used: dict[str, list[tuple[float, float]]] = {way.name: [] for way in ways}  # microseconds: gateway, engine
    with generator() as generate:

        def load(target: Target) -> Round:
            return generate.run(target, TOKEN_IDS if target is asked else WORKLOAD, LOAD)

        def run(target: Target) -> Round:
            before = cpu(tree(gateway)), cpu(tree(engine))
            done = load(target)
            used[target.name].append((cpu(tree(gateway)) - before[0], cpu(tree(engine)) - before[1]))
            return done

        for way in ways:
            load(way)  # warm
        done = interleave(ways, rounds, run)
        together = [
            each.flowing
            for _ in range(rounds)
            for each in generate.together([(way, replace(WORKLOAD, spread=0.5), HALF) for way in (direct, through)])
        ]
    rows = [figures([each for each in done if each.target == way.name]) for way in ways]
    beside = [figures([each for each in together if each.target == way.name]) for way in (direct, through)]
    if any(row["errors"] for row in (*rows, *beside)):
        raise RuntimeError(f"requests failed: {[row['errors'] for row in (*rows, *beside)]}")
    return {
        "workload": asdict(WORKLOAD),
        "sent": asdict(LOAD),
        "rounds": rounds,
        **summary(rows, used),
        "together": difference(*beside),
        "results": rows,
        "results_together": beside,
    }


def summary(rows: list[dict[str, Any]], used: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Beside the engine itself, round by round: what was lost; and the CPU of the gateway a token."""
    direct, *others = rows
    engine = {row["target"]: sum(each for _, each in used[row["target"]]) / row["output_tokens"] for row in rows}
    gateway = sum(each for each, _ in used["gateway"]) / rows[-1]["output_tokens"]

    def beside(row: dict[str, Any]) -> dict[str, Any]:
        name = "output_tokens_per_second_by_round"
        speeds = zip(direct[name], row[name], strict=True)
        costs = zip(used[direct["target"]], used[row["target"]], strict=True)
        return {
            "lost_percent": _typical([(1 - other / alone) * 100 for alone, other in speeds]),
            "engine_cpu_added_percent": _typical([(other / alone - 1) * 100 for (_, alone), (_, other) in costs]),
        }

    return {
        "tokens_per_second": {row["target"]: row["output_tokens_per_second"] for row in rows},
        "beside_the_engine": {row["target"]: beside(row) for row in others},
        "engine_cpu_us_a_token": engine,
        "gateway_cpu_us_a_token": gateway,
        "gateway_share_percent": 100 * gateway / engine["gateway"],
    }


def _typical(by_round: list[float]) -> dict[str, Any]:
    """The median, and between what it lies with 95 % confidence."""
    found = percentile(by_round, 0.5)
    return {**(found._asdict() if found else {}), "by_round": by_round}


if __name__ == "__main__":
    main()
