"""Timeouts in a row, whichever workers they and the answers between them fell to."""

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from gateway.streak import MOST, Streak

events = st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60)  # worker, and whether it was answered


@given(events, st.permutations(range(4)))
def test_workers_together_are_as_one(happened: list[tuple[int, bool]], order: list[int]) -> None:
    """The timeouts of four workers since any was answered are those that one worker would have counted."""
    one, four = Streak(), [Streak() for _ in range(4)]
    for at, (worker, answered) in enumerate(happened, start=1):
        for streak in (one, four[worker]):
            (streak.answered if answered else streak.timed_out)(at)
    together = reduce(Streak.with_, [four[number] for number in order])
    assert len(together) == len(one)
    assert together == Streak(max([at for at, (_, ok) in enumerate(happened, 1) if ok], default=0), one.timed_out_at)


def test_it_does_not_grow_without_end() -> None:
    """So many are remembered, alone and together."""
    one, other = Streak(), Streak()
    for at in range(1, 3 * MOST):
        (one if at % 2 else other).timed_out(at)
    assert len(one.with_(other)) == MOST
    for at in range(3 * MOST):
        one.timed_out(at)
    assert len(one) == MOST
