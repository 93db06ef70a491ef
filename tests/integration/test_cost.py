"""What a request and a chunk cost, in CPU time and beside nginx in the same run: a guard against doing far too much.

No clock on the wall is read: other work on the machine makes both dearer, and their ratio moves little. The bounds are
wide (the ratios are printed; docs/performance.md has what is normal); what they catch is a step that was lost, such as a
connection made anew for each request, or a body parsed for each chunk.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

import pytest

from bench.gateway.measures import Bench, chunk, request, started
from bench.gateway.peers import gatehouse, nginx
from tests.support.needs import missing
from tests.support.nginx import nginx_path
from tests.support.redis_server import server_binary

ROUNDS = 3
# seen: 9 and 2; before a request took a third less, 15, and 34 on a machine with twelve waiting for its two cores
REQUEST_BOUND, CHUNK_BOUND = 50.0, 12.0


@pytest.fixture(scope="module")
def mock() -> Iterator[Bench]:
    """The mock engine and the load generator, built and started."""
    if shutil.which("cc") is None:
        missing("cc")
    server_binary()
    nginx_path()
    with started(seconds=0.5) as bench:
        yield bench


def test_requests_and_chunks_cost_no_more_than_so_many_times_nginx(
    mock: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokens, limits in Redis, record, metrics, usage metered and taken out: all on, one worker."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(mock.before(start)) for start in (nginx, gatehouse())]
        ratios = {}
        for measure, bound in ((request, REQUEST_BOUND), (chunk, CHUNK_BOUND)):
            costs: list[list[float]] = [[], []]
            for _ in range(ROUNDS):
                for peer, known in zip(peers, costs, strict=True):
                    known.append(measure(mock, peer)["cpu_us"] or 0.0)
            theirs, ours = map(min, costs)
            ratios[measure.__name__] = (ours / theirs, bound)
            with capsys.disabled():
                print(f"\n{measure.__name__}: {ours:.0f} us, nginx {theirs:.1f} us: {ours / theirs:.1f} times")
    for name, (ratio, bound) in ratios.items():
        assert ratio < bound, f"{name}: {ratio:.1f} times nginx's CPU time; at most {bound} are allowed"
