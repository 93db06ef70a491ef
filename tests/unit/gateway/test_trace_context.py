"""W3C Trace Context: what is continued, what is not."""

import pytest

from gateway.trace_context import TraceContext

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    "given", [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-03", f"cc-{TRACE}-{PARENT}-01-more"]
)
def test_a_callers_trace_is_continued(given: str) -> None:
    """Also in versions to come; of the flags only what is known is passed on."""
    place = TraceContext.of([given], 0.0)
    assert (place.trace_id, place.parent_id, place.sampled) == (int(TRACE, 16), int(PARENT, 16), True)
    assert place.header() == f"00-{TRACE}-{place.span_id:016x}-01"


@pytest.mark.parametrize(
    "given",
    [
        [],
        [""],
        [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01"],
        [f"ff-{TRACE}-{PARENT}-01"],
        [f"00-{TRACE}-{PARENT}-01-more"],
        [f"00-{'0' * 32}-{PARENT}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{TRACE.upper()}-{PARENT}-01"],
        [f"00-{TRACE}-{PARENT}-0١"],
        [f" 00-{TRACE}-{PARENT}-01"],
    ],
)
def test_what_is_malformed_counts_as_absent(given: list[str]) -> None:
    """A trace of its own begins."""
    place = TraceContext.of(given, 1.0)
    assert place.parent_id is None
    assert place.trace_id != int(TRACE, 16)
    assert place.sampled


def test_the_share_of_traces_that_begin_here() -> None:
    """None at 0, all at 1, about the share between; ids are never 0 and never the same."""
    places = [TraceContext.of([], 0.25) for _ in range(4000)]
    assert 800 < sum(place.sampled for place in places) < 1200  # 7 standard deviations
    assert len({place.trace_id for place in places} | {place.span_id for place in places}) == 8000
    assert not any(TraceContext.of([], 0.0).sampled for _ in range(100))
    assert all(TraceContext.of([], 1.0).sampled for _ in range(100))
