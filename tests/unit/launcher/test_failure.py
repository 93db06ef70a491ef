"""Reasons for failed starts, against logs recorded from the real vLLM."""

from pathlib import Path

import pytest

from launcher.failure import explain

LOGS = Path(__file__).parents[2] / "fixtures" / "logs"


@pytest.mark.parametrize(
    ("log", "said", "fatal"),
    [
        (
            "fail_badmodel.log",
            "Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/tmp/no-such-model'",
            True,
        ),
        ("fail_kvhuge.log", "is less than requested memory for kv (400.0 GiB)", True),
        ("fail_portinuse.log", "Address already in use", False),
    ],
)
def test_recorded_failures(log: str, said: str, fatal: bool):
    """The root cause is found among the last 200 lines, and only a passing one is worth another try."""
    failure = explain("the engine exited with code 1", 1, (LOGS / log).read_text().splitlines()[-200:])
    assert failure.reason.startswith("the engine exited with code 1: ")
    assert said in failure.reason
    assert failure.fatal is fatal


def test_bad_flag():
    """Exit code 2 is argparse's: the flags are wrong, and the last line says which."""
    failure = explain(
        "the engine exited with code 2", 2, ["usage: vllm serve", "vllm: error: unrecognized arguments: --no-such"]
    )
    assert failure.fatal
    assert "--no-such" in failure.reason
    assert explain("the engine exited with code 2", 2, []).fatal


def test_memory_held_by_others_may_come_back():
    """A GPU that somebody else fills is worth another try."""
    line = "ValueError: Free memory on device cuda:0 (10.0/139.0 GiB) on startup is less than desired GPU memory utilization"
    assert not explain("x", 1, [line, "RuntimeError: Engine core initialization failed."]).fatal


def test_unknown_ends_are_tried_again():
    """What nobody knows is retried, with the last error line or just what happened as the reason."""
    assert explain("the engine was ended by SIGKILL", -9, ["hello"]).reason == "the engine was ended by SIGKILL"
    failure = explain("it ended", 1, ["  raise X", "RuntimeError: odd", "warnings.warn('x')"])
    assert (failure.reason, failure.fatal) == ("it ended: RuntimeError: odd", False)
