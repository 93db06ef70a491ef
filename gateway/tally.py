"""Counts on the request path, by the children of prometheus_client's metrics.

prometheus_client takes a lock for each figure, and looks for a histogram's bucket one by one: of what a request is
counted by, that was two thirds. Only the event loop's thread changes the figures that stand here, so no lock is needed;
a scrape, in its own thread, may see a request half counted, as it may with locks.
"""

# ruff: noqa: SLF001 - what `inc` and `observe` of the children change under their locks

from bisect import bisect_left

from prometheus_client import Counter, Histogram


class Tally:
    """A counter's child."""

    __slots__ = ("_value",)

    def __init__(self, child: Counter) -> None:
        self._value = child._value

    def add(self, amount: float = 1) -> None:
        """Count."""
        self._value._value += amount


class Spread:
    """A histogram's child."""

    __slots__ = ("_bounds", "_buckets", "_sum")

    def __init__(self, child: Histogram) -> None:
        self._bounds, self._buckets, self._sum = child._upper_bounds, child._buckets, child._sum

    def observe(self, value: float) -> None:
        """Count a value in the first bucket whose bound it does not exceed."""
        self._buckets[bisect_left(self._bounds, value)]._value += 1
        self._sum._value += value
