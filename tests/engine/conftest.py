"""The real vLLM, started once by the launcher for all the tests here. It is installed where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import client_suite
from tests.support.collector import Collector, collector
from tests.support.real_engine import install, real_engine
from tests.support.stack import Stack, running_stack

HERE = Path(__file__).parent
TEST_SECONDS = 120
START_SECONDS = 300.0  # 25 to 45 s where nothing else runs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder; their time does not include that of the installation."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.engine)
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


@pytest.fixture(scope="session")
def otlp() -> Iterator[Collector]:
    """Where both halves send their spans."""
    with collector() as running:
        yield running


@pytest.fixture(scope="session")
def stack(otlp: Collector) -> Iterator[Stack]:
    """`gatehouse up` with the real vLLM; a request waits for a restarted one as long as that takes."""
    config = real_engine(*install())
    config["gateway"]["hold_seconds"] = START_SECONDS
    config["engine"]["otlp_traces_endpoint"] = otlp.endpoint
    config["tracing"] = {"endpoint": otlp.endpoint}
    with running_stack(config, ready_seconds=START_SECONDS) as running:
        yield running


@pytest.fixture
def engine() -> client_suite.EngineTraits:
    """Which engine it is."""
    return client_suite.REAL
