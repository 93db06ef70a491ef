"""Plain Transformers (A), vLLM (B) and vLLM behind Gatehouse with everything on (C), on one host with two GPUs.

usage: python bench/two_gpus/compare.py --config FILE --run FOLDER --out FOLDER SCENARIO …

    plain       A, before `start`: one request, and how many at once; its own start and stop
    start       start what is not there yet: Redis, `gatehouse up` (B and C)
    ready       wait until all of it is; phases with times, the engine's argv, GPU memory, the first users' TTFT
    warm        prompts and bursts of every size, until the engine makes no further kernels
    ways        256 streams of 1,024 tokens: B, B with running usage, B with token ids, C; where a difference comes from
    closed      B beside C: 256 users, each with its next request when it has its answer, of 128 to 384 tokens
    arrivals    B beside C: requests that come one by one, whether or not others have ended
    streams     B beside C: 1, 16, 63 and 512 users (`--streams`)
    most        how many streams before the 95th percentile of TTFT is over two seconds, B and C
    workers     B beside C with 1, 2 and 4 workers, 256 streams; the gateway's CPU per token
    together    256 users of C, with 1, 2 and 4 workers, and 32 of B at the same moment: what the gateway adds for them
    shapes      B beside C: 5,000 tokens out, 7,000 in, 90 % of the prompt shared
    reference   `vllm bench serve` beside `gatehouse bench` on B
    fairness    chat users among 256 batch streams: at the engine alone, and through the gateway's priorities
    cut         SIGKILL of a worker under 16 streams: tokens that the clients got beside those of the record
    stop        stop everything; what is left must be nothing

The servers run on when this program ends: scenarios may be run one call after another. Each writes OUT/NAME.json at
its end, and begins no further round once it has had its time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from host import Gatehouse, Server, cpu_seconds, gpu_memory
from servers import PLAIN_SECONDS, WORKERS, Servers

from gatehouse.bench.client import Target
from gatehouse.bench.load import Load, Round, generator, interleave
from gatehouse.bench.report import difference, figures
from gatehouse.bench.workload import Workload

# two ways to know at each moment how many tokens a stream has had; the gateway asks for the second
RUNNING_USAGE = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
TOKEN_IDS = {"return_token_ids": True}
# seconds after which a scenario begins no further round
SECONDS = {
    "warm": 100,
    "ways": 110,
    "closed": 150,
    "arrivals": 70,
    "streams": 100,
    "most": 45,
    "workers": 120,
    "together": 200,
    "plain": 150,
}
OTHER_SECONDS = 90
CUT_SECONDS, RECORD_SECONDS = 3.0, 60.0


@dataclass
class Cost:
    """What a target's rounds took beside their time."""

    cpu_seconds: float = 0.0  # of the gateway
    kernels: list[int] = field(default_factory=list)  # made by the engine, by round


class Scenarios(Servers):
    """What is measured on the servers."""

    def beside(
        self, targets: list[Target], workloads: Workload | dict[str, Workload], load: Load, rounds: int
    ) -> list[dict[str, Any]]:
        """The same load on each in turns; the CPU time of gateways goes with it. `workloads`: by target's name."""
        costs = {target.name: Cost() for target in targets}

        def run(target: Target) -> Round:
            workload = workloads if isinstance(workloads, Workload) else workloads.get(target.name, self.short)
            with self.counted(target, costs[target.name]):
                return self.generate.run(target, workload, load)

        done = interleave(targets, rounds, run, self.until)
        return [
            self.row([each for each in done if each.target == target.name], costs[target.name]) for target in targets
        ]

    @contextlib.contextmanager
    def counted(self, target: Target, cost: Cost) -> Iterator[None]:
        """Add to `cost` what is spent meanwhile: CPU time of this target's gateway, kernels that the engine makes."""
        groups = {"C Gatehouse": self.main} | {
            f"C{each}": Gatehouse(Server(self.run / f"workers-{each}")) for each in WORKERS
        }
        processes = groups[target.name].gateways() if target.name in groups else []
        before, kernels = cpu_seconds(processes), self.kernels()
        yield
        cost.cpu_seconds += cpu_seconds(processes) - before
        cost.kernels.append(self.kernels() - kernels)

    def row(self, rounds: list[Round], cost: Cost) -> dict[str, Any]:
        """The figures of one target, its cost with them."""
        row = figures(rounds)
        row["kernels_made_by_round"] = cost.kernels
        if cost.cpu_seconds and row["output_tokens"]:
            row["gateway_cpu_us_per_token"] = round(cost.cpu_seconds / row["output_tokens"] * 1e6, 2)
            row["gateway_cpu_share"] = round(cost.cpu_seconds / row["seconds"], 3)
        _say(row)
        return row

    def load(self, streams: int, requests: int, rate: float | None = None) -> Load:
        """So many at once, less where this is a trial."""
        return Load(max(streams // self.scale, 1), max(requests // self.scale, 2), rate and rate / self.scale)

    @property
    def varied(self) -> Workload:
        """Answers of different lengths: users who began together do not end together."""
        return replace(self.short, spread=0.5)

    def warm(self) -> dict[str, Any]:
        """Have the engine make the kernels that it makes late, until two loads in a row found all of them made.

        Triton makes two pairs for each multiple of 32 tokens of a batch that is not in a CUDA graph: docs/two-gpus.md.
        Prompts given as token ids bring about single ones; loads the rest, those that chance has.
        """
        began, passes, before = time.monotonic(), [], self.kernels()
        engine, random = self.b(), Random(0)
        for length in _prompt_lengths(self.scale):
            prompt = {"prompt": [random.randrange(1000, 100_000 // self.scale) for _ in range(length)], "max_tokens": 2}
            self.generate.run(engine, replace(self.short, fields=prompt), Load(1, 1))
        passes.append({"load": "prompts", "kernels": self.kernels() - before})
        sizes = (16, 64, 256) if self.places else (16, 64, 256, 512, 1024, 1536)
        quiet = 0
        while quiet < 2 and time.monotonic() < self.until:
            quiet += 1
            for streams in sizes:
                before, at = self.kernels(), time.monotonic()
                for target in (engine, self.c()):
                    workload = replace(self.varied, output_tokens=max(32 // self.scale, 4))
                    self.generate.run(target, workload, self.load(streams, 2 * streams))
                made = self.kernels() - before
                passes.append({"load": streams, "kernels": made, "seconds": round(time.monotonic() - at, 1)})
                quiet = 0 if made else quiet
        return {"passes": passes, "kernels": self.kernels(), "seconds": round(time.monotonic() - began, 1)}

    def ways(self) -> dict[str, Any]:
        """What of the difference is how the gateway learns of the tokens, at many long streams."""
        long = replace(self.short, output_tokens=max(1024 // self.scale, 8))
        usage, ids = (replace(self.b(), name=f"B with {each}") for each in ("running usage", "token ids"))
        targets = [self.b(), usage, ids, self.c()]
        workloads = {target.name: long for target in targets}
        workloads |= {usage.name: replace(long, fields=RUNNING_USAGE), ids.name: replace(long, fields=TOKEN_IDS)}
        rows = self.beside(targets, workloads, self.load(256, 256), 4)
        return {"results": rows, "differences": [difference(rows[0], row) for row in rows[1:]]}

    def closed(self) -> dict[str, Any]:
        """Throughput under as many users as the goal names, in many short rounds."""
        found = self.beside([self.b(), self.c()], self.varied, self.load(256, 768), 12)
        return {"results": found, "differences": [difference(*found)]}

    def arrivals(self) -> dict[str, Any]:
        """Requests that come one by one, as many users' do: throughput is given, latency is what differs."""
        found = self.beside([self.b(), self.c()], self.varied, self.load(256, 720, self.options.rate), 3)
        return {"results": found, "differences": [difference(*found)]}

    def streams(self) -> dict[str, Any]:
        """Throughput and latency over the number of users."""
        rows, differences = [], []
        for streams in self.options.streams:
            load = self.load(streams, max(min(4 * streams, 256), 6, 2 * streams))
            found = self.beside([self.b(), self.c()], self.short if streams == 1 else self.varied, load, 3)
            rows += found
            differences.append(difference(*found))
        return {"results": rows, "differences": differences}

    def workers(self) -> dict[str, Any]:
        """What more gateway workers change."""
        rows = self.beside([self.b(), self.c(), *self.with_workers()], self.varied, self.load(256, 512), 12)
        return {"results": rows, "differences": [difference(rows[0], row) for row in rows[1:]]}

    def with_workers(self) -> list[Target]:
        """C with more workers."""
        self.gateways()
        return [Gatehouse(Server(self.run / f"workers-{each}")).target(f"C{each}") for each in WORKERS]

    def together(self) -> dict[str, Any]:
        """What the gateway adds for many users, beside a few at the engine itself: what that does, it does to both."""
        targets = [self.c(), *self.with_workers()]
        costs = {target.name: Cost() for target in targets}
        beside: dict[str, list[Round]] = {target.name: [] for target in targets}

        def run(target: Target) -> Round:
            crowd, few = self.load(256, 1024), self.load(32, 128)
            with self.counted(target, costs[target.name]):
                loads = [(target, self.varied, crowd), (self.b(), self.varied, few)]
                through, alone = self.generate.together(loads)
            beside[target.name].append(alone.flowing)
            return through

        done = interleave(targets, 10, run, self.until)
        rows, differences = [], []
        for target in targets:
            through = self.row([each for each in done if each.target == target.name], costs[target.name])
            through |= figures([each.flowing for each in done if each.target == target.name])
            alone = figures(beside[target.name])
            rows += [alone, through]
            differences.append(difference(alone, through))
        return {"results": rows, "differences": differences}

    def shapes(self) -> dict[str, Any]:
        """Long answers, long prompts, shared prefixes."""
        shapes = {
            "5,000 tokens out": (replace(self.short, output_tokens=5000 // self.scale), Load(63, 63), 1),
            "7,000 tokens in": (replace(self.short, input_tokens=6200 // self.scale), Load(16, 48), 2),
            "90 % shared": (
                replace(self.short, input_tokens=4000 // self.scale, output_tokens=64, shared_prefix=0.9),
                Load(63, 189),
                2,
            ),
        }
        found: dict[str, Any] = {}
        for name, (workload, load, rounds) in shapes.items():
            fewer = self.load(load.concurrency, load.requests)
            rows = self.beside([self.b(), self.c()], replace(workload, seed=len(found) + 1), fewer, rounds)
            found[name] = {"results": rows, "difference": difference(*rows)}
        return found

    def plain(self) -> dict[str, Any]:
        """A: one request; four at a time; then more at once, until the 95th percentile of TTFT is over two seconds."""
        began = time.monotonic()
        server = self.start_plain()
        found: dict[str, Any] = {"loaded_s": round(time.monotonic() - began, 1), "gpu_mib_loaded": gpu_memory()}

        def ask(streams: int, requests: int, tokens: int) -> dict[str, Any]:
            workload = replace(self.short, output_tokens=max(tokens // self.scale, 4))
            load = Load(streams, requests, timeout=PLAIN_SECONDS)
            return self.beside([self.a()], workload, load, 1)[0]

        try:
            ask(1, 2, 32)  # kernels are made here
            found["results"] = [ask(1, 3, self.short.output_tokens), ask(4, 4, self.short.output_tokens)]
            found["most"] = []
            for streams in (1, 2, 4, 8, 16, 24, 32, 48, 64):
                found["most"].append(ask(streams, streams, 16))
                last = found["most"][-1]
                if last["errors"] or last["ttft_ms"]["p95"]["value"] > 2000 or time.monotonic() > self.until:
                    break
            found["gpu_mib"] = gpu_memory()
        finally:
            found["left"] = server.stop()
        return found

    def most(self) -> dict[str, Any]:
        """How many at once before the 95th percentile of TTFT is over two seconds, B and C."""
        rows = []
        for streams in (63, 96, 128, 160, 192) if self.places else (256, 512, 768, 1024, 1536):
            workload = replace(self.short, output_tokens=max(128 // self.scale, 4))
            rows += self.beside([self.b(), self.c()], workload, self.load(streams, streams), 1)
        return {"results": rows}

    def reference(self) -> dict[str, Any]:
        """VLLM's own load generator on the same server under the same load."""
        engine = self.b()
        load = self.load(64, 512)
        ours = self.beside([engine], self.short, load, 1)
        argv = [*self.config["engine"]["command"], "bench", "serve", "--backend", "openai", "--base-url", engine.url]
        argv += ["--endpoint", "/v1/completions", "--model", self.short.model]
        argv += ["--tokenizer", self.config["engine"]["model"]]
        argv += ["--dataset-name", "random", "--random-input-len", "128", "--temperature", "0"]
        argv += ["--random-output-len", str(self.short.output_tokens), "--ignore-eos", "--num-prompts"]
        argv += [
            str(load.requests),
            "--max-concurrency",
            str(load.concurrency),
            "--percentile-metrics",
            "ttft,tpot,itl",
        ]
        environment = {**os.environ, **self.config["engine"].get("env", {}), "OPENAI_API_KEY": engine.api_key or ""}
        done = subprocess.run(argv, capture_output=True, text=True, timeout=100, env=environment, check=False)
        again = self.beside([engine], self.short, load, 1)
        said = done.stdout if done.returncode == 0 else done.stdout + done.stderr
        theirs = said.replace(self.config["engine"]["model"], "MODEL")[-2500:]
        return {"ours": [*ours, *again], "exit": done.returncode, "theirs": theirs}

    def fairness(self) -> dict[str, Any]:
        """The TTFT of four chat users while 256 batch streams wait for 32 places."""
        found: dict[str, Any] = {"max_num_seqs": self.places}
        ways = {
            "through the gateway: member among service": (self.c(), self.c(subject="chat", plan="member")),
            "through the gateway: both service": (self.c(), self.c(subject="another", plan="service")),
            "at the engine alone": (self.b(), self.b()),
        }
        for name, (crowd, user) in ways.items():
            pressed, press = _beside(partial(self.generate.run, crowd, self.short, self.load(256, 896)))
            time.sleep(2 / self.scale)
            rounds: list[Round] = []
            workload = replace(self.short, output_tokens=16, seed=len(found))
            with generator() as alone:
                while press.is_alive() and len(rounds) < 40:
                    rounds.append(alone.run(user, workload, Load(4, 4)))
                    time.sleep(0.2)
            press.join()
            found[name] = {"user": figures(rounds), "crowd": figures(pressed)}
            print(name, json.dumps(found[name]["user"]["ttft_ms"]), flush=True)
        return found

    def cut(self) -> dict[str, Any]:
        """A process of the engine killed under 16 streams: what the clients got, and what the record says of it."""
        workload = replace(self.short, output_tokens=max(4000 // self.scale, 16), fields=RUNNING_USAGE)
        subject = f"cut-{time.time_ns()}"
        target = self.c(subject=subject)
        rounds, streams = _beside(partial(self.generate.run, target, workload, Load(16, 16)))
        time.sleep(CUT_SECONDS)
        engine = next(p for p in self.main.server.processes if "serve" in p.cmdline())
        tree = [engine, *engine.children(recursive=True)]
        # the kernel's name, of 15 characters, is what vLLM sets
        victim = next((p for p in tree if self.options.victim in p.name()), engine)
        name = victim.name()
        victim.kill()
        streams.join()
        answers = rounds[0].answers
        end = time.monotonic() + RECORD_SECONDS
        lines: list[dict[str, Any]] = []
        while len(lines) < len(answers) and time.monotonic() < end:
            time.sleep(0.5)
            text = (self.main.state_dir / "requests.jsonl").read_text("utf-8")
            lines = [line for line in map(json.loads, text.splitlines()) if line.get("subject") == subject]
        return {
            "killed": name,
            "errors": figures(rounds)["errors"],
            "outcomes": sorted(line["outcome"] for line in lines),
            "received": sorted(answer.completion_tokens for answer in answers),
            "recorded": sorted(line["completion_tokens"] for line in lines),
        }


def _beside(work: Callable[[], Round]) -> tuple[list[Round], threading.Thread]:
    """Run a load beside what follows; the list has it once the thread has ended."""
    done: list[Round] = []
    thread = threading.Thread(target=lambda: done.append(work()))
    thread.start()
    return done, thread


def _prompt_lengths(scale: int) -> list[int]:
    """Numbers of tokens of every divisibility, over all that one batch takes."""
    some = [64 * each + odd for each in range(1, 126, 5) for odd in (0, 4, 2, 1)]
    return [max(length // scale, 1) for length in some]


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def _say(row: dict[str, Any]) -> None:
    brief = {
        key: row[key]
        for key in ("target", "concurrency", "output_tokens_per_second", "errors", "seconds", "kernels_made_by_round")
    }
    brief["full"] = row["full_tokens_per_second_by_round"] or row["output_tokens_per_second_by_round"]
    ttft = {name: (row["ttft_ms"][name] or {}).get("value") for name in ("p50", "p99")}
    print(json.dumps(brief | {"ttft": ttft, "cpu": row.get("gateway_cpu_us_per_token")}), flush=True)


def main() -> int:
    """Run the scenarios that are named; an error in one is written down and the next goes on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("/tmp/gatehouse-two-gpus"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--redis", default=shutil.which("redis-server") or "redis-server")
    parser.add_argument("--plain", default="", help="interpreter for A; none: no A")
    parser.add_argument("--processes", type=int, default=8, help="processes that make the load")
    parser.add_argument("--engine", type=Path, help="YAML of further engine settings: engines/full.yaml, …")
    parser.add_argument("--streams", type=_numbers, default=[1, 16, 63, 512], help="users of `streams`: N,N,…")
    parser.add_argument("--rate", type=float, default=60.0, help="requests a second of `arrivals`")
    parser.add_argument("--victim", default="Worker", help="whom `cut` kills: Worker, EngineCor; else `vllm serve`")
    parser.add_argument("--scale", type=int, default=1, help="divide every load by this, for a trial")
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no further scenario after so long")
    parser.add_argument("--missing", action="store_true", help="run no scenario that OUT has a result of")
    parser.add_argument("scenarios", nargs="+")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    began, failed = time.monotonic(), 0
    with generator(options.processes) as generate:
        scenarios = Scenarios(options, generate)
        for name in options.scenarios:
            file = options.out / f"{name}.json"
            if options.missing and file.exists() and "error" not in json.loads(file.read_text()):
                continue
            if time.monotonic() - began > options.seconds:
                print(f"left out: {name}", flush=True)
                continue
            at = time.monotonic()
            scenarios.until = min(at + SECONDS.get(name, OTHER_SECONDS), began + options.seconds)
            try:
                found = getattr(scenarios, name)()
            except Exception as error:  # noqa: BLE001 - what the others measure is worth keeping
                found, failed = {"error": repr(error)}, failed + 1
                traceback.print_exc()
            found["scenario_s"] = round(time.monotonic() - at, 1)
            print(name, json.dumps(found)[:600], flush=True)
            file.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
