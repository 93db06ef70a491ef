"""When those who are sent away are told to come again."""

import math
from pathlib import Path

import pytest

from gateway.admission import Admission
from gateway.engine import Engine
from gateway.errors import Unavailable
from tests.support.gateways import configure
from tests.unit.gateway.exchanges import finished

ROOM = 10


async def told(admission: Admission, priority: int = 0) -> int:
    """What one more request is told."""
    with pytest.raises(Unavailable) as refused:
        await admission.admit(priority)
    return int(refused.value.headers["Retry-After"])


@pytest.fixture
def full(tmp_path: Path) -> Admission:
    """A line that is as long as it may be, as the engine has just said."""
    admission = Admission(Engine(configure("http://127.0.0.1:1", tmp_path)), ROOM, [0, 10])
    admission._waiting, admission._asked_at = ROOM, math.inf
    return admission


async def test_each_is_told_a_time_of_its_own(full: Admission) -> None:
    """One in ten seconds leaves the line: whoever is sent away later is told to come ten seconds later, up to a minute."""
    for look in ((0, 0, ROOM), (10, 1, ROOM)):
        full._speed.learn(*look)
    assert [await told(full) for _ in range(8)] == [10, 20, 30, 40, 50, 60, 60, 60]


async def test_batch_waits_for_people_and_people_do_not_wait_for_batch(full: Admission) -> None:
    """Batch is promised what is left over: the line must first become as short as batch may have it."""
    for look in ((0, 0, ROOM), (5, 1, ROOM)):
        full._speed.learn(*look)
    assert await told(full, priority=10) == 30  # five too many, and itself
    assert [await told(full) for _ in range(2)] == [5, 10]
    assert await told(full, priority=10) == 45


async def test_a_line_that_stands_still_is_looked_at_again_after_as_long(full: Admission) -> None:
    """Nobody has left it in eight seconds: nothing better is known than to try again in eight; at first, in one."""
    assert await told(full) == 1
    for look in ((0, 3, ROOM), (8, 3, ROOM)):
        full._speed.learn(*look)
    assert [await told(full) for _ in range(3)] == [8, 8, 8]


async def test_who_has_ended_since_the_engine_was_asked_does_not_wait(tmp_path: Path) -> None:
    """However many came and went, there is room; those that have not ended take it."""
    admission = Admission(Engine(configure("http://127.0.0.1:1", tmp_path)), ROOM, [0])
    for _ in range(10 * ROOM):
        assert admission.has_room(0)
        ended = finished()
        admission.enter(ended, 0)
        admission.leave(ended)
    running = [finished() for _ in range(ROOM)]
    for each in running:
        assert admission.has_room(0)
        admission.enter(each, 0)
    assert not admission.has_room(0)
    admission.leave(running[0])
    assert admission.has_room(0)
