"""Pure: the most that any window of time saw. Times are whole microseconds of one clock."""

from collections.abc import Iterable, Sequence


def most_backlog(charges: Sequence[tuple[int, int, int]]) -> int:
    """The largest, over all windows, of what was charged in it less the window's length: the backlog it had.

    A charge is (not before, not after, cost), cost in microseconds of backlog. A window opens when its first charge may
    first have happened, and closes when its last surely had: what is found is no more than there was.
    """
    worst = total = least = 0
    for at, (began, got, cost) in enumerate(sorted(charges)):
        least = min(least, total - began) if at else total - began
        total += cost
        worst = max(worst, total - got - least)
    return worst


def most_at_once(spans: Iterable[tuple[int, int]]) -> int:
    """How many of the spans (begin, end) overlap at the worst moment; an end and a begin at one moment do not."""
    running = most = 0
    for _, change in sorted(event for begin, end in spans for event in ((begin, 1), (end, -1))):
        running += change
        most = max(most, running)
    return most
