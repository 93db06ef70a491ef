"""What `python -m bench.gateway` sets beside each other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.gateway.__main__ import gatehouses


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
