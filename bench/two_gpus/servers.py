"""The servers that are compared: A plain Transformers, B vLLM, C the same vLLM behind Gatehouse with everything on.

They run on when the program that started them ends, each in a folder below `--run`.
"""

from __future__ import annotations

import argparse
import math
import re
import signal
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from host import Gatehouse, Server, Watch, alive, gpu_memory

from gatehouse.bench.client import Target
from gatehouse.bench.load import Generator, Load
from gatehouse.bench.report import figures
from gatehouse.bench.workload import Workload

ENGINE_PORT, PLAIN_PORT, REDIS_PORT = 18000, 18001, 18002
READY_SECONDS = 590.0
LOOK_SECONDS = 5.0  # between two looks whether what shall become ready still lives
PLAIN_SECONDS = 120.0  # for A to load, and for an answer of it
WORKERS = (2, 4)
UNLIMITED = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrent_requests"))
_LAUNCHER = "serve"  # the folder of `gatehouse up`


class Servers:
    """Starts, finds and stops them; the file `--engine` overrides the engine's configuration."""

    def __init__(self, options: argparse.Namespace, generate: Generator) -> None:
        self.run: Path = options.run
        self.config: dict[str, Any] = yaml.safe_load(options.config.read_text())
        if options.engine is not None:
            self.config["engine"] |= yaml.safe_load(options.engine.read_text())
        self.options, self.generate = options, generate
        self.main = Gatehouse(Server(self.run / _LAUNCHER))
        self.scale: int = options.scale
        self.until = math.inf  # the moment after which the present scenario begins no further round
        model = self.config["engine"].get("served_model_name", "gpt-oss-20b")
        self.short = Workload(model, "completions", 128, max(256 // self.scale, 4))

    @property
    def places(self) -> int | None:
        """How many requests the engine runs at once, where that is limited."""
        return self.config["engine"].get("max_num_seqs")

    def start(self) -> dict[str, Any]:
        """Start what is not there yet of Redis and `gatehouse up`."""
        if not Server(self.run / "redis").processes:
            argv = [*self.options.redis.split(), "--port", str(REDIS_PORT), "--bind", "127.0.0.1", "--save", ""]
            Server.start(self.run / "redis", argv)
        if not self.main.server.processes:
            more = {"redis": {"url": f"redis://127.0.0.1:{REDIS_PORT}/0"}, "plans": _plans()}
            config = {**self.config, **more, "engine": {**self.config["engine"], "port": ENGINE_PORT}}
            Gatehouse.start(self.main.server.folder, "up", config)
        return {}

    def start_plain(self) -> Server:
        """Start A, alone on the GPUs: it takes tens of GB more than its weights while it answers."""
        server = Server(self.run / "plain")
        script = Path(__file__).with_name("transformers_server.py")
        argv = [*self.options.plain.split(), str(script), self.config["engine"]["model"], "--port", str(PLAIN_PORT)]
        Server.start(server.folder, argv, **self.config["engine"].get("env", {}))
        _until(lambda: _answers(f"http://127.0.0.1:{PLAIN_PORT}/health"), PLAIN_SECONDS, "A is loaded")
        return server

    def ready(self) -> dict[str, Any]:
        """Wait for the engine; then the first user, before anything else was asked."""
        watch = Watch(self.main.state_dir)
        born = self.main.server.processes[0].create_time() - time.time() + time.monotonic()
        at = self._ready(watch)
        phases: dict[str, float] = {}
        for when, status in watch.events:
            phases.setdefault(f"{status['state']} {status.get('phase') or ''}".strip(), round(when - born, 1))
        memory = gpu_memory()
        first = {streams: [self._first_users(streams) for _ in range(3)] for streams in (1, 16)}
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
            "first_users": first,  # of so many at once: the first time, the second, the third
        }

    def _ready(self, watch: Watch) -> float:
        end = time.monotonic() + READY_SECONDS
        while True:
            try:
                return watch.until("ready", LOOK_SECONDS)
            except TimeoutError:
                lost = watch.now["state"] in {"restarting", "failed"} or not self.main.server.processes
                if lost or time.monotonic() > end:
                    raise RuntimeError(f"not ready: {watch.now} {self.main.said()[-2000:]}") from None

    def _first_users(self, streams: int) -> dict[str, Any]:
        before = self.kernels()
        workload = replace(self.short, input_tokens=1500 // self.scale)
        row = figures([self.generate.run(self.c(), workload, Load(streams, streams))])
        return {"ttft_ms": row["ttft_ms"], "kernels_made": self.kernels() - before}

    def kernels(self) -> int:
        """How many kernels lie in Triton's cache: one more is one that a request waited for."""
        folder = self.config["engine"].get("env", {}).get("TRITON_CACHE_DIR")
        return sum(1 for _ in Path(folder).rglob("*.cubin")) if folder else 0

    def gateways(self) -> None:
        """Start gateways with more workers, before the same engine."""
        engine = {"kind": "external", "url": self.b().url, "api_key_file": str(self.main.state_dir / "engine.key")}
        shared = {name: value for name, value in self.config.items() if name not in {"engine", "gateway"}}
        for workers in WORKERS:
            folder = self.run / f"workers-{workers}"
            if not Server(folder).processes:
                gateway = {**self.config["gateway"], "workers": workers}
                config = {**shared, "engine": engine, "gateway": gateway, "plans": _plans()}
                redis = {"url": f"redis://127.0.0.1:{REDIS_PORT}/0", "namespace": f"workers{workers}"}
                Gatehouse.start(folder, "gateway", {**config, "redis": redis}).listening()

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
        for name in (*(f"workers-{workers}" for workers in WORKERS), "redis"):
            left += Server(self.run / name).stop()
        return {"seconds": seconds, "left": left + alive(tree), "gpu_mib_after_engine": memory, "gpu_mib": gpu_memory()}


def _plans() -> dict[str, Any]:
    return {"service": UNLIMITED, "member": UNLIMITED}


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
