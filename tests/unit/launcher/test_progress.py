"""Start-up progress, against logs recorded from the real vLLM."""

from pathlib import Path

import pytest

from launcher.progress import Phase, Progress, follow

LOGS = Path(__file__).parents[2] / "fixtures" / "logs"


def trace(name: str) -> list[Progress]:
    """Every progress that a recorded log leads through, a progress bar's drawings one by one."""
    seen = [Progress()]
    with (LOGS / name).open(newline="") as log:
        for line in log:
            for drawing in line.rstrip("\n").split("\r"):
                if (now := follow(seen[-1], drawing)) != seen[-1]:
                    seen.append(now)
    return seen


@pytest.mark.parametrize(
    ("log", "phases", "version"),
    [
        (
            "startup_two_gpus.log",
            [Phase.IMPORTING, Phase.LOADING, Phase.COMPILING, Phase.CAPTURING, Phase.SERVING],
            "0.25.1",
        ),
        ("startup_cpu.log", [Phase.IMPORTING, Phase.LOADING, Phase.SERVING], "0.32.0"),
    ],
)
def test_phases_of_a_recorded_start(log: str, phases: list[Phase], version: str):
    """Each phase comes once, in order; the percentage never falls; the version is read."""
    seen = trace(log)
    assert list(dict.fromkeys(one.phase for one in seen)) == phases
    percents = [one.percent for one in seen]
    assert percents == sorted(percents)
    assert seen[-1].version == version


def test_graph_capture_counts_both_sets():
    """83 graphs of each of two sets: counted through from 0 to 166."""
    counts = [
        (one.done, one.total) for one in trace("startup_two_gpus.log") if one.phase is Phase.CAPTURING and one.total
    ]
    assert counts[0][0] == 1
    assert counts[-1] == (166, 166)
    assert len(counts) > 100


def test_weights_are_counted():
    """A tqdm bar of checkpoint shards gives n of m."""
    now = follow(Progress(), "Loading safetensors checkpoint shards:  33% Completed | 1/3 [00:01<00:02, 1.0s/it]")
    assert (now.phase, now.done, now.total, str(now)) == (Phase.LOADING, 1, 3, "loading 1/3")


def test_a_download_is_a_phase():
    """Hub downloads draw their own bars."""
    now = follow(Progress(), "Fetching 12 files:  25%|██▌       | 3/12 [00:10<00:30,  3.4s/it]")
    assert (now.phase, now.done, now.total) == (Phase.DOWNLOADING, 3, 12)
    now = follow(Progress(), "model-00001-of-00002.safetensors:  41%|████      | 2.0G/4.9G [00:10<00:14, 205MB/s]")
    assert (now.phase, now.percent > 5) == (Phase.DOWNLOADING, True)


def test_other_lines_change_nothing():
    """Chatter, also of other phases' words, is no progress."""
    now = Progress(Phase.CAPTURING, 3, 83)
    assert follow(now, "INFO: 127.0.0.1:1 - GET /health 200") is now
    assert follow(now, "(Worker_TP1 pid=9) Starting to load model x...") is now
