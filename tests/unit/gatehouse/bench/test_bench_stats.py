"""Percentiles and their confidence."""

import random

from hypothesis import given
from hypothesis import strategies as st

from gatehouse.bench.stats import percentile

SHARES = st.sampled_from([0.5, 0.9, 0.99])


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=300), SHARES)
def test_a_percentile_is_a_sample_that_its_share_lies_at_or_below(samples: list[float], share: float) -> None:
    """The value is one of the samples; at least the share lies at or below it, and less than the share below it."""
    found = percentile(samples, share)
    assert found is not None
    assert found.value in samples
    assert sum(each <= found.value for each in samples) >= share * len(samples) - 1e-9
    assert sum(each < found.value for each in samples) < share * len(samples) + 1e-9


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=300), SHARES)
def test_the_interval_holds_the_value(samples: list[float], share: float) -> None:
    """Low and high stand on either side of the value; a side that so few samples cannot bound is None."""
    found = percentile(samples, share)
    assert found is not None
    assert found.low is None or found.low <= found.value
    assert found.high is None or found.value <= found.high


def test_sixteen_samples_say_nothing_about_the_worst_percent() -> None:
    """The 99th percentile of few samples has no upper bound, and none of nothing is None."""
    assert percentile([float(each) for each in range(16)], 0.99) == (15.0, 14.0, None)
    assert percentile([], 0.5) is None


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 2,000 draws of 200 samples, the interval of the median of a known distribution misses it in about 5 %."""
    source = random.Random(7)
    missed = 0
    for _ in range(2000):
        found = percentile([source.expovariate(1.0) for _ in range(200)], 0.5)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        missed += not found.low <= 0.6931 <= found.high
    assert 0.03 < missed / 2000 < 0.06
