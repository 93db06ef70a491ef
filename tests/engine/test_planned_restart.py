"""A planned restart of the real engine, under load."""

import pytest

from tests.support.planned_restart import CALLERS, restart_under_load
from tests.support.stack import Stack

RESTART_SECONDS = 240


@pytest.mark.timeout(RESTART_SECONDS + 60, func_only=True)
async def test_no_request_is_lost(stack: Stack) -> None:
    """Eight callers on four APIs, streaming and not: each of their requests before, during and after is answered whole."""
    outcome = await restart_under_load(stack, tokens=200, seconds=RESTART_SECONDS)
    assert outcome.answers >= 2 * CALLERS  # of each caller one before, and one that waited or came after
