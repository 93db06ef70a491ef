"""The figures of several workers as one gateway's."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import Metrics
from gateway.workers.sums import HIGHEST, LOWEST, Sums, families
from tests.unit.gateway.exchanges import finished


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def gateway_metrics() -> Metrics:
    return Metrics(models=["gpt-oss-20b"], plans=["member"], version="1")


async def test_one_worker_alone_is_told_as_it_is() -> None:
    """The text made of one worker's figures is the text that it makes itself."""
    metrics = gateway_metrics()
    for number in range(5):
        metrics.observe(finished(number))
    sums = Sums()
    sums.add(families(metrics.registry))
    told, own = samples(sums.text()), samples(await metrics.expose())
    assert told.keys() == own.keys()
    differing = {name for name, labels in told if told[name, labels] != own[name, labels]}
    assert all(name.startswith("gatehouse_process_") for name in differing)  # those move meanwhile


def test_what_has_ended_counts_but_is_no_gauge() -> None:
    """Counters and histograms of a worker that ended stay; its gauges go with it."""
    registry = CollectorRegistry()
    Counter("c", "", ("k",), registry=registry).labels("a").inc(3)
    Histogram("h", "", buckets=(1, 2), registry=registry).observe(1.5)
    Gauge("g", "", registry=registry).set(7)
    sums = Sums()
    sums.keep(families(registry))
    copy = sums.copy()
    copy.add(families(registry))
    ended, both = samples(sums.text()), samples(copy.text())
    assert ended["c_total", (("k", "a"),)] == 3
    assert both["c_total", (("k", "a"),)] == 6
    assert (ended["h_bucket", (("le", "2.0"),)], both["h_bucket", (("le", "2.0"),)]) == (1, 2)
    assert ("g", ()) not in ended
    assert both["g", ()] == 7


def test_the_exceptions_exist() -> None:
    """What is not summed up is a gauge that the gateway has."""
    gauges = {family.name for family in families(gateway_metrics().registry) if family.kind == "gauge"}
    assert gauges >= HIGHEST | LOWEST
