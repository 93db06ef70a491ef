"""How long a caller should wait for one of their own running requests to end.

A lease's expiry says only when a dead worker's lease is freed, which is far longer than most requests take. The
estimate is TCP's for its retransmission timer (RFC 6298): smoothed duration plus four times its smoothed deviation.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Durations:
    """Learns from the durations (seconds) of requests that ended."""

    mean: float | None = None
    deviation: float = 0.0

    def learn(self, seconds: float) -> None:
        """Take one more duration into account; the first one counts fully."""
        if self.mean is None:
            self.mean, self.deviation = seconds, seconds / 2
        else:
            self.deviation += (abs(seconds - self.mean) - self.deviation) / 4
            self.mean += (seconds - self.mean) / 8

    def within(self) -> float | None:
        """Seconds within which a request very likely ends; None before anything is known."""
        return None if self.mean is None else self.mean + 4 * self.deviation
