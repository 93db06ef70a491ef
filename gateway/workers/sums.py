"""The metrics of several workers as one gateway's. Pure.

Counters and histograms are sums, over the workers that have ended, too: none goes back when a worker dies. Gauges are
sums of the living, but for those below.
"""

from collections.abc import Iterable, Iterator

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CUMULATIVE = frozenset({"counter", "histogram", "summary"})
# what one worker says holds for all, or the worst of them counts
HIGHEST = frozenset({
    "gatehouse_build_info",
    "gatehouse_engine_state",
    "gatehouse_event_loop_lag_seconds",
    "gatehouse_limiter_mode",
    "gatehouse_process_max_fds",
    "gatehouse_process_open_fds",  # of the fullest worker: that limit is each one's own
})  # fmt: skip
LOWEST = frozenset({"gatehouse_process_start_time_seconds"})


class Family(msgspec.Struct, array_like=True):
    """One metric of one worker."""

    name: str
    kind: str
    documentation: str
    samples: list[tuple[str, dict[str, str], float]]  # name, labels, value


def families(registry: CollectorRegistry) -> list[Family]:
    """Everything that a registry has now."""
    return [
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            [(sample.name, sample.labels, sample.value) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


class Sums:
    """Adds up families: `add` those of the living to a copy, `keep` what remains of those that have ended."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Family, dict[tuple[str, tuple[tuple[str, str], ...]], float]]] = {}

    def keep(self, last: Iterable[Family]) -> None:
        """Add what a worker had counted when it ended."""
        self.add(family for family in last if family.kind in CUMULATIVE)

    def add(self, some: Iterable[Family]) -> None:
        """Add one worker's figures."""
        for family in some:
            _, sums = self._found.setdefault(family.name, (family, {}))
            for name, labels, value in family.samples:
                key = (name, tuple(labels.items()))
                known = sums.get(key)
                sums[key] = value if known is None else _together(name, known, value)

    def set(self, name: str, value: float) -> None:
        """Put another figure in the place of a sum that makes no sense."""
        if name in self._found:
            self._found[name][1][name, ()] = value

    def copy(self) -> "Sums":
        """Another one, with the same sums so far."""
        other = Sums()
        other._found = {name: (family, dict(sums)) for name, (family, sums) in self._found.items()}
        return other

    def text(self) -> bytes:
        """Prometheus' text format."""
        registry = CollectorRegistry()
        registry.register(_Collected(list(self._metrics())))
        return generate_latest(registry)

    def _metrics(self) -> Iterator[Metric]:
        for family, sums in self._found.values():
            metric = Metric(family.name, family.documentation, family.kind)
            for (name, labels), value in sums.items():
                metric.add_sample(name, dict(labels), value)
            yield metric


def _together(name: str, one: float, other: float) -> float:
    if name in HIGHEST:
        return max(one, other)
    if name in LOWEST or name.endswith("_created"):
        return min(one, other)
    return one + other


class _Collected(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
