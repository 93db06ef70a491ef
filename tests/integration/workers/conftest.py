"""What the tests of several workers share."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.engines import Simulator, simulator
from tests.support.redis_server import RedisServer, running_redis


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A real Redis."""
    with running_redis() as server:
        yield server


@pytest.fixture
async def engine() -> AsyncIterator[Simulator]:
    """An engine that answers at once, or as its knobs say."""
    async with simulator() as engine:
        yield engine
