"""What the engine is and how it is started: settings, and from them the command line and the environment. Pure.

Flags and variables are those of `vllm serve` (0.25 to 0.33), as its own `--help=all` prints them.
"""

import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

Seconds = Annotated[float, Field(gt=0)]
MAX_WARMUP_LENGTHS = 1024  # two for each multiple of 32 in a batch of 16,384 tokens

# Flags that would break what the gateway relies on: where the engine listens, who may talk to it, that it speaks
# HTTP and counts its steps. `--config` is here because any of the others could hide in the file it names.
REFUSED_FLAGS: dict[str, str] = {
    "--host": "set engine.host",
    "--port": "set engine.port",
    "--api-key": "Gatehouse makes the key and hands it over in the environment",
    "--uds": "the gateway reaches the engine at engine.host and engine.port",
    "--root-path": "the gateway calls the engine at its root",
    "--ssl-keyfile": "TLS ends at nginx",
    "--ssl-certfile": "TLS ends at nginx",
    "--ssl-ca-certs": "TLS ends at nginx",
    "--ssl-cert-reqs": "TLS ends at nginx",
    "--ssl-ciphers": "TLS ends at nginx",
    "--enable-ssl-refresh": "TLS ends at nginx",
    "--grpc": "the gateway speaks HTTP to the engine",
    "--headless": "the gateway speaks HTTP to the engine",
    "--config": "write its flags into engine.extra_args",
    "--disable-log-stats": "a hung engine is found by its metrics, which this turns off",
    "--model": "set engine.model",
    "--served-model-name": "set engine.served_model_name",
    "--tensor-parallel-size": "set engine.tensor_parallel_size",
    "-tp": "set engine.tensor_parallel_size",
    "--max-model-len": "set engine.max_model_len",
    "--gpu-memory-utilization": "set engine.gpu_memory_utilization",
    "--device-memory-utilization": "set engine.gpu_memory_utilization",
    "--enable-prefix-caching": "set engine.enable_prefix_caching",
    "--no-enable-prefix-caching": "set engine.enable_prefix_caching",
    "--scheduling-policy": "set engine.scheduling_policy",
    "--shutdown-timeout": "set engine.shutdown_timeout",
    "--max-num-seqs": "set engine.max_num_seqs",
    "--api-server-count": "set engine.api_servers",
    "--otlp-traces-endpoint": "set engine.otlp_traces_endpoint",
    "--enable-prompt-tokens-details": "it is always on: usage records need it",
    "--no-enable-prompt-tokens-details": "usage records need it",
    "--enable-request-id-headers": "it is always on: the log joins on the request id",
    "--no-enable-request-id-headers": "the log joins on the request id",
}
# Real vLLM flags that are also the beginning of a refused one: argparse takes an exact name before an abbreviation.
_EXACT_FLAGS = frozenset({"--model-impl", "--config-format"})
_OWNED_VARIABLES: dict[str, str] = {
    "VLLM_API_KEY": "Gatehouse makes the key",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "set engine.keep_alive_seconds",
}
_OWN_PREFIX = "GATEHOUSE_"  # the gateway's own settings, secrets among them: none of the engine's business


class LengthRange(BaseModel):
    """Lengths from `first` to `last`, both included, `step` tokens apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: int = Field(ge=1, description="The shortest prompt, in tokens.")
    last: int = Field(ge=1, description="No prompt is longer.")
    step: int = Field(32, ge=1, description="Tokens from one prompt to the next.")

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if self.last < self.first:
            raise ValueError(f"last must not be below first, {self.first}, got {self.last}")
        return self

    @property
    def lengths(self) -> range:
        """All of them."""
        return range(self.first, self.last + 1, self.step)


_Length = Annotated[
    Annotated[int, Tag("length")] | Annotated[LengthRange, Tag("range")],
    # a mistake is told of the kind that was meant, not of both
    Discriminator(lambda given: "range" if isinstance(given, dict | LengthRange) else "length"),
]


class EngineSettings(BaseModel):
    """The `engine:` section of gatehouse.yaml. Times are in seconds, sizes in the unit the name says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["vllm", "simulated", "external"] = Field(
        "vllm", description="vllm: started and kept alive here; simulated: the demo engine; external: watched only."
    )
    model: str = Field("openai/gpt-oss-20b", min_length=1, description="Hub name or path of the model.")
    served_model_name: str = Field("gpt-oss-20b", min_length=1, description="The name that clients ask for.")
    host: str = Field("127.0.0.1", min_length=1, description="Address the engine listens on; keep it on loopback.")
    port: int = Field(8000, ge=0, le=65535, description="Port the engine listens on; 0 picks a free one at start.")
    url: str | None = Field(None, description="Base URL of an external engine, such as http://10.0.0.7:8000.")
    api_key_file: Path | None = Field(
        None, description="File that holds the key an external engine asks for; the others get one made here."
    )
    tensor_parallel_size: int = Field(2, ge=1, description="GPUs the model is split over.")
    max_model_len: int = Field(8192, ge=1, description="Context length: prompt and answer together, in tokens.")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="Share of each GPU's memory vLLM may take.")
    enable_prefix_caching: bool = Field(True, description="Reuse the KV cache of equal prompt beginnings.")
    scheduling_policy: Literal["fcfs", "priority"] = Field(
        "priority", description="priority lets the gateway share the queue fairly; fcfs ignores its priorities."
    )
    shutdown_timeout: int = Field(20, ge=0, description="Seconds running requests get to finish when it is stopped.")
    max_num_seqs: int | None = Field(None, ge=1, description="Requests in one batch; null leaves it to vLLM.")
    api_servers: int = Field(1, ge=1, description="vLLM's HTTP processes, which turn tokens into text and JSON.")
    command: list[str] = Field(["vllm"], min_length=1, description="The vLLM program, perhaps of another environment.")
    extra_args: list[str] = Field([], description="Further `vllm serve` flags, passed through untouched.")
    env: dict[str, str] = Field({}, description="Further environment variables for the engine.")
    simulator: dict[str, bool | int | float | str] = Field(
        {}, description="Knobs of the simulated engine: `tokens_per_second: 50` becomes --sim-tokens-per-second 50."
    )
    otlp_traces_endpoint: str | None = Field(
        None,
        description="Collector of vLLM's own spans: http://HOST:4318/v1/traces, or http://HOST:4317 (gRPC).",
    )
    startup_timeout: Seconds = Field(1800, description="Longest start-up, a model download included.")
    stop_timeout: Seconds = Field(
        10, description="Wait after each TERM, beyond shutdown_timeout, before the next step."
    )
    kill_timeout: Seconds = Field(30, description="Wait for killed processes to be gone and GPU memory to be back.")
    health_interval: Seconds = Field(1, description="Time between two looks at /health and /metrics.")
    health_timeout: Seconds = Field(10, description="Longest wait for an answer of /health.")
    health_failures: int = Field(3, ge=1, description="Failed looks at /health in a row that make a dead engine.")
    stall_seconds: Seconds = Field(120, description="Work in flight and no step for so long: the engine hangs.")
    stall_grace_seconds: float = Field(5, ge=0, description="A stalled engine may come back for so long.")
    canary_seconds: float = Field(0, ge=0, description="Ask an idle engine for one token this often; 0 is never.")
    canary_timeout: Seconds = Field(60, description="Longest wait for the one-token answer that proves readiness.")
    restart_delay: Seconds = Field(10, description="First back-off after a failure; doubles with each further one.")
    restart_delay_max: Seconds = Field(300, description="Longest back-off.")
    crash_loop_failures: int = Field(5, ge=1, description="So many failures within crash_loop_seconds: stay down.")
    crash_loop_seconds: Seconds = Field(600, description="The window of crash_loop_failures.")
    warmup_batches: list[int] = Field([1, 8], description="Dummy requests sent at once before ready, in this order.")
    warmup_lengths: list[_Length] = Field(
        [], description="Prompts of so many tokens, or of a range of lengths, one after another, before ready."
    )
    warmup_prompts: list[str] = Field([], description="System prompts put into the prefix cache before ready.")
    warmup_timeout: Seconds = Field(300, description="Longest warm-up.")
    keep_alive_seconds: int = Field(
        75, ge=1, description="Idle time after which vLLM closes a connection; must exceed the gateway's own."
    )
    log_file_bytes: int = Field(20_000_000, ge=10_000, description="Size at which the engine's log file is rotated.")
    log_file_count: int = Field(5, ge=1, description="Rotated log files kept beside the current one.")

    @field_validator("extra_args")
    @classmethod
    def _refuse_contradictions(cls, args: list[str]) -> list[str]:
        wrong = [f"{arg.split('=')[0]}: {why}" for arg in args if (why := contradiction(arg))]
        if wrong:
            raise ValueError("may not hold " + "; ".join(wrong))
        return args

    @field_validator("otlp_traces_endpoint")
    @classmethod
    def _is_url(cls, endpoint: str | None) -> str | None:
        parts = urlsplit(endpoint or "http://none")
        if parts.scheme not in {"http", "https", "grpc"} or not parts.hostname:
            raise ValueError("must be a URL: http://HOST:4318/v1/traces for OTLP over HTTP, http://HOST:4317 for gRPC")
        return endpoint

    @field_validator("env")
    @classmethod
    def _refuse_owned_variables(cls, env: dict[str, str]) -> dict[str, str]:
        wrong = [f"{name}: {_OWNED_VARIABLES[name]}" for name in env if name in _OWNED_VARIABLES]
        if wrong:
            raise ValueError("may not hold " + "; ".join(wrong))
        return env

    @model_validator(mode="after")
    def _warm_up_fits(self) -> Self:
        ranges = self._warmup_ranges
        if any(not 0 < lengths[0] <= lengths[-1] < self.max_model_len for lengths in ranges):
            raise ValueError(f"warmup_lengths must lie between 1 and {self.max_model_len - 1}, below max_model_len")
        if (count := sum(map(len, ranges))) > MAX_WARMUP_LENGTHS:
            raise ValueError(f"warmup_lengths are {count} prompts, more than {MAX_WARMUP_LENGTHS}: take larger steps")
        return self

    @model_validator(mode="after")
    def _url_fits_kind(self) -> Self:
        if self.kind != "external":
            for key in ("url", "api_key_file"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} is for kind: external only")
            return self
        parts = urlsplit(self.url or "")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("kind: external needs url, such as http://10.0.0.7:8000")
        return self

    @property
    def _warmup_ranges(self) -> list[range]:
        return [one.lengths if isinstance(one, LengthRange) else range(one, one + 1) for one in self.warmup_lengths]

    @property
    def warmup_prompt_lengths(self) -> list[int]:
        """`warmup_lengths` with all that its ranges stand for, in their order."""
        return list(chain.from_iterable(self._warmup_ranges))

    @property
    def owned(self) -> bool:
        """Whether the launcher starts and stops this engine, or only watches it."""
        return self.kind != "external"


def contradiction(arg: str) -> str | None:
    """Why this one of `extra_args` is refused, or None. Knows `--flag=value`, `--fl` and `--some_flag` too."""
    flag = arg.partition("=")[0]
    if not flag.startswith("-") or flag in {"-", "--"}:
        return None
    if not flag.startswith("--"):
        return REFUSED_FLAGS["-tp"] if flag.startswith("-tp") else None
    flag = flag.replace("_", "-")
    if flag in REFUSED_FLAGS:
        return REFUSED_FLAGS[flag]
    if flag in _EXACT_FLAGS:
        return None
    return next((why for name, why in REFUSED_FLAGS.items() if name.startswith(flag)), None)


def engine_argv(settings: EngineSettings, port: int) -> list[str]:
    """Build the command line that starts the engine on `port`, without secrets: `ps` shows it to everybody."""
    simulated = settings.kind == "simulated"
    command = [sys.executable, "-m", "launcher.simulator"] if simulated else list(settings.command)
    argv = [
        *command,
        "serve",
        settings.model,
        *("--host", settings.host),
        *("--port", str(port)),
        *("--served-model-name", settings.served_model_name),
        *("--tensor-parallel-size", str(settings.tensor_parallel_size)),
        *("--max-model-len", str(settings.max_model_len)),
        *("--gpu-memory-utilization", str(settings.gpu_memory_utilization)),
        "--enable-prefix-caching" if settings.enable_prefix_caching else "--no-enable-prefix-caching",
        *("--scheduling-policy", settings.scheduling_policy),
        *("--shutdown-timeout", str(settings.shutdown_timeout)),
        "--enable-prompt-tokens-details",
        "--enable-request-id-headers",
    ]
    if settings.max_num_seqs is not None:
        argv += ["--max-num-seqs", str(settings.max_num_seqs)]
    if settings.api_servers > 1:
        argv += ["--api-server-count", str(settings.api_servers)]
    if settings.otlp_traces_endpoint is not None:
        argv += ["--otlp-traces-endpoint", settings.otlp_traces_endpoint]
    if simulated:
        argv += _simulator_flags(settings.simulator)
    return [*argv, *settings.extra_args]


def _simulator_flags(knobs: Mapping[str, bool | int | float | str]) -> list[str]:
    flags: list[str] = []
    for knob, value in knobs.items():
        flag = "--sim-" + knob.replace("_", "-")
        if value is True:
            flags.append(flag)
        elif value is not False:
            flags += [flag, str(value)]
    return flags


def engine_environment(settings: EngineSettings, api_key: str, base_env: Mapping[str, str]) -> dict[str, str]:
    """Build the engine's environment: `base_env` less Gatehouse's own variables, the key, and what the settings add."""
    kept = {name: value for name, value in base_env.items() if not name.startswith(_OWN_PREFIX)}
    return {
        **kept,
        "NO_COLOR": "1",  # the log file and the progress parser want plain text
        "VLLM_LOGGING_COLOR": "0",
        "PYTHONUNBUFFERED": "1",  # phases are read from its output while they happen
        **_otlp_protocol(settings.otlp_traces_endpoint),
        **settings.env,
        "VLLM_API_KEY": api_key,
        # vLLM's default of 5 s closes connections that the gateway is about to reuse
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(settings.keep_alive_seconds),
    }


def _otlp_protocol(endpoint: str | None) -> dict[str, str]:
    """The variable by which vLLM chooses its exporter: an address with a path is that of HTTP."""
    if endpoint is None:
        return {}
    over_http = urlsplit(endpoint).path not in {"", "/"}
    return {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf" if over_http else "grpc"}


def engine_url(settings: EngineSettings, port: int) -> str:
    """Give the base URL at which the engine answers, without a trailing slash."""
    if settings.url is not None:
        return settings.url.rstrip("/")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - mapped away
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
