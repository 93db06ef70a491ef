"""Fixtures of the identity tests."""

import pytest

from tests.unit.gateway.auth.house import House


@pytest.fixture
def house() -> House:
    """A house with the default settings."""
    return House()
