"""The engine's counters, and the stall detector that reads them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.probe import Load, StallClock, parse_load

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="gpt-oss-20b"} 2.0
vllm:num_requests_running{engine="1",model_name="gpt-oss-20b"} 1.0
vllm:num_requests_waiting{engine="0",model_name="gpt-oss-20b"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="gpt-oss-20b",reason="capacity"} 4.0
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="gpt-oss-20b"} 31.0
vllm:iteration_tokens_total_count{engine="0",model_name="gpt-oss-20b"} 1.234e+03
vllm:iteration_tokens_total_sum{engine="0",model_name="gpt-oss-20b"} 9000.0
"""


def test_counters_are_summed_over_engines():
    """Several engines behind one address count as one; other metrics with like names do not."""
    load = parse_load(METRICS)
    assert load == Load(running=3, waiting=4, steps=1234)
    assert load is not None
    assert load.in_flight == 7


def test_a_page_without_vllm_metrics_is_no_load():
    """Not knowing is not the same as being idle."""
    assert parse_load("# nothing\nprocess_cpu_seconds_total 1.0\n") is None


def test_frozen_work_is_a_stall():
    """Requests in flight and no step for the limit: stalled; one step ends it."""
    clock = StallClock(120)
    assert not clock.observe(Load(0, 0, 5), 0)
    assert not clock.observe(Load(1, 0, 6), 10)
    assert not clock.observe(Load(1, 0, 6), 129)
    assert clock.observe(Load(1, 3, 6), 130)
    assert clock.observe(None, 131), "a failed look does not end a stall"
    assert not clock.observe(Load(1, 3, 7), 132)


def test_a_failed_look_is_not_idleness():
    """The clock runs on through looks that failed."""
    clock = StallClock(10)
    clock.observe(Load(1, 0, 6), 0)
    assert not clock.observe(None, 9)
    assert clock.observe(None, 10)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 300), st.integers(0, 50), st.integers(0, 50)), max_size=50))
def test_a_moving_engine_is_never_stalled(looks: list[tuple[float, int, int]]):
    """However full: an engine whose counter moves at each look, or that has no work, is not dead."""
    clock, at, steps = StallClock(120), 0.0, 0
    for wait, running, waiting in looks:
        at += wait
        steps += 1 if running + waiting else 0
        assert not clock.observe(Load(running, waiting, steps), at)
