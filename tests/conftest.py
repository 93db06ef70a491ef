"""What all tests share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.deaths import pytest_terminal_summary

# no verdict on a fact may depend on how busy the machine is
settings.register_profile("gatehouse", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gatehouse")

__all__ = ["pytest_terminal_summary"]

ENGINE = Path(__file__).parent / "engine"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in several processes, a file stays whole, and so do all tests of the one real engine."""
    for item in items:
        group = "engine" if ENGINE in item.path.parents else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder with a short name: a Unix socket's path has at most 107 characters, pytest's own folders take 60."""
    with tempfile.TemporaryDirectory(prefix="gatehouse-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
