"""What the parent itself counts: its workers, and their deaths."""

from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

Exit = Literal["exited", "killed", "hung"]  # by itself; by a signal of another's; by the parent, for it hung
EXITS: tuple[Exit, ...] = ("exited", "killed", "hung")


class ParentMetrics:
    """`gatehouse_worker…`, in a registry of their own."""

    def __init__(self, wanted: int, running: Callable[[], int]) -> None:
        """`running` is asked at each scrape."""
        self.registry = CollectorRegistry()
        self._deaths = Counter(
            "gatehouse_worker_deaths", "Workers that died, by how they ended.", ["exit"], registry=self.registry
        )
        for exit_ in EXITS:
            self._deaths.labels(exit_)
        workers = Gauge("gatehouse_workers", "Workers that serve, and that should.", ["state"], registry=self.registry)
        workers.labels("running").set_function(running)
        workers.labels("wanted").set(wanted)

    def died(self, exit_: Exit) -> None:
        """Count a worker that has ended, and should not have."""
        self._deaths.labels(exit_).inc()

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
