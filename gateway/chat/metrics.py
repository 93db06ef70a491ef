"""What the chat counts: its tabs, its runs, what it keeps of them."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.store.chat_rows import Status

ENDS = tuple(status for status in Status if status is not Status.RUNNING)


class ChatMetrics:
    """`gatehouse_chat_…`, in the worker's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._tabs = Gauge("gatehouse_chat_tabs", "Tabs that are connected.", registry=registry)
        self._runs = Gauge("gatehouse_chat_runs", "Answers of the chat that are being made.", registry=registry)
        self._bytes = Gauge("gatehouse_chat_replay_bytes", "Frames of runs that are kept in memory.", registry=registry)
        self._ended = Counter(
            "gatehouse_chat_runs_ended", "Answers of the chat that ended, by how.", ["status"], registry=registry
        )
        for status in ENDS:
            self._ended.labels(status.value)

    def watch(self, *, tabs: Callable[[], int], runs: Callable[[], int], replay_bytes: Callable[[], int]) -> None:
        """What to ask at each scrape."""
        self._tabs.set_function(tabs)
        self._runs.set_function(runs)
        self._bytes.set_function(replay_bytes)

    def ended(self, status: Status) -> None:
        """Count a run that has ended."""
        self._ended.labels(status.value).inc()
