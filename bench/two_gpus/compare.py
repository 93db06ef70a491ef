"""Plain Transformers (A), vLLM (B) and vLLM behind Gatehouse with everything on (C), on one host with two GPUs.

usage: python bench/two_gpus/compare.py --config FILE --run FOLDER --out FOLDER SCENARIO …

    start       start what is not there yet: Redis, A, `gatehouse up` (B and C), gateways with 2 and 4 workers
    ready       wait until all of it is; phases with times, the engine's argv, GPU memory, the first user's TTFT
    streams     B beside C: 1, 16, 63, 256 and 512 streams of 256 tokens
    workers     B beside C with 1, 2 and 4 workers, 256 streams; the gateway's CPU per token
    shapes      B beside C: 5,000 tokens out, 7,000 in, 90 % of the prompt shared
    plain       A: one request, and how many at once
    reference   `vllm bench serve` beside `gatehouse bench` on B
    most        how many streams before the 95th percentile of TTFT is over two seconds, B and C
    fairness    a chat user among 256 batch streams: at the engine alone, and through the gateway's priorities
    stop        stop everything; what is left must be nothing

The servers run on when this program ends: scenarios may be run one call after another. Each writes OUT/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))
from host import Gatehouse, Server, Watch, alive, cpu_seconds, gpu_memory

from gatehouse.bench.client import Target
from gatehouse.bench.load import Generator, Load, Round, generator, interleave
from gatehouse.bench.report import difference, figures
from gatehouse.bench.workload import Workload

ENGINE_PORT, PLAIN_PORT, REDIS_PORT = 18000, 18001, 18002
PATIENCE = 590.0
WORKERS = (2, 4)
UNLIMITED = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrent_requests"))
LAUNCHER_OF_GATEWAYS = "serve"


class Scenarios:
    """The servers on this host, and what is measured on them."""

    def __init__(self, options: argparse.Namespace, generate: Generator) -> None:
        self.run: Path = options.run
        self.config: dict[str, Any] = yaml.safe_load(options.config.read_text())
        self.config["engine"] |= json.loads(options.engine)
        self.options, self.generate = options, generate
        self.main = Gatehouse(Server(self.run / LAUNCHER_OF_GATEWAYS))
        model = self.config["engine"].get("served_model_name", "gpt-oss-20b")
        scale = options.scale
        self.short = Workload(model, "completions", 128, max(256 // scale, 4))
        self.scale = scale

    # -- servers -------------------------------------------------------------------------------------------------

    def start(self) -> dict[str, Any]:
        """Start what is not there yet. A goes first: vLLM measures the memory that is left, and it must not change."""
        began = time.monotonic()
        redis = f"redis://127.0.0.1:{REDIS_PORT}/0"
        if not Server(self.run / "redis").processes:
            argv = [*self.options.redis.split(), "--port", str(REDIS_PORT), "--bind", "127.0.0.1", "--save", ""]
            Server.start(self.run / "redis", argv)
        if self.options.plain and not Server(self.run / "plain").processes:
            script = Path(__file__).with_name("transformers_server.py")
            argv = [*self.options.plain.split(), str(script), self.config["engine"]["model"], "--port", str(PLAIN_PORT)]
            Server.start(self.run / "plain", argv, **self.config["engine"].get("env", {}))
            _until(lambda: _answers(f"http://127.0.0.1:{PLAIN_PORT}/health"), 300, "A is loaded")
        plain_seconds, plain_mib = time.monotonic() - began, gpu_memory()
        if not self.main.server.processes:
            more = {"redis": {"url": redis}, "plans": {"service": UNLIMITED, "member": UNLIMITED}}
            config = {**self.config, **more, "engine": {**self.config["engine"], "port": ENGINE_PORT}}
            Gatehouse.start(self.main.server.folder, "up", config)
        return {"plain_loaded_s": round(plain_seconds, 1), "plain_gpu_mib": plain_mib}

    def ready(self) -> dict[str, Any]:
        """Wait for the engine; then the first user, before anything else was asked."""
        watch = Watch(self.main.state_dir)
        born = self.main.server.processes[0].create_time() - time.time() + time.monotonic()
        at = watch.until("ready", PATIENCE)
        phases: dict[str, float] = {}
        for when, status in watch.events:
            phases.setdefault(f"{status['state']} {status.get('phase') or ''}".strip(), round(when - born, 1))
        memory = gpu_memory()
        first = {}
        for name, load in {"one": Load(1, 1), "sixteen at once": Load(16, 16)}.items():
            first[name] = figures([self.generate.run(self.c(), self.short, load)])["ttft_ms"]
        for _ in range(2):
            later = figures([self.generate.run(self.c(), self.short, Load(1, 4))])["ttft_ms"]
        engine = next(p for p in self.main.server.processes if "serve" in p.cmdline())
        model = self.config["engine"]["model"]
        return {
            "ready_s": round(at - born, 1),
            "phases": phases,
            "gpu_mib": memory,
            # no secret and no path of this host
            "argv": [
                re.sub(r"(?<=--api-key=).*", "…", "MODEL" if word == model else word) for word in engine.cmdline()
            ],
            "first_user_ttft_ms": first,
            "later_user_ttft_ms": later,
        }

    def gateways(self) -> dict[str, Any]:
        """Gateways with more workers, before the same engine."""
        engine = {"kind": "external", "url": self.b().url, "api_key_file": str(self.main.state_dir / "engine.key")}
        shared = {name: value for name, value in self.config.items() if name not in {"engine", "gateway"}}
        plans = {"service": UNLIMITED, "member": UNLIMITED}
        for workers in WORKERS:
            folder = self.run / f"workers-{workers}"
            if not Server(folder).processes:
                config = {**shared, "engine": engine, "gateway": {"workers": workers}, "plans": plans}
                redis = {"url": f"redis://127.0.0.1:{REDIS_PORT}/0", "namespace": f"workers{workers}"}
                Gatehouse.start(folder, "gateway", {**config, "redis": redis}).listening()
        return {}

    def a(self) -> Target:
        """Plain Transformers."""
        return Target("A plain Transformers", f"http://127.0.0.1:{PLAIN_PORT}")

    def b(self) -> Target:
        """The engine alone."""
        return self.main.engine("B vLLM")

    def c(self, **who: str) -> Target:
        """The engine behind the gateway."""
        return self.main.target("C Gatehouse", **who)

    def stop(self) -> dict[str, Any]:
        """Stop everything, the engine first."""
        began = time.monotonic()
        tree = self.main.server.processes
        left = self.main.server.stop(signal.SIGINT, 180)
        seconds, memory = round(time.monotonic() - began, 1), gpu_memory()
        for name in ("plain", "workers-2", "workers-4", "redis"):
            left += Server(self.run / name).stop()
        return {"seconds": seconds, "left": left + alive(tree), "gpu_mib_after_engine": memory, "gpu_mib": gpu_memory()}

    # -- measurements --------------------------------------------------------------------------------------------

    def beside(self, targets: list[Target], workload: Workload, load: Load, rounds: int) -> list[dict[str, Any]]:
        """The same load on each in turns; the CPU time of gateways goes with it."""
        groups = {"C Gatehouse": self.main} | {
            f"C{each}": Gatehouse(Server(self.run / f"workers-{each}")) for each in WORKERS
        }
        cpu: dict[str, float] = {}

        def run(target: Target) -> Round:
            processes = groups[target.name].gateways() if target.name in groups else []
            before = cpu_seconds(processes)
            done = self.generate.run(target, workload, load)
            cpu[target.name] = cpu.get(target.name, 0.0) + cpu_seconds(processes) - before
            return done

        done = interleave(targets, rounds, run)
        rows = []
        for target in targets:
            row = figures([each for each in done if each.target == target.name])
            if target.name in groups and row["output_tokens"]:
                row["gateway_cpu_us_per_token"] = round(cpu[target.name] / row["output_tokens"] * 1e6, 2)
                row["gateway_cpu_share"] = round(cpu[target.name] / row["seconds"], 3)
            rows.append(row)
            _say(row)
        return rows

    def streams(self) -> dict[str, Any]:
        """Throughput and latency over the number of streams."""
        rows, differences = [], []
        for streams, requests, rounds in ((1, 6, 3), (16, 64, 3), (63, 252, 3), (256, 768, 4), (512, 1024, 2)):
            load = Load(max(streams // self.scale, 1), max(requests // self.scale, 2))
            self.generate.run(self.b(), self.short, replace(load, requests=load.concurrency))  # kernels are made here
            found = self.beside([self.b(), self.c()], self.short, load, rounds)
            rows += found
            differences.append(difference(*found))
        return {"results": rows, "differences": differences}

    def workers(self) -> dict[str, Any]:
        """What more gateway workers change."""
        self.gateways()
        more = [Gatehouse(Server(self.run / f"workers-{each}")).target(f"C{each}") for each in WORKERS]
        load = Load(max(256 // self.scale, 1), max(768 // self.scale, 2))
        self.beside(more, self.short, Load(16, 32 // self.scale or 1), 1)
        rows = self.beside([self.b(), self.c(), *more], self.short, load, 3)
        return {"results": rows, "differences": [difference(rows[0], row) for row in rows[1:]]}

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
        found = {}
        for name, (workload, load, rounds) in shapes.items():
            fewer = Load(max(load.concurrency // self.scale, 1), max(load.requests // self.scale, 2))
            rows = self.beside([self.b(), self.c()], replace(workload, seed=len(found) + 1), fewer, rounds)
            found[name] = {"results": rows, "difference": difference(*rows)}
        return found

    def plain(self) -> dict[str, Any]:
        """A: one request; then more at once, until the 95th percentile of TTFT is over two seconds."""
        workload = replace(self.short, output_tokens=max(64 // self.scale, 4))
        rows = self.beside([self.a()], workload, Load(1, 1), 1)[:0]
        for streams, requests in ((1, 3), (2, 4), (4, 8), (8, 8), (16, 16), (32, 32)):
            rows += self.beside([self.a()], workload, Load(streams, requests), 1)
            if rows[-1]["ttft_ms"]["p95"]["value"] > 2000 or rows[-1]["seconds"] > 60:
                break
        return {"results": rows}

    def most(self) -> dict[str, Any]:
        """How many at once before the 95th percentile of TTFT is over two seconds, B and C."""
        rows = []
        for streams in (768, 1024, 1536):
            load = Load(streams // self.scale, streams // self.scale)
            rows += self.beside([self.b(), self.c()], replace(self.short, output_tokens=128), load, 1)
        return {"results": rows}

    def reference(self) -> dict[str, Any]:
        """VLLM's own load generator on the same server under the same load."""
        engine = self.b()
        load = Load(16, 128 // self.scale)
        ours = self.beside([engine], self.short, load, 1)
        argv = [*self.config["engine"]["command"], "bench", "serve", "--backend", "openai", "--base-url", engine.url]
        argv += ["--endpoint", "/v1/completions", "--model", self.short.model]
        argv += ["--tokenizer", self.config["engine"]["model"]]
        argv += ["--dataset-name", "random", "--random-input-len", "128"]
        argv += ["--random-output-len", str(self.short.output_tokens), "--ignore-eos", "--num-prompts"]
        argv += [
            str(load.requests),
            "--max-concurrency",
            str(load.concurrency),
            "--percentile-metrics",
            "ttft,tpot,itl",
        ]
        environment = {**os.environ, **self.config["engine"].get("env", {}), "OPENAI_API_KEY": engine.api_key or ""}
        done = subprocess.run(argv, capture_output=True, text=True, timeout=200, env=environment, check=False)
        again = self.beside([engine], self.short, load, 1)
        theirs = (done.stdout + done.stderr).replace(self.config["engine"]["model"], "MODEL")[-3500:]
        return {"ours": [*ours, *again], "exit": done.returncode, "theirs": theirs}

    def fairness(self) -> dict[str, Any]:
        """A chat user's TTFT while 256 batch streams wait for 32 places."""
        found: dict[str, Any] = {"max_num_seqs": self.config["engine"].get("max_num_seqs")}
        batch = Load(max(256 // self.scale, 4), max(1024 // self.scale, 8))
        ways = {
            "through the gateway: member among service": (self.c(), self.c(subject="chat", plan="member")),
            "through the gateway: both service": (self.c(), self.c(subject="another", plan="service")),
            "at the engine alone": (self.b(), self.b()),
        }
        for name, (crowd, user) in ways.items():
            results: list[Round] = []

            def press(target: Target = crowd, into: list[Round] = results) -> None:
                into.append(self.generate.run(target, self.short, batch))

            thread = threading.Thread(target=press)
            thread.start()
            time.sleep(2)
            rounds: list[Round] = []
            with generator() as alone:
                while thread.is_alive() and len(rounds) < 40:
                    workload = replace(self.short, output_tokens=16, seed=99)
                    rounds.append(alone.run(user, workload, Load(1, 1)))
                    time.sleep(0.2)
            thread.join()
            found[name] = {"user": figures(rounds), "crowd": figures(results)}
            print(name, json.dumps(found[name]["user"]["ttft_ms"]), flush=True)
        return found


def _say(row: dict[str, Any]) -> None:
    brief = {key: row[key] for key in ("target", "concurrency", "output_tokens_per_second", "errors", "seconds")}
    ttft = {name: (row["ttft_ms"][name] or {}).get("value") for name in ("p50", "p99")}
    print(json.dumps(brief | {"ttft": ttft, "cpu": row.get("gateway_cpu_us_per_token")}), flush=True)


def _answers(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url, timeout=5).status == 200)
    except OSError:
        return False


def _until(true: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.2)


def main() -> int:
    """Run the scenarios that are named; an error in one is written down and the next goes on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("/tmp/gatehouse-two-gpus"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--redis", default=shutil.which("redis-server") or "redis-server")
    parser.add_argument("--plain", default="", help="interpreter for A; none: no A")
    parser.add_argument("--processes", type=int, default=8, help="processes that make the load")
    parser.add_argument("--engine", default="{}", help="JSON of further engine settings")
    parser.add_argument("--scale", type=int, default=1, help="divide every load by this, for a trial")
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no further scenario after so long")
    parser.add_argument("scenarios", nargs="+")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    began, failed = time.monotonic(), 0
    with generator(options.processes) as generate:
        scenarios = Scenarios(options, generate)
        for name in options.scenarios:
            if time.monotonic() - began > options.seconds:
                print(f"left out: {name}", flush=True)
                continue
            at = time.monotonic()
            try:
                found = getattr(scenarios, name)()
            except Exception as error:  # noqa: BLE001 - what the others measure is worth keeping
                found, failed = {"error": repr(error)}, failed + 1
                traceback.print_exc()
            found["scenario_s"] = round(time.monotonic() - at, 1)
            print(name, json.dumps(found)[:600], flush=True)
            (options.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
