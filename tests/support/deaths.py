"""The table of deaths: a row for each death and state, filled by the tests and printed at the end of the run.

A test says what it saw with `tell(record_property, …)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from launcher.record import load
from launcher.traces import shared_memory
from tests.support.processes import alive_in_session

_PROPERTY = "death"


@dataclass(frozen=True)
class Death:
    """One row. `detected`: seconds until the launcher said so."""

    engine: str
    death: str
    state: str
    detected: str
    left_behind: str
    running_stream: str
    next_request: str


def tell(
    record_property: Callable[[str, object], None],
    engine: str,
    death: str,
    state: str,
    detected: float | str,
    left: list[str],
    stream: str = "–",
    late: str = "–",
) -> None:
    """Put a row into the table."""
    seconds = f"{detected:.2f} s" if isinstance(detected, float) else detected
    row = Death(engine, death, state, seconds, ", ".join(left) or "nothing", stream, late)
    record_property(_PROPERTY, astuple(row))


@dataclass(frozen=True)
class Belongings:
    """What an engine has, as its launcher recorded it."""

    session: int
    paths: tuple[Path, ...]

    @classmethod
    def of(cls, state_dir: Path) -> Belongings:
        """Those of the engine that runs now: what is recorded, and what its processes really use."""
        record = load(state_dir / "engine.json")
        assert record is not None
        assert record.session is not None
        names = {*record.shared_memory, *shared_memory(alive_in_session(record.session))}
        shared = tuple(Path("/dev/shm") / name for name in sorted(names))
        return cls(record.session, (*shared, Path(record.socket_directory or "/nowhere")))

    def left(self) -> list[str]:
        """What of it is there: processes, zombies too, and files."""
        processes = [f"pid {pid}" for pid in alive_in_session(self.session, zombies=True)]
        return processes + [str(path) for path in self.paths if path.exists()]


def table_of_deaths(terminalreporter: Any) -> None:
    """Print the rows of the tests that passed."""
    rows = [
        tuple(value)
        for report in terminalreporter.stats.get("passed", [])
        if isinstance(report, pytest.TestReport)
        for name, value in report.user_properties
        if name == _PROPERTY
    ]
    if not rows:
        return
    table = [tuple(field.name.replace("_", " ") for field in fields(Death)), *sorted(rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    terminalreporter.section("deaths of the engine")
    for row in table:
        terminalreporter.write_line(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )
