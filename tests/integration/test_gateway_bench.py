"""What `python -m bench.gateway` sets beside each other, and what `bench.gateway.soak` takes for growth."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from bench.gateway.__main__ import gatehouses
from bench.gateway.soak import Sample, growth, verdict


def interpreter(folder: Path, version: str) -> str:
    """A program that says of itself that it is this Python."""
    program = folder / f"python-{version}"
    program.write_text(f"#!/bin/sh\necho Python {version}\n", "ascii")
    program.chmod(0o755)
    return str(program)


def test_one_interpreter_is_the_gateway() -> None:
    """A single interpreter needs no name."""
    assert list(gatehouses([sys.executable])) == ["gatehouse"]


def test_several_interpreters_stand_beside_each_other_in_one_run(tmp_path: Path) -> None:
    """Each is a peer of its own, named by its version, in the order in which they were given."""
    pythons = [interpreter(tmp_path, version) for version in ("3.13.5", "3.11.2")]
    assert list(gatehouses(pythons)) == ["gatehouse, Python 3.13.5", "gatehouse, Python 3.11.2"]


def test_two_interpreters_of_one_version_are_refused(tmp_path: Path) -> None:
    """Neither silently takes the other's place."""
    with pytest.raises(ValueError, match=r"two interpreters are Python 3\.13\.5"):
        gatehouses([interpreter(tmp_path, "3.13.5")] * 2)


TURNS = 330  # half an hour
REQUESTS = 4500  # of a turn
NOISE_MB = 4.0  # from one turn to the next


def soaked(leak: float = 0.0, **at_the_end: float) -> list[Sample]:
    """Half an hour of a gateway that keeps so many bytes of each request, after caches have filled."""
    dice = random.Random(7)
    samples: list[Sample] = []
    for turn in range(TURNS):
        requests = turn * REQUESTS
        filled = 90 + min(1, turn / (TURNS / 12)) * 6
        mb = filled + requests * leak / 2**20 + dice.uniform(-NOISE_MB, NOISE_MB) / 2
        held = {"descriptors": 28.0, "reservations": 0.0, "leases": 0.0}
        samples.append({"at": turn * 5.5, "requests": requests, "mb": mb, **held})
    samples[-1] |= at_the_end
    return samples


def test_memory_that_goes_up_and_down_does_not_grow() -> None:
    """One sample high above the others is no growth, nor is what fills in the first tenth of the time."""
    assert verdict(soaked(mb=108.0)) == []
    assert abs(growth(soaked(mb=108.0))["bytes_a_request"]) < 1


@pytest.mark.parametrize("leak", [5.0, 100.0])
def test_a_few_bytes_of_each_request_are_growth(leak: float) -> None:
    """They are told, however low the last sample is."""
    [problem] = verdict(soaked(leak, mb=90.0))
    assert problem.startswith("memory grew")
    assert growth(soaked(leak, mb=90.0))["bytes_a_request"] == pytest.approx(leak, rel=0.2)


def test_a_leak_is_seen_within_minutes() -> None:
    """100 bytes of each request are growth in a twentieth of that time, too."""
    assert verdict(soaked(100.0)[TURNS // 10 : TURNS // 10 + TURNS // 20])


@pytest.mark.parametrize(("what", "count"), [("reservations", 1.0), ("leases", 1.0), ("descriptors", 40.0)])
def test_what_is_left_at_the_end_is_told(what: str, count: float) -> None:
    """Of these the last sample counts: nothing runs then."""
    [problem] = verdict(soaked(**{what: count}))
    assert problem.startswith(what)
