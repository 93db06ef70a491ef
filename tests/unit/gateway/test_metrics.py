"""The metrics: what one request adds, and that nothing a client sends makes a new series."""

import asyncio

import pytest

from gateway.context import Outcome, Principal, Usage, Via
from gateway.metrics import ENGINE_STATES, EXPECTED_REASONS, MOST_REASONS, Metrics
from gateway.timing import Timing
from tests.unit.gateway.exchanges import finished

SHAPE = {"route": "/v1/chat/completions", "model": "gpt-oss-20b", "plan": "member"}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(models=["gpt-oss-20b"], plans=["member", "service"], version="1.2.3")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def series(metrics: Metrics) -> int:
    return sum(len(family.samples) for family in metrics.registry.collect())


def test_a_request_is_counted_everywhere_once(metrics: Metrics) -> None:
    """One stream: requests, durations, first token, gaps between tokens, overhead, queue, tokens by kind."""
    exchange = finished()
    metrics.observe(exchange, Timing.of(exchange, ended=102.252))
    model_plan = {"model": "gpt-oss-20b", "plan": "member"}
    assert value(metrics, "gatehouse_requests_total", **SHAPE, status="200", outcome="complete") == 1
    assert value(metrics, "gatehouse_request_duration_seconds_sum", **SHAPE) == pytest.approx(2.252)
    assert value(metrics, "gatehouse_time_to_first_token_seconds_sum", **model_plan) == pytest.approx(0.252)
    assert value(metrics, "gatehouse_inter_token_latency_seconds_sum", **model_plan) == pytest.approx(0.02)
    assert value(metrics, "gatehouse_overhead_seconds_sum", route=SHAPE["route"]) == pytest.approx(0.002)
    assert value(metrics, "gatehouse_queue_seconds_sum", **model_plan) == pytest.approx(0.25)
    for kind, tokens in {"prompt": 12, "cached": 4, "completion": 101, "reasoning": 30}.items():
        assert value(metrics, "gatehouse_tokens_total", kind=kind, **model_plan) == tokens
    metrics.observe(exchange)
    assert value(metrics, "gatehouse_requests_total", **SHAPE, status="200", outcome="complete") == 2


def test_a_refused_request_has_a_reason_and_no_latencies(metrics: Metrics) -> None:
    """It does not make the engine's figures look better than they are."""
    metrics.observe(
        finished(outcome=Outcome.REJECTED, status=429, error_code="rate_limit_exceeded", sent_at=None,
                 first_token_at=None, usage=Usage())
    )  # fmt: skip
    assert value(metrics, "gatehouse_rejections_total", reason="rate_limit_exceeded") == 1
    assert value(metrics, "gatehouse_overhead_seconds_count", route=SHAPE["route"]) == 0
    assert value(metrics, "gatehouse_time_to_first_token_seconds_count", model="gpt-oss-20b", plan="member") == 0
    metrics.observe(finished(outcome=Outcome.REJECTED, error_code=None))
    assert value(metrics, "gatehouse_rejections_total", reason="none") == 1


def test_timeouts_in_a_row_end_with_an_answer_of_the_engine(metrics: Metrics) -> None:
    """A refusal between two timeouts does not break the row; a served request does."""
    steps = [
        (Outcome.TIMEOUT, 1.0, 1), (Outcome.TIMEOUT, 1.0, 2), (Outcome.REJECTED, None, 2), (Outcome.COMPLETE, None, 2),
        (Outcome.TIMEOUT, 1.0, 3), (Outcome.COMPLETE, 1.0, 0), (Outcome.COMPLETE, 1.0, 0), (Outcome.TIMEOUT, 1.0, 1),
    ]  # fmt: skip
    for outcome, sent_at, expected in steps:
        metrics.observe(finished(outcome=outcome, sent_at=sent_at))
        assert value(metrics, "gatehouse_consecutive_timeouts") == expected


def test_a_hundred_thousand_subjects_and_models_make_no_series(metrics: Metrics) -> None:
    """Subjects, teams, unknown models, plans and error codes: the number of series stays what it was."""
    exchange = finished(outcome=Outcome.REJECTED, error_code="model_not_found", status=404)

    def observe(number: int) -> None:
        exchange.principal = Principal(f"s{number}", f"t{number}", frozenset(), f"p{number}", (), None, Via.BEARER)
        exchange.model = f"m{number}"
        exchange.request_id = f"r{number}"
        metrics.observe(exchange)

    observe(0)
    before = series(metrics)
    for number in range(1, 100_000):
        observe(number)
    assert series(metrics) == before
    labels = {"route": SHAPE["route"], "model": "other", "plan": "none", "status": "404", "outcome": "rejected"}
    assert value(metrics, "gatehouse_requests_total", **labels) == 100_000


def test_only_configured_teams_have_series_of_their_own() -> None:
    """Without any there are none; with some, all others share `other`, and who has no team is `none`."""
    without = Metrics(models=[], plans=[], version="0")
    without.observe(finished())
    assert value(without, "gatehouse_team_requests_total", team="red") is None
    metrics = Metrics(models=[], plans=[], version="0", teams=["red"])
    for team in ("red", "blue", "green", None):
        metrics.observe(finished(principal=Principal("s", team, frozenset(), "p", (), None, Via.BEARER)))
    for team, times in (("red", 1), ("other", 2), ("none", 1)):
        assert value(metrics, "gatehouse_team_requests_total", team=team) == times
        assert value(metrics, "gatehouse_team_tokens_total", team=team, kind="prompt") == 12 * times
        assert value(metrics, "gatehouse_team_tokens_total", team=team, kind="completion") == 101 * times


def test_the_limiters_time_is_that_of_requests_it_was_asked_about(metrics: Metrics) -> None:
    """A request that never came to it says nothing."""
    metrics.observe(finished(limiter_seconds=None))
    metrics.observe(finished(limiter_seconds=0.002))
    assert value(metrics, "gatehouse_limiter_seconds_count") == 1
    assert value(metrics, "gatehouse_limiter_seconds_sum") == 0.002


def test_requests_near_the_end_of_a_budget_are_counted_by_plan(metrics: Metrics) -> None:
    """From 80 % on; there at 0 from the start, so that the first is an increase."""
    for used, times in ((0.0, 0), (0.79, 0), (0.8, 1), (1.0, 2)):
        metrics.observe(finished(budget_used=used))
        assert value(metrics, "gatehouse_near_budget_requests_total", plan="member") == times
    assert value(metrics, "gatehouse_near_budget_requests_total", plan="service") == 0


def test_error_codes_are_bounded(metrics: Metrics) -> None:
    """An engine that makes up codes fills `other`."""
    for number in range(MOST_REASONS + 100):
        metrics.observe(finished(outcome=Outcome.REJECTED, error_code=f"code{number}"))
    assert value(metrics, "gatehouse_rejections_total", reason="other") == 100 + len(EXPECTED_REASONS)
    assert value(metrics, "gatehouse_rejections_total", reason="code0") == 1


def test_a_model_becomes_a_label_once_it_is_served(metrics: Metrics) -> None:
    """Known models by name, unknown ones together, none as none; an outcome nobody set shows."""
    for model in ("new", None):
        metrics.observe(finished(model=model, principal=None, outcome=None))
    metrics.serve_model("new")
    metrics.observe(finished(model="new", principal=None, outcome=None))
    for model in ("other", "none", "new"):
        labels = {"route": SHAPE["route"], "model": model, "plan": "none", "status": "200", "outcome": "none"}
        assert value(metrics, "gatehouse_requests_total", **labels) == 1


def test_the_engines_state_is_one_of_all(metrics: Metrics) -> None:
    """Exactly one state is 1, whatever the launcher says."""
    state = "ready"
    metrics.watch_engine(lambda: state)
    for state, shown in (("ready", "ready"), ("failed", "failed"), ("brand-new", "unknown")):  # noqa: B007
        values = {name: value(metrics, "gatehouse_engine_state", state=name) for name in ENGINE_STATES}
        assert values == {name: float(name == shown) for name in ENGINE_STATES}


def test_gauges_and_counters_of_the_process(metrics: Metrics) -> None:
    """In flight, limiter mode, dropped lines, build."""
    metrics.watch_in_flight(lambda: 7)
    metrics.set_limiter_mode("redis")
    metrics.set_limiter_mode("memory")
    metrics.dropped("file", 3)
    assert value(metrics, "gatehouse_in_flight") == 7
    assert value(metrics, "gatehouse_limiter_mode", mode="redis") is None
    assert value(metrics, "gatehouse_limiter_mode", mode="memory") == 1
    assert value(metrics, "gatehouse_log_lines_dropped_total", sink="file") == 3
    assert value(metrics, "gatehouse_build_info", version="1.2.3") == 1


async def test_a_blocked_event_loop_shows(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lag is at least what the loop was blocked for, less the probe's own interval."""
    monkeypatch.setattr("gateway.metrics.LAG_INTERVAL", 0.01)
    probe = asyncio.create_task(metrics.watch_event_loop())
    await asyncio.sleep(0.001)
    loop = asyncio.get_running_loop()
    until = loop.time() + 0.2
    while loop.time() < until:
        pass
    async with asyncio.timeout(60):
        while not (value(metrics, "gatehouse_event_loop_lag_seconds") or 0) > 0.1:
            await asyncio.sleep(0)
    probe.cancel()


async def test_the_text_form(metrics: Metrics) -> None:
    """Prometheus' text, every name with our prefix, so that it never collides with vLLM's."""
    metrics.observe(finished())
    text = (await metrics.expose()).decode()
    names = {line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert names
    assert all(name.startswith("gatehouse_") for name in names)
    assert 'le="0.005"' in text
    assert 'le="60.0"' in text
