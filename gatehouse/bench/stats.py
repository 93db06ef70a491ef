"""Percentiles, with how sure they are."""

import math
from collections.abc import Sequence
from typing import NamedTuple

_Z95 = 1.959964  # of the standard normal distribution


class Percentile(NamedTuple):
    """A percentile and its 95 % confidence interval; None where too few samples were taken to bound it on that side."""

    value: float
    low: float | None
    high: float | None


def percentile(samples: Sequence[float], share: float) -> Percentile | None:
    """Give the sample that `share` (0 to 1) of all lie at or below; None without samples.

    The interval is the distribution-free one of order statistics: the number of samples below the true percentile is
    binomial, taken as normal (Hahn and Meeker, Statistical Intervals, chapter 5).
    """
    if not samples:
        return None
    ordered = sorted(samples)
    count = len(ordered)
    middle, spread = count * share, _Z95 * math.sqrt(count * share * (1 - share))
    value = ordered[max(math.ceil(middle), 1) - 1]
    low, high = math.floor(middle - spread), math.ceil(middle + spread) + 1  # ranks, from 1
    return Percentile(value, ordered[low - 1] if low >= 1 else None, ordered[high - 1] if high <= count else None)
