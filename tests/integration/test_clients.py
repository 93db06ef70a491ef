"""The official clients against the simulated engine, through `gatehouse up`."""

from collections.abc import Iterator

import pytest

from tests.support import client_suite
from tests.support.client_suite.answers import *  # noqa: F403
from tests.support.client_suite.callers import CALLERS
from tests.support.client_suite.refusals import *  # noqa: F403
from tests.support.client_suite.refusals import refused
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


@pytest.mark.parametrize("client", CALLERS)
def test_an_engine_that_is_not_ready_is_503(starting: Stack, client: str) -> None:
    """With gateway.hold_seconds 0, a request to an engine that is loading is the client's error of status 503, which
    says how long that may take.
    """
    error = refused(starting, client, "InternalServerError" if "openai" in client else "ServiceUnavailableError", 503)
    assert int(error.response.headers["retry-after"]) > 0
    assert not starting.ready()


@pytest.fixture(scope="module")
def starting() -> Iterator[Stack]:
    """A product whose engine takes longer to start than its tests."""
    engine = {**SIMULATED, "simulator": {**SIMULATED["simulator"], "startup": 600}}
    with running_stack({"engine": engine, "gateway": {"hold_seconds": 0}}, wait=False) as running:
        yield running
