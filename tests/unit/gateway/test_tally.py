"""Figures that are counted without prometheus_client's locks are those that it would have counted itself."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram

from gateway.tally import Spread, Tally

BUCKETS = (0.5, 1, 2.5)


@given(st.lists(st.sampled_from([0.0, 0.1, *BUCKETS, 0.50001, 2.0, 99.0, float("inf")]) | st.floats(0, 5)))
def test_a_spread_counts_as_the_histogram_would(values: list[float]) -> None:
    """The same buckets, bounds included, the same sum and count."""
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("h", "h", buckets=BUCKETS, registry=theirs)
    spread = Spread(Histogram("h", "h", buckets=BUCKETS, registry=ours))
    for value in values:
        histogram.observe(value)
        spread.observe(value)
    for at in (*map(str, map(float, BUCKETS)), "+Inf"):
        assert ours.get_sample_value("h_bucket", {"le": at}) == theirs.get_sample_value("h_bucket", {"le": at})
    assert ours.get_sample_value("h_sum") == theirs.get_sample_value("h_sum")
    assert ours.get_sample_value("h_count") == len(values)


def test_a_tally_counts_as_the_counter_would() -> None:
    """By one, and by an amount."""
    registry = CollectorRegistry()
    tally = Tally(Counter("c", "c", registry=registry))
    tally.add()
    tally.add(41)
    assert registry.get_sample_value("c_total") == 42
