"""The long measurements of bench/launcher, short enough for every run. Their figures at full length are in docs."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "bench" / "launcher"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("script", "argument", "says"),
    [("cycles.py", "25", "nothing leaked over 25 cycles"), ("saturated.py", "30", "no false alarm")],
)
def test_endurance(script: str, argument: str, says: str):
    """25 deaths leak no process, descriptor, shared memory, socket or memory; 30 s of saturation are no hang."""
    done = subprocess.run([sys.executable, str(BENCH / script), argument], capture_output=True, text=True, check=False)
    assert (done.returncode, says in done.stdout) == (0, True), done.stdout + done.stderr
