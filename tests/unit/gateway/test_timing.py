"""The durations of a request, from its clocks."""

import pytest

from gateway.context import Usage
from gateway.timing import Timing
from tests.unit.gateway.exchanges import finished


def test_a_stream_has_every_duration() -> None:
    """Overhead and queue add up to what the client waited for; a hundred gaps lie between 101 tokens."""
    timing = Timing.of(finished(), ended=102.252)
    assert timing.duration == pytest.approx(2.252)
    assert timing.overhead == pytest.approx(0.002)
    assert timing.queue == pytest.approx(0.250)
    assert timing.ttft == pytest.approx(timing.overhead + timing.queue)
    assert timing.inter_token == pytest.approx(0.02)
    assert timing.tokens_per_second == pytest.approx(50)


def test_an_answer_in_one_piece_has_no_time_between_tokens() -> None:
    """Its speed counts from sending to the end."""
    timing = Timing.of(finished(stream=False, first_token_at=None), ended=101.012)
    assert (timing.inter_token, timing.ttft, timing.queue) == (None, None, None)
    assert timing.tokens_per_second == pytest.approx(100)


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_single_token_has_no_successor(tokens: int) -> None:
    """No mean of no gaps."""
    assert Timing.of(finished(usage=Usage(completion_tokens=tokens)), ended=103).inter_token is None


def test_a_request_that_was_never_sent_is_all_overhead() -> None:
    """A refusal's time was spent in the gateway alone; the end defaults to now."""
    timing = Timing.of(finished(sent_at=None, first_token_at=None, usage=Usage()))
    assert timing.overhead == timing.duration > 0
    assert timing.tokens_per_second is None
