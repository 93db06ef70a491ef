"""Several processes, one real Redis, workers SIGKILLed: the run of bench/limits/hammer.py, shortened."""

import pytest

from bench.limits.hammer import hammer
from tests.support.redis_server import server_binary


@pytest.mark.timeout(180)
def test_never_over_never_leaking_and_honest() -> None:
    """No limit is exceeded in any window, nothing is charged that was not used, and no lease outlives its time.

    A client that comes again exactly when it was told to is admitted, in at least 99 of 100 cases.
    """
    server_binary()
    report = hammer(seconds=10, workers=3, clients=12, kill_every=2.5, lease=2)
    assert report["violations"] == []
    assert report["killed"] >= 2
    assert report["got"] > 100
