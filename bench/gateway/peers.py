"""What stands between clients and the engine in a run: Gatehouse in its production form, nginx, other routers.

Each starts in a folder of its own, pinned to one core, and tells its port, its processes and the credentials it takes.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench.gateway.bodies import MODEL
from bench.gateway.host import cores, cpu, free_port, get, installed, memory, running, tree, until
from gateway.auth.keys import load_keys
from gateway.auth.tokens import issue_token
from gateway.config import Config, EngineTarget

MEASURED, REST = cores()
SUBJECTS = 64
# every limit is counted, none is reached
PLAN = {
    "requests_per_minute": 10_000_000,
    "tokens_per_minute": 10_000_000_000,
    "concurrent_requests": 1_000_000,
    "tokens_per_day": 10**14,
}
NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_buffer_size 256k; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 1024; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


@dataclass
class Running:
    """A peer that serves."""

    name: str
    port: int
    process: subprocess.Popen[bytes] | None = None  # none: nobody stands between
    options: list[str] = field(default_factory=list)  # of the load generator: credentials
    startup_seconds: float | None = None
    startup_cpu_seconds: float | None = None
    startup_mb: float | None = None
    admin: str | None = None  # base URL of the admin listener of a gateway whose limits are in Redis
    redis: str | None = None  # URL of that Redis
    log: Path | None = None  # its output
    others: bool = False  # it may fail under a load; that is a figure, too

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """While it is measured; at other times it is stopped, for some work hard at waiting.

        Gateways are left alone: they would find that Redis had not answered for too long.
        """
        if self.admin is not None or self.process is None:
            yield
            return
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)
        yield
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)

    @property
    def pids(self) -> list[int]:
        """Its processes now."""
        return tree(self.process.pid) if self.process else []


Peer = Callable[[Path, int], contextlib.AbstractContextManager[Running]]
"""Starts a peer: its folder, the port of the engine behind it."""


@contextlib.contextmanager
def direct(_folder: Path, engine: int) -> Iterator[Running]:
    """The engine itself."""
    yield Running("direct", engine)


@contextlib.contextmanager
def nginx(folder: Path, engine: int) -> Iterator[Running]:
    """One nginx worker that does nothing but proxy, its upstream connections kept."""
    port = free_port()
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, engine=engine, port=port), "utf-8")
    argv = [installed("nginx"), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(file)]
    with running(argv, folder / "output.log", on=MEASURED) as process:
        until("nginx", lambda: get(f"http://127.0.0.1:{port}/health"), process)
        yield Running("nginx", port, process)


@contextlib.contextmanager
def vllm_router(folder: Path, engine: int) -> Iterator[Running]:
    """vllm-project/router, in Rust: routes, and does nothing else. https://github.com/vllm-project/router"""
    port, prometheus = free_port(), free_port()
    argv = [installed("vllm-router"), "--worker-urls", f"http://127.0.0.1:{engine}", "--host", "127.0.0.1"]
    argv += ["--port", str(port), "--prometheus-port", str(prometheus), "--policy", "round_robin"]
    argv += ["--max-concurrent-requests", "4096", "--log-level", "error"]
    with running(argv, folder / "output.log", on=MEASURED) as process:
        until("vllm-router", lambda: get(f"http://127.0.0.1:{port}/health"), process)
        yield Running("vllm-router", port, process, others=True)


@contextlib.contextmanager
def litellm(folder: Path, engine: int) -> Iterator[Running]:
    """LiteLLM's proxy, one worker, as it comes: no tokens verified, no limits. https://github.com/BerriAI/litellm"""
    port, file = free_port(), folder / "litellm.yaml"
    to = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{engine}/v1", "api_key": "none"}
    config = {"model_list": [{"model_name": MODEL, "litellm_params": to}],
              "general_settings": {"dangerously_permit_weak_or_unset_master_key": True}}  # fmt: skip
    file.write_text(yaml.safe_dump(config), "utf-8")
    argv = [installed("litellm"), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    how = {"env": os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}, "cwd": folder}
    with running(argv, folder / "output.log", on=MEASURED, **how) as process:
        until("litellm", lambda: get(f"http://127.0.0.1:{port}/health/liveliness"), process)
        yield Running("litellm", port, process, others=True)


@contextlib.contextmanager
def portkey(folder: Path, engine: int) -> Iterator[Running]:
    """Portkey's gateway, which the package @portkey-ai/gateway calls `gateway`. https://github.com/Portkey-AI/gateway"""
    port = free_port()
    argv = [installed("gateway"), f"--port={port}", "--headless"]
    to = ["-H", "x-portkey-provider: openai", "-H", f"x-portkey-custom-host: http://127.0.0.1:{engine}/v1"]
    with running(argv, folder / "output.log", on=MEASURED, cwd=folder) as process:
        until("portkey", lambda: get(f"http://127.0.0.1:{port}/"), process)
        yield Running("portkey", port, process, to, others=True)


def python(name: str, module: str) -> Peer:
    """One of our own baselines, a module of this folder."""

    @contextlib.contextmanager
    def start(folder: Path, engine: int) -> Iterator[Running]:
        port = free_port()
        argv = [sys.executable, "-m", f"bench.gateway.{module}", str(port), str(engine)]
        with running(argv, folder / "output.log", on=MEASURED) as process:
            until(name, lambda: get(f"http://127.0.0.1:{port}/health"), process)
            yield Running(name, port, process)

    return start


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis without persistence; its URL."""
    socket = folder / "redis.sock"
    argv = [installed("redis-server"), "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
    with running(argv, folder / "redis.log", on=REST, cwd=folder) as process:
        until("redis-server", socket.exists, process)
        yield f"unix://{socket}"


def gatehouse(
    name: str = "gatehouse",
    *,
    without: tuple[str, ...] = (),
    checkout: Path | None = None,
    python: str = sys.executable,
) -> Peer:
    """`gatehouse gateway` as it runs in production, one worker: tokens, limits in Redis, record, metrics, metering.

    `without` takes layers out, for the budget (`bench.gateway.without`). `checkout`: that of another version.
    `python`: another environment's, such as one of requirements.lock alone: redis-py imports what the tests bring.
    """

    @contextlib.contextmanager
    def start(folder: Path, engine: int) -> Iterator[Running]:
        with contextlib.ExitStack() as stack:
            settings: dict[str, Any] = {
                "engine": {"kind": "external", "url": f"http://127.0.0.1:{engine}"},
                "gateway": {"port": 0, "admin_port": 0},
                "plans": {"service": PLAN, "member": PLAN},
                "logging": {"stdout": False},
            }
            if "redis" not in without:
                settings["redis"] = {"url": stack.enter_context(redis(folder)), "timeout_seconds": 0.1}
            if "limits" in without:
                settings["plans"] = {"service": {}, "member": {}}
            file, state = folder / "gatehouse.yaml", folder / "state"
            file.write_text(yaml.safe_dump(settings), "utf-8")
            state.mkdir(mode=0o700)
            module = (
                ["bench.gateway.without", ",".join(without)] if set(without) - {"redis", "limits"} else ["gatehouse"]
            )
            argv = [python, "-m", *module, "gateway", "--config", str(file), "--state-dir", str(state)]
            other = {"cwd": checkout, "env": os.environ | {"PYTHONPATH": str(checkout)}} if checkout else {}
            once = ["user", "list", "--config", str(file), "--state-dir", str(state)]  # makes the database
            subprocess.run([python, "-m", "gatehouse", *once], check=True, stdout=subprocess.DEVNULL, **other)
            begun = time.monotonic()
            process = stack.enter_context(running(argv, folder / "output.log", on=MEASURED, **other))
            until(name, (state / "gateway.json").exists, process)
            startup = time.monotonic() - begun, cpu([process.pid]) / 1e6, memory([process.pid])
            listening = json.loads((state / "gateway.json").read_text("utf-8"))
            until(name, lambda: get(listening["url"] + "/readyz"), process)
            tokens = folder / "tokens"
            tokens.write_text("\n".join(_tokens(state, engine)), "ascii")
            peer = Running(name, int(listening["url"].rpartition(":")[2]), process, ["-T", str(tokens)], *startup)
            if "redis" in settings:
                peer.admin, peer.redis = listening["admin_url"], settings["redis"]["url"]
            peer.log = folder / "output.log"
            yield peer

    return start


def _tokens(state: Path, engine: int) -> Iterator[str]:
    config = Config(state_dir=state, engine=EngineTarget(url=f"http://127.0.0.1:{engine}"))
    key = load_keys(config).signing
    for number in range(SUBJECTS):
        yield issue_token(key, config.auth, subject=f"service-{number}", ttl_seconds=86_400)[0]


PEERS: dict[str, Peer] = {
    "direct": direct,
    "nginx": nginx,
    "gatehouse": gatehouse(),
    "vllm-router": vllm_router,
    "litellm": litellm,
    "portkey": portkey,
    "floor": python("uvloop, unread", "floor"),
    "bare": python("aiohttp's server, our connection to the engine", "bare"),
}
