"""The engine's life as a pure state machine: events in, actions out; it never waits, reads a clock or starts anything.

                 Start            Answered           Warmed           StallBegan
      stopped ─────────▶ starting ─────────▶ warming ────────▶ ready ◀──────────▶ stalled
         ▲                ▲     │               │                │    StallEnded     │
         │                │     └────── Lost ───┴────── Lost ────┴───────── Lost ────┘
         │                │              │
         │    BackoffOver │              ▼    (the rest of the engine is killed, then Gone)
         │                └───────── restarting ── crash loop, config error, not killable ──▶ failed
         │ Gone
         └──── draining ◀── DrainAsked, RestartAsked, StopAsked: from every state where an engine lives

RestartAsked leads back to starting from everywhere, failed included; DrainAsked and StopAsked lead to stopped.
An engine that is only watched (`Policy.owned` false) goes from Lost straight back to starting: its owner restarts it.

Beside its name a state knows where the process is (`Engine`). `Spawn` is only ever asked for while that is NONE, and
only `Gone`, the proof that nothing of the last engine is left, leads there: so two engines never live at once.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class Name(StrEnum):
    """What the launcher tells the world; `ready` alone means that requests may be sent."""

    STOPPED = "stopped"
    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"
    STALLED = "stalled"
    RESTARTING = "restarting"
    FAILED = "failed"
    DRAINING = "draining"


class Engine(StrEnum):
    """Where the engine's process is."""

    NONE = "none"
    ALIVE = "alive"
    STOPPING = "stopping"
    STUCK = "stuck"  # killed, but the kernel has not let go of it


class Then(StrEnum):
    """What follows once the stopping engine is gone."""

    STAY = "stay"
    START = "start"
    BACK_OFF = "back_off"


class Cause(StrEnum):
    """Why the engine was lost or restarted; the label of `gatehouse_engine_restarts_total`."""

    ASKED = "asked"
    EXITED = "exited"
    PROCESS_DIED = "process_died"
    UNHEALTHY = "unhealthy"
    STALLED = "stalled"
    STARTUP = "startup"


@dataclass(frozen=True, slots=True)
class Policy:
    """When to try again. Times in seconds."""

    owned: bool = True
    delay: float = 10.0
    delay_max: float = 300.0
    crash_loop_failures: int = 5
    crash_loop_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class State:
    """All that the decisions depend on."""

    name: Name = Name.STOPPED
    engine: Engine = Engine.NONE
    then: Then = Then.STAY
    closing: bool = False  # the launcher itself is being stopped: nothing starts any more
    attempt: int = 0  # starts since the engine was last ready, this one included
    failures: tuple[float, ...] = ()  # times of failures within the crash-loop window
    cause: Cause | None = None  # of the last loss or restart
    reason: str = ""  # the same for people

    @property
    def over(self) -> bool:
        """The launcher may leave: it was told to, and no engine is alive (or none that can be killed)."""
        return self.closing and self.engine in {Engine.NONE, Engine.STUCK}


@dataclass(frozen=True, slots=True)
class Start:
    """Bring the engine up, if it is down."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The engine is healthy and has answered a real request."""


@dataclass(frozen=True, slots=True)
class Warmed:
    """The warm-up is through."""


@dataclass(frozen=True, slots=True)
class StallBegan:
    """Work is in flight and the step counter stands still."""

    reason: str = "no step"


@dataclass(frozen=True, slots=True)
class StallEnded:
    """The step counter moves again."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The engine is of no use any more, or never came up. `at`: monotonic seconds."""

    cause: Cause
    reason: str
    at: float
    fatal: bool = False  # a new start would fail the same way


@dataclass(frozen=True, slots=True)
class Gone:
    """Proved: nothing of the engine is left. `chance`: uniform in [0, 1), spreads the back-off."""

    chance: float = 0.5


@dataclass(frozen=True, slots=True)
class NotGone:
    """The engine was killed and is still there."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class BackoffOver:
    """The wait before the next start is over."""


@dataclass(frozen=True, slots=True)
class RestartAsked:
    """Somebody wants a fresh engine."""


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """Somebody wants the running requests finished and the engine down."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The launcher is told to end."""


@dataclass(frozen=True, slots=True)
class Hurry:
    """Whoever waits for the stop wants it at once."""


Event = (
    Start | Answered | Warmed | StallBegan | StallEnded | Lost | Gone | NotGone | BackoffOver
    | RestartAsked | DrainAsked | StopAsked | Hurry
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start an engine and watch for Answered or Lost."""


@dataclass(frozen=True, slots=True)
class Warm:
    """Send the warm-up requests, then say Warmed."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the engine and say Gone or NotGone. Graceful: running requests may finish; else kill at once."""

    graceful: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Say BackoffOver after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Kill:
    """The stop in progress skips to its end."""


Action = Spawn | Warm | Stop | Wait | Kill


def step(policy: Policy, state: State, event: Event) -> tuple[State, list[Action]]:
    """Decide the next state and what is to be done. An event that makes no sense in this state changes nothing."""
    match event:
        case Start() if state.engine is Engine.NONE and state.name is Name.STOPPED:
            return _spawn(state)
        case RestartAsked() if not state.closing:
            return _fresh(replace(state, failures=(), attempt=0, cause=Cause.ASKED, reason="restart was asked for"))
        case DrainAsked():
            return _down(state)
        case StopAsked():
            return _down(replace(state, closing=True))
        case Hurry() if state.engine is Engine.STOPPING:
            return state, [Kill()]
        case Answered() if state.name is Name.STARTING:
            return replace(state, name=Name.WARMING), [Warm()]
        case Warmed() if state.name is Name.WARMING:
            return replace(state, name=Name.READY, attempt=0, reason=""), []
        case StallBegan(reason) if state.name is Name.READY:
            return replace(state, name=Name.STALLED, reason=reason), []
        case StallEnded() if state.name is Name.STALLED:
            return replace(state, name=Name.READY, reason=""), []
        case Lost() if state.engine is Engine.ALIVE:
            return _lost(policy, state, event)
        case Gone(chance) if state.engine is Engine.STOPPING:
            return _gone(policy, replace(state, engine=Engine.NONE), chance)
        case NotGone(reason) if state.engine is Engine.STOPPING:
            return replace(state, name=Name.FAILED, engine=Engine.STUCK, then=Then.STAY, reason=reason), []
        case BackoffOver() if state.name is Name.RESTARTING and state.engine is Engine.NONE:
            return _spawn(state)
    return state, []


def backoff(policy: Policy, attempt: int, chance: float) -> float:
    """Seconds before try `attempt` + 1: doubling up to the longest, spread over ±20 % by `chance` in [0, 1)."""
    doubled = policy.delay * 2.0 ** min(max(attempt - 1, 0), 32)
    return min(doubled, policy.delay_max) * (0.8 + 0.4 * chance)


def _spawn(state: State) -> tuple[State, list[Action]]:
    if state.closing:
        return replace(state, name=Name.STOPPED), []
    started = replace(state, name=Name.STARTING, engine=Engine.ALIVE, then=Then.STAY, attempt=state.attempt + 1)
    return started, [Spawn()]


def _fresh(state: State) -> tuple[State, list[Action]]:
    match state.engine:
        case Engine.NONE:
            return _spawn(state)
        case Engine.STOPPING:
            name = Name.RESTARTING if state.name is Name.FAILED else state.name
            return replace(state, name=name, then=Then.START), []
        case Engine.ALIVE:
            return _stop(state, Name.DRAINING, Then.START, graceful=True)
        case Engine.STUCK:
            return _stop(state, Name.RESTARTING, Then.START, graceful=False)


def _down(state: State) -> tuple[State, list[Action]]:
    match state.engine:
        case Engine.NONE:
            return replace(state, name=Name.STOPPED, then=Then.STAY), []
        case Engine.STOPPING:
            return replace(state, name=Name.DRAINING, then=Then.STAY), []
        case Engine.ALIVE:
            return _stop(state, Name.DRAINING, Then.STAY, graceful=True)
        case Engine.STUCK:
            return _stop(state, Name.DRAINING, Then.STAY, graceful=False)


def _stop(state: State, name: Name, then: Then, *, graceful: bool) -> tuple[State, list[Action]]:
    return replace(state, name=name, engine=Engine.STOPPING, then=then), [Stop(graceful)]


def _lost(policy: Policy, state: State, lost: Lost) -> tuple[State, list[Action]]:
    state = replace(state, cause=lost.cause, reason=lost.reason)
    if not policy.owned:
        return _stop(state, Name.RESTARTING, Then.START, graceful=False)
    recent = (*(at for at in state.failures if lost.at - at < policy.crash_loop_seconds), lost.at)
    state = replace(state, failures=recent)
    if lost.fatal:
        return _stop(state, Name.FAILED, Then.STAY, graceful=False)
    if len(recent) >= policy.crash_loop_failures:
        why = f"{len(recent)} failures within {policy.crash_loop_seconds:.0f} s, the last: {lost.reason}"
        return _stop(replace(state, reason=why), Name.FAILED, Then.STAY, graceful=False)
    return _stop(state, Name.RESTARTING, Then.BACK_OFF, graceful=False)


def _gone(policy: Policy, state: State, chance: float) -> tuple[State, list[Action]]:
    match state.then:
        case Then.START:
            return _spawn(state)
        case Then.BACK_OFF:
            return state, [Wait(backoff(policy, state.attempt, chance))]
        case Then.STAY:
            return replace(state, name=Name.STOPPED if state.name is Name.DRAINING else Name.FAILED), []
