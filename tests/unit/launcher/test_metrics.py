"""Metrics and the memory of start-ups."""

from pathlib import Path

import pytest

from launcher.metrics import LauncherMetrics, StartupClock
from launcher.progress import Phase
from launcher.supervisor import Cause, Name


def test_one_state_at_a_time():
    """Exactly one of the state gauges is 1."""
    metrics = LauncherMetrics()
    for name in Name:
        metrics.state(name)
        lines = [line for line in metrics.render().decode().splitlines() if line.startswith("gatehouse_engine_state{")]
        assert len(lines) == len(Name)
        assert [line for line in lines if line.endswith(" 1.0")] == [f'gatehouse_engine_state{{state="{name}"}} 1.0']


def test_every_reason_is_there_from_the_start():
    """Counters begin at 0, so that a rate sees the first restart."""
    text = LauncherMetrics().render().decode()
    for cause in Cause:
        assert f'gatehouse_engine_restarts_total{{reason="{cause}"}} 0.0' in text


def test_a_start_up_is_timed_and_remembered(tmp_path: Path):
    """Phases in seconds, the whole remembered for the next start of the same engine only."""
    path = tmp_path / "startups.json"
    clock = StartupClock(path, "vllm a tp2")
    clock.begin(100)
    for phase, at in ((Phase.IMPORTING, 100), (Phase.LOADING, 130), (Phase.LOADING, 140), (Phase.WARMING, 150)):
        clock.enter(phase, at)
    assert clock.remaining(151) is None
    clock.finish(152)
    assert clock.phases == {Phase.IMPORTING: 30, Phase.LOADING: 20, Phase.WARMING: 2}
    assert clock.elapsed(1000) == 52
    again = StartupClock(path, "vllm a tp2")
    again.begin(0)
    assert again.remaining(12) == pytest.approx(40)
    assert again.remaining(1000) == 0
    other = StartupClock(path, "vllm b tp2")
    other.begin(0)
    assert other.remaining(1) is None


@pytest.mark.parametrize("content", ["", "[]", '{"x": "y"}', "{"])
def test_a_broken_memory_is_none(tmp_path: Path, content: str):
    """A file cut off by a crash costs the estimate only."""
    path = tmp_path / "startups.json"
    path.write_text(content)
    clock = StartupClock(path, "x")
    clock.begin(0)
    assert clock.remaining(1) is None
    clock.finish(2)
    assert StartupClock(path, "x").expected == 2
