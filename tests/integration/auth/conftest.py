"""Fixtures of the identity tests on real sockets."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.auth.house import PASSWORD, House, config_at, serve


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A running house with the user Ada."""
    async for running in serve(config_at(tmp_path)):
        await running.users.add("Ada", PASSWORD, display_name="Ada L.", team="research", plan="member")
        yield running
