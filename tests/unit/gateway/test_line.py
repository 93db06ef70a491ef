"""How fast the waiting line moves, and who was told to come again."""

import pytest

from gateway.line import Promises, Speed


def taught(*looks: tuple[float, float, int]) -> Speed:
    """One that has seen these: time, first tokens ever, waiting."""
    speed = Speed()
    for look in looks:
        speed.learn(*look)
    return speed


def test_without_anybody_leaving_the_line_nothing_is_known() -> None:
    """Before anybody waited, with a single look, and while it stands still; how long it has been watched is known."""
    for looks in ((), ((0, 100, 5),), ((0, 3, 9), (8, 3, 9))):
        assert taught(*looks).seconds(7) is None
    assert taught((0, 3, 9), (8, 3, 9)).watched == 8


def test_the_speed_is_what_left_the_line() -> None:
    """40 first tokens in 10 s of waiting: ten more take two and a half seconds."""
    assert taught(*((at / 2, 2 * at, 9) for at in range(21))).seconds(10) == pytest.approx(2.5)


def test_the_filling_of_free_places_is_not_the_lines_speed() -> None:
    """256 that found a free place at once say nothing about how soon one becomes free."""
    assert taught((0, 0, 0), (0.5, 256, 40), (10.5, 266, 40), (11, 300, 0)).seconds(5) == pytest.approx(5)


def test_what_is_long_ago_fades() -> None:
    """After a minute at the new speed the old one is forgotten."""
    old = [(float(at), 10.0 * at, 5) for at in range(60)]
    new = [(60.0 + at, 600 + 1.0 * at, 5) for at in range(90)]
    assert taught(*old, *new).seconds(10) == pytest.approx(10, rel=0.05)


def test_another_engine_counts_from_zero() -> None:
    """A counter that is smaller than before belongs to another engine: nothing is learned from that step."""
    assert taught((0, 900, 5), (1, 910, 5), (2, 0, 5), (3, 10, 5)).seconds(10) == pytest.approx(1.0)


def test_promises_count_until_they_are_due_and_for_whom_they_precede() -> None:
    """Batch that was sent away does not keep people waiting; people who were do keep batch waiting."""
    promises = Promises()
    for due, priority in ((10, 0), (20, 10), (30, 0)):
        promises.add(due, priority)
    assert [promises.ahead(5, priority) for priority in (0, 10)] == [2, 3]
    assert [promises.ahead(10, priority) for priority in (0, 10)] == [1, 2]
    assert [promises.ahead(25, priority) for priority in (0, 10)] == [1, 1]
    assert promises.ahead(30, 10) == 0
