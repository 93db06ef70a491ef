"""What an examination of the machine tells, in a form that people and programs can read."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """Good news; worth knowing; in the way."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and where it is not good, what to do about it. `passing`: it may go away by itself."""

    subject: str
    what: str
    remedy: str = ""
    level: Level = Level.OK
    passing: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}" if self.remedy else self.what


def problem(subject: str, what: str, remedy: str, *, passing: bool = False) -> Finding:
    """Make a finding that keeps the engine from starting."""
    return Finding(subject, what, remedy, Level.PROBLEM, passing)


def note(subject: str, what: str, remedy: str) -> Finding:
    """Make a finding that deserves a look."""
    return Finding(subject, what, remedy, Level.NOTE)
