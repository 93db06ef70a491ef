"""Which metrics an expression asks for, and which there are."""

import re
from functools import cache
from pathlib import Path

from gateway.chat.metrics import ChatMetrics
from gateway.metrics import Metrics
from gateway.workers.metrics import ParentMetrics
from launcher.metrics import LauncherMetrics

CAPTURE = Path(__file__).parents[1] / "fixtures" / "vllm" / "cap" / "metrics_after.txt"  # of a real vLLM
OF_PROMETHEUS = {"up"}
OF_PROBER = {"probe_success", "probe_ssl_earliest_cert_expiry"}  # tests/integration/observe/test_prober.py
_NAME = re.compile(r"\b(?:gatehouse_|gatehouse:|vllm:|probe_)\w[\w:]*\b|\bup\b")


def metrics_of(expression: str) -> set[str]:
    """The metrics that an expression names; all of ours and vLLM's are known by their prefixes."""
    return set(_NAME.findall(re.sub(r'"[^"]*"', "", expression)))


@cache
def known_metrics() -> set[str]:
    """The names of all series: of the gateway, the launcher, vLLM and Prometheus itself."""
    text = CAPTURE.read_text("utf-8")
    names = set(re.findall(r"^# TYPE (vllm:\S+) (?:counter|gauge)$", text, re.MULTILINE))
    names |= {
        name + suffix
        for name in re.findall(r"^# TYPE (vllm:\S+) histogram$", text, re.MULTILINE)
        for suffix in ("_bucket", "_sum", "_count")
    }
    gateway = Metrics(models=["m"], plans=["p"], version="0")
    ChatMetrics(gateway.registry)
    for metrics in (gateway, ParentMetrics(2, lambda: 2), LauncherMetrics()):
        for family in metrics.registry.collect():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            names |= {family.name + suffix for suffix in suffixes}
    return names | OF_PROMETHEUS | OF_PROBER
