"""Several processes, one real Redis, SIGKILL at random: the runs of bench/limits, shortened."""

import pytest

from bench.limits import over_http
from bench.limits.exact import exact
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


@pytest.mark.timeout(180)
async def test_the_same_over_http() -> None:
    """Two gateways that are killed in turn: what reached the engine exceeds no limit in any window, whoever comes again
    when told to is admitted, and after the last SIGKILL no lease lasts longer than a lease.
    """
    server_binary()
    report = await over_http.hammer(seconds=8, gateways=2, clients=24, kill_every=3)
    assert report["violations"] == []
    assert report["let_through"] > 50


@pytest.mark.timeout(180)
async def test_every_token_is_charged_once_whatever_dies() -> None:
    """Clients that leave, engine, gateways and Redis killed or stopped: record, SQL and Redis have what was on the wire.

    Only what a killed gateway had in flight has no line, and stays charged in Redis as it was reserved.
    """
    server_binary()
    report = await exact(seconds=0, gateways=2, clients=12)
    assert report["violations"] == []
    assert report["completion_tokens"]["record"] > 1000
    assert report["charged"]["redis_open_reservations_of_killed_gateways"] > 0
