"""Timeouts in a row: how many there were since the engine last answered, one worker or several. Pure."""

from typing import Self

import msgspec

MOST = 100  # timeouts that are remembered with their time; more in a row are as bad


class Streak(msgspec.Struct):
    """Times are `time.monotonic()`'s, which is the same clock for all processes of a machine."""

    answered_at: float = 0.0
    timed_out_at: list[float] = []

    def __len__(self) -> int:
        return len(self.timed_out_at)

    def timed_out(self, at: float) -> None:
        """A request timed out."""
        self.timed_out_at = [*self.timed_out_at[1 - MOST :], at]

    def answered(self, at: float) -> None:
        """The engine answered one: the streak is over."""
        self.answered_at = at
        if self.timed_out_at:
            self.timed_out_at = []

    def with_(self, other: Self) -> Self:
        """Of two workers: the timeouts of both since either was answered."""
        answered_at = max(self.answered_at, other.answered_at)
        both = sorted(self.timed_out_at + other.timed_out_at)
        return type(self)(answered_at, [at for at in both if at > answered_at][-MOST:])
