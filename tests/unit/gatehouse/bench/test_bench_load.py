"""What is asked, how it is divided, and what it comes to."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.bench.client import Answer, Target
from gatehouse.bench.load import Load, Round, _allot, _split, interleave
from gatehouse.bench.report import difference, figures
from gatehouse.bench.workload import Workload


@given(st.integers(1, 50), st.integers(1, 200), st.integers(1, 8))
def test_a_load_is_divided_without_loss(concurrency: int, requests: int, processes: int) -> None:
    """The parts of a load sum up to it and none is empty."""
    parts = _split(Load(concurrency, requests, rate=6.0), processes)
    assert sum(part.concurrency for part in parts) == concurrency
    assert sum(part.requests for part in parts) == requests
    assert sum(part.rate or 0 for part in parts) > 5.99
    assert min(min(part.concurrency, part.requests) for part in parts) >= 1


@given(st.lists(st.integers(1, 500), min_size=1, max_size=5), st.integers(5, 16))
def test_loads_that_run_together_share_the_processes(sizes: list[int], processes: int) -> None:
    """All processes are given out, each load gets one, and no process of one could be better used by another."""
    given_out = _allot(sizes, processes)
    assert sum(given_out) == processes
    assert min(given_out) >= 1
    fullest = max(size / count for size, count in zip(sizes, given_out, strict=True))
    assert all(count == 1 or size / (count - 1) >= fullest for size, count in zip(sizes, given_out, strict=True))


def test_what_flows() -> None:
    """The first answer of each user is left out, in whatever order they came; of a rate, or of first ones only, none is."""
    answers = [_answer(began, began + 1, [1.0], 2) for began in (9.0, 0.0, 0.1, 5.0)]
    flowing = Round("it", Load(2, 4), answers).flowing
    assert [answer.began for answer in flowing.answers] == [5.0, 9.0]
    assert Round("it", Load(2, 4, rate=1.0), answers).flowing.answers == answers
    failed = Answer(0.05, 0.2, error="timeout")
    assert Round("it", Load(2, 4), [failed, *answers[1:]]).flowing.answers[0] is failed
    assert Round("it", Load(4, 4), answers).flowing.answers == answers


@given(st.integers(1, 300), st.floats(0, 1), st.integers(0, 1000))
def test_prompts_differ_after_what_they_share(words: int, shared: float, number: int) -> None:
    """A prompt has as many words as asked for, begins with the shared ones, and is the same when it is made again."""
    workload = Workload("m", input_tokens=words, shared_prefix=shared)
    one, other = workload.prompt(number).split(), workload.prompt(number + 1).split()
    same = round(words * shared)
    assert len(one) == len(other) == words
    assert one[:same] == other[:same]
    assert one == workload.prompt(number).split()
    if words - same > 20:
        assert one[same:] != other[same:]


def test_bodies_of_both_apis() -> None:
    """Chat and completions get what each asks for; the answer's length is forced only where wished."""
    chat = Workload("m", input_tokens=3, output_tokens=5).body(0)
    text = Workload("m", api="completions", ignore_eos=False, fields={"top_p": 0.5}).body(0)
    assert chat["messages"][0]["role"] == "user"
    assert (chat["max_tokens"], chat["ignore_eos"], chat["stream_options"]) == (5, True, {"include_usage": True})
    assert isinstance(text["prompt"], str)
    assert "ignore_eos" not in text
    assert text["top_p"] == 0.5


@given(st.integers(0, 10_000), st.integers(60, 300))
def test_answers_of_different_lengths_come_to_the_same_work(first: int, requests: int) -> None:
    """With a spread lengths lie where it says, differ from one request to the next, and sum up alike in any run of them."""
    workload = Workload("m", output_tokens=200, spread=0.5)
    lengths = [workload.answer_tokens(number) for number in range(first, first + requests)]
    assert 100 <= min(lengths) < max(lengths) <= 300
    assert all(one != other for one, other in pairwise(lengths))
    assert abs(sum(lengths) / requests - 200) < 4
    assert workload.body(first)["max_tokens"] == lengths[0]
    assert Workload("m", output_tokens=200).answer_tokens(first) == 200


def _answer(began: float, first: float, gaps: list[float], tokens: int, error: str | None = None) -> Answer:
    return Answer(began, first + sum(gaps), first, gaps, 7, tokens, error)


def test_the_figures_of_a_known_run() -> None:
    """Two answers of 3 tokens over 2 s and one that failed: the figures are those worked out by hand."""
    answers = [
        _answer(10.0, 10.5, [0.1, 0.1], 3),
        _answer(11.0, 11.5, [0.25, 0.25], 3),
        Answer(10.0, 10.1, error="429 rate_limit_exceeded"),
    ]
    found = figures([Round("it", Load(2, 3), answers)])
    assert found["seconds"] == 2.0
    assert (found["requests"], found["errors"]) == (3, {"429 rate_limit_exceeded": 1})
    assert found["requests_per_minute"] == 60.0
    assert (found["input_tokens"], found["output_tokens"], found["output_tokens_per_second"]) == (14, 6, 3.0)
    assert found["ttft_ms"]["p50"]["value"] == 500.0
    assert found["itl_ms"]["mean"] == 175.0
    assert found["tpot_ms"]["p99"]["value"] == 250.0
    assert found["tokens_per_second_of_a_stream"]["p50"]["value"] == 4.0
    json.dumps(found)


def test_throughput_while_all_streams_ran() -> None:
    """Counted from when all of them had begun until the first found no further request, in part of an answer, too."""
    answers = [_answer(0.0, 1.0, [9.0], 90), _answer(0.0, 2.0, [3.0], 30), _answer(5.0, 6.0, [6.0], 60)]
    assert Round("it", Load(2, 3), answers).full_tokens_per_second == pytest.approx((80 + 30 + 40) / 8)
    assert Round("it", Load(2, 3, rate=1.0), answers).full_tokens_per_second is None
    one_after_another = [_answer(0.0, 1.0, [1.0], 2), _answer(2.0, 4.0, [1.0], 2)]
    assert Round("it", Load(2, 2), one_after_another).full_tokens_per_second is None
    silent = Round("it", Load(2, 2), [answers[0], Answer(0.0, 1.0, error="timeout")])
    assert silent.full_tokens_per_second is None
    found = figures([Round("it", Load(2, 3), answers), silent])
    assert found["full_tokens_per_second_by_round"] is None


def test_no_round_begins_when_the_time_is_up() -> None:
    """The first round is always run, so that there is something to show; a round that has begun is run on each server."""
    targets = [Target("a", ""), Target("b", "")]
    ran = interleave(targets, 5, lambda target: Round(target.name, Load(1, 1), []), until=0.0)
    assert [each.target for each in ran] == ["a", "b"]


def test_the_difference_of_two_servers() -> None:
    """Lost throughput is a share of the first's, in all and round by round; added times are the second's minus it."""
    one = [Round("a", Load(1, 1), [_answer(0.0, 0.5, [0.5], 10)]) for _ in range(2)]
    other = [Round("b", Load(1, 1), [_answer(0.0, 0.75, [0.5], 10)]) for _ in range(2)]
    found = difference(figures(one), figures(other))
    assert found["throughput_lost_percent"] == 20.0
    assert found["throughput_lost_percent_by_round"] == [20.0, 20.0]
    assert found["throughput_lost_percent_typical"]["value"] == 20.0
    assert found["user_throughput_lost_percent_by_round"] == [20.0, 20.0]
    assert found["ttft_added_ms_p50"] == 250.0
    assert found["ttft_added_ms_p50_typical"]["value"] == 250.0
    assert found["itl_added_ms_p50"] == 0.0


def test_the_difference_under_different_loads() -> None:
    """What few users and many got in all is not compared; what each user got is."""
    few = [Round("a", Load(1, 1), [_answer(0.0, 0.5, [0.5], 10)])]
    many = [Round("b", Load(2, 2), [_answer(0.0, 0.75, [0.5], 10)] * 2)]
    found = difference(figures(few), figures(many))
    assert found["throughput_lost_percent"] is None
    assert found["throughput_lost_percent_by_round"] == found["full_throughput_lost_percent_by_round"] == []
    assert found["user_throughput_lost_percent_typical"]["value"] == 20.0
