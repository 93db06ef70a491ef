"""The launcher's own metrics, in a registry of their own, and what it learns from them about the next start-up."""

import contextlib
import json
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from launcher.progress import Phase
from launcher.supervisor import Cause, Name


class LauncherMetrics:
    """`gatehouse_engine_…`; the states are one gauge each, 1 for the present one."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._state = Gauge(
            "gatehouse_engine_state", "1 for the state the engine is in.", ["state"], registry=self.registry
        )
        self._restarts = Counter(
            "gatehouse_engine_restarts", "Starts after the first, by reason.", ["reason"], registry=self.registry
        )
        self._startup = Gauge(
            "gatehouse_engine_startup_seconds",
            "How long each phase of the last start-up took.",
            ["phase"],
            registry=self.registry,
        )
        self._stalls = Counter(
            "gatehouse_engine_stalls", "Times work was in flight and no step was done.", registry=self.registry
        )
        for cause in Cause:
            self._restarts.labels(cause.value)
        self.state(Name.STOPPED)

    def state(self, now: Name) -> None:
        """Set the present state."""
        for name in Name:
            self._state.labels(name.value).set(name is now)

    def restarted(self, cause: Cause) -> None:
        """Count a start that is not the first."""
        self._restarts.labels(cause.value).inc()

    def stalled(self) -> None:
        """Count a stall."""
        self._stalls.inc()

    def startup(self, phases: dict[Phase, float]) -> None:
        """Set the phases' durations in seconds; a phase that did not happen is 0."""
        for phase in Phase:
            self._startup.labels(phase.value).set(phases.get(phase, 0.0))

    def render(self) -> bytes:
        """Render the text of /metrics."""
        return generate_latest(self.registry)


class StartupClock:
    """Times the phases of one start-up, and guesses its end from the last one like it."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key
        self._began: float | None = None
        self._ended: float | None = None
        self._phase: tuple[Phase, float] | None = None
        self.phases: dict[Phase, float] = {}
        self.expected = _read(path).get(key)

    def begin(self, at: float) -> None:
        """Start anew at monotonic time `at`."""
        self._began, self._ended, self._phase = at, None, None
        self.phases = {}
        self.expected = _read(self._path).get(self._key)

    def enter(self, phase: Phase, at: float) -> None:
        """Note the phase that goes on now."""
        if self._phase is not None and self._phase[0] is phase:
            return
        self._close(at)
        self._phase = (phase, at)

    def finish(self, at: float) -> None:
        """Note that the engine is ready, and remember how long it took."""
        self._close(at)
        if self._began is None:
            return
        self._ended = at
        known = _read(self._path) | {self._key: round(at - self._began, 1)}
        with contextlib.suppress(OSError):  # only an estimate is lost
            self._path.write_text(json.dumps(known))

    def elapsed(self, at: float) -> float:
        """Seconds since the start-up began; of the whole of it once it is over."""
        return 0.0 if self._began is None else (self._ended or at) - self._began

    def remaining(self, at: float) -> float | None:
        """Estimate the seconds left, from the last start-up of the same engine; None without one or past it."""
        if self._began is None or self._ended is not None or self.expected is None:
            return None
        return max(self.expected - self.elapsed(at), 0.0)

    def _close(self, at: float) -> None:
        if self._phase is not None:
            phase, since = self._phase
            self.phases[phase] = self.phases.get(phase, 0.0) + at - since
        self._phase = None


def _read(path: Path) -> dict[str, float]:
    try:
        known = json.loads(path.read_text())
        return {str(key): float(seconds) for key, seconds in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
