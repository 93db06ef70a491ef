"""vLLM's `/metrics`: the same names, labels, buckets and order, counted by the simulated engine.

Written by hand rather than with prometheus_client, because the step observes latencies for hundreds of sequences
and because what is shown here has to look like vLLM 0.32 down to the `_created` series.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence

_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_ITERATION = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_TTFT = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TOKEN_LATENCY = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST_LATENCY = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0),
    *(480.0, 960.0, 1920.0, 7680.0),
)
FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")


class Histogram:
    """A Prometheus histogram without labels of its own."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self.name, self.text, self.bounds = name, text, bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.count = 0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value` `times` times."""
        self._counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times
        self.count += times

    def samples(self, labels: str) -> Iterable[str]:
        """The bucket, count and sum lines."""
        running = 0
        for bound, number in zip((*self.bounds, None), self._counts, strict=True):
            running += number
            le = "+Inf" if bound is None else str(float(bound))
            at, _, rest = labels.partition(",")
            yield f'{self.name}_bucket{{{at},le="{le}",{rest}}} {float(running)}'
        yield f"{self.name}_count{{{labels}}} {float(self.count)}"
        yield f"{self.name}_sum{{{labels}}} {float(self.sum)}"


class Metrics:
    """Everything the simulated engine counts. Counters are plain integers the engine adds to."""

    def __init__(self, model_name: str) -> None:
        self._labels = f'engine="0",model_name="{model_name}"'
        self._model = model_name
        self._created = time.time()
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generation_tokens = 0
        self.finished = dict.fromkeys(FINISH_REASONS, 0)
        self.running = 0
        self.waiting = 0
        self.kv_usage = 0.0
        self.sleeping = False

        def histogram(name: str, text: str, bounds: Sequence[float]) -> Histogram:
            return Histogram(f"vllm:{name}", text, bounds)

        self.request_prompt = histogram("request_prompt_tokens", "Number of prefill tokens processed.", _TOKENS)
        self.request_generation = histogram(
            "request_generation_tokens", "Number of generation tokens processed.", _TOKENS
        )
        self.iteration = histogram(
            "iteration_tokens_total", "Histogram of number of tokens per engine_step.", _ITERATION
        )
        self.request_max = histogram(
            "request_max_num_generation_tokens",
            "Histogram of maximum number of requested generation tokens.",
            _TOKENS,
        )
        self.request_n = histogram("request_params_n", "Histogram of the n request parameter.", (1, 2, 5, 10, 20))
        self.max_tokens = histogram(
            "request_params_max_tokens", "Histogram of the max_tokens request parameter.", _TOKENS
        )
        self.ttft = histogram("time_to_first_token_seconds", "Histogram of time to first token in seconds.", _TTFT)
        self.inter_token = histogram(
            "inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", _TOKEN_LATENCY
        )
        self.per_token = histogram(
            "request_time_per_output_token_seconds",
            "Histogram of time_per_output_token_seconds per request.",
            _TOKEN_LATENCY,
        )
        self.e2e = histogram(
            "e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", _REQUEST_LATENCY
        )
        self.queue_time = histogram(
            "request_queue_time_seconds",
            "Histogram of time spent in WAITING phase for request.",
            _REQUEST_LATENCY,
        )
        self.inference_time = histogram(
            "request_inference_time_seconds",
            "Histogram of time spent in RUNNING phase for request.",
            _REQUEST_LATENCY,
        )
        self.prefill_time = histogram(
            "request_prefill_time_seconds",
            "Histogram of time spent in PREFILL phase for request.",
            _REQUEST_LATENCY,
        )
        self.decode_time = histogram(
            "request_decode_time_seconds",
            "Histogram of time spent in DECODE phase for request.",
            _REQUEST_LATENCY,
        )
        self.preemptions = histogram(
            "request_num_preemptions",
            "Histogram of the number of times a request was preempted.",
            (1, 2, 3, 4, 5, 10, 20),
        )
        self.computed = histogram(
            "request_prefill_kv_computed_tokens",
            "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
            _TOKENS,
        )

    def exposition(self) -> bytes:
        """The text format that `GET /metrics` answers with."""
        lines: list[str] = []
        for name, text in (
            ("estimated_flops_per_gpu", "Estimated number of floating point operations per GPU"),
            ("estimated_read_bytes_per_gpu", "Estimated number of bytes read from memory per GPU"),
            ("estimated_write_bytes_per_gpu", "Estimated number of bytes written to memory per GPU"),
        ):
            self._counter(lines, name, text, [("", 0)])
        self._gauge(
            lines, "num_requests_running", "Number of requests in model execution batches.", [("", self.running)]
        )
        self._gauge(lines, "num_requests_waiting", "Number of requests waiting to be processed.", [("", self.waiting)])
        reasons = [(',reason="capacity"', self.waiting), (',reason="deferred"', 0)]
        self._gauge(lines, "num_requests_waiting_by_reason", "Number of waiting requests by reason.", reasons)
        states = [
            (f',sleep_state="{state}"', on)
            for state, on in (
                ("awake", not self.sleeping),
                ("weights_offloaded", self.sleeping),
                ("discard_all", False),
            )
        ]
        self._gauge(lines, "engine_sleep_state", "Engine sleep state; awake = 1 means it runs.", states)
        usage = [("", self.kv_usage)]
        self._gauge(lines, "kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", usage)
        for name, text, value in (
            ("prefix_cache_queries", "Prefix cache queries, in terms of number of tokens.", self.prompt_tokens),
            ("prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", self.cached_tokens),
            ("external_prefix_cache_queries", "External prefix cache queries from KV connector.", 0),
            ("external_prefix_cache_hits", "External prefix cache hits from KV connector.", 0),
            ("mm_cache_queries", "Multi-modal cache queries, in terms of number of items.", 0),
            ("mm_cache_hits", "Multi-modal cache hits, in terms of number of items.", 0),
            ("num_preemptions", "Cumulative number of preemption from the engine.", 0),
            ("prompt_tokens", "Number of prefill tokens processed.", self.prompt_tokens),
        ):
            self._counter(lines, name, text, [("", value)])
        computed = self.prompt_tokens - self.cached_tokens
        sources = [("local_compute", computed), ("local_cache_hit", self.cached_tokens), ("external_kv_transfer", 0)]
        self._counter(
            lines,
            "prompt_tokens_by_source",
            "Number of prompt tokens by source.",
            [(f',source="{source}"', value) for source, value in sources],
        )
        self._counter(lines, "prompt_tokens_cached", "Number of cached prompt tokens.", [("", self.cached_tokens)])
        tiers = ("device", "host", "p2p", "disk", "external_unspecified")
        self._counter(
            lines,
            "prompt_tokens_cached_by_source",
            "Number of cached prompt tokens by source.",
            [(f',source="{tier}"', self.cached_tokens if tier == "device" else 0) for tier in tiers],
        )
        self._counter(
            lines, "generation_tokens", "Number of generation tokens processed.", [("", self.generation_tokens)]
        )
        self._success(lines)
        for each in (
            *(self.request_prompt, self.request_generation, self.iteration, self.request_max, self.request_n),
            *(self.max_tokens, self.ttft, self.inter_token, self.per_token, self.e2e, self.queue_time),
            *(self.inference_time, self.prefill_time, self.decode_time, self.preemptions, self.computed),
        ):
            lines += [f"# HELP {each.name} {each.text}", f"# TYPE {each.name} histogram"]
            lines += each.samples(self._labels)
            self._created_series(lines, each.name, each.text, [self._labels])
        info = f'{{block_size="128",cache_dtype="auto",enable_prefix_caching="True",{self._labels}}} 1.0'
        lines += [
            "# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig",
            "# TYPE vllm:cache_config_info gauge",
            f"vllm:cache_config_info{info}",
        ]
        return ("\n".join(lines) + "\n").encode()

    def _success(self, lines: list[str]) -> None:
        text = "Count of successfully processed requests."
        lines += [f"# HELP vllm:request_success_total {text}", "# TYPE vllm:request_success_total counter"]
        labels = [f'engine="0",finished_reason="{reason}",model_name="{self._model}"' for reason in FINISH_REASONS]
        for each, value in zip(labels, self.finished.values(), strict=True):
            lines.append(f"vllm:request_success_total{{{each}}} {float(value)}")
        self._created_series(lines, "vllm:request_success", text, labels)
        name, text = "vllm:admission_rejections", "Count of requests rejected at admission."
        lines += [f"# HELP {name}_total {text}", f"# TYPE {name}_total counter"]
        labels = [
            f'model_name="{self._model}",reason="{reason}"'
            for reason in ("max_num_queued_reqs", "max_num_queued_tokens")
        ]
        lines += [f"{name}_total{{{each}}} 0.0" for each in labels]
        self._created_series(lines, name, text, labels)

    def _counter(self, lines: list[str], name: str, text: str, values: list[tuple[str, int]]) -> None:
        lines += [f"# HELP vllm:{name}_total {text}", f"# TYPE vllm:{name}_total counter"]
        lines += [f"vllm:{name}_total{{{self._labels}{extra}}} {float(value)}" for extra, value in values]
        self._created_series(lines, f"vllm:{name}", text, [self._labels + extra for extra, _ in values])

    def _gauge(self, lines: list[str], name: str, text: str, values: Sequence[tuple[str, float]]) -> None:
        lines += [f"# HELP vllm:{name} {text}", f"# TYPE vllm:{name} gauge"]
        lines += [f"vllm:{name}{{{self._labels}{extra}}} {float(value)}" for extra, value in values]

    def _created_series(self, lines: list[str], name: str, text: str, labels: list[str]) -> None:
        lines += [f"# HELP {name}_created {text}", f"# TYPE {name}_created gauge"]
        lines += [f"{name}_created{{{each}}} {self._created}" for each in labels]
