"""The official clients against the simulated engine, through `gatehouse up`."""

from collections.abc import Iterator

import pytest

from tests.support import client_suite
from tests.support.client_suite.answers import *  # noqa: F403
from tests.support.client_suite.refusals import *  # noqa: F403
from tests.support.client_suite.wire import *  # noqa: F403
from tests.support.stack import SIMULATED, Stack, running_stack


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One product for all tests of this module."""
    with running_stack({"engine": SIMULATED}) as running:
        yield running


@pytest.fixture
def engine() -> client_suite.EngineTraits:
    """Which engine it is."""
    return client_suite.SIMULATED
