"""The state machine, under every sequence of events that Hypothesis finds."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher import supervisor as fsm
from launcher.supervisor import Cause, Engine, Name, Policy, State, step

POLICY = Policy(delay=10, delay_max=300, crash_loop_failures=5, crash_loop_seconds=600)


def lost(at: float = 0.0, *, fatal: bool = False, cause: Cause = Cause.EXITED) -> fsm.Lost:
    return fsm.Lost(cause, "it broke", at, fatal)


times = st.floats(0, 5000)
events = st.one_of(
    st.sampled_from(
        [
            *(fsm.Start(), fsm.Answered(), fsm.Warmed(), fsm.StallBegan(), fsm.StallEnded(), fsm.NotGone("stuck")),
            *(fsm.BackoffOver(), fsm.RestartAsked(), fsm.DrainAsked(), fsm.StopAsked(), fsm.Hurry()),
        ]
    ),
    st.builds(fsm.Lost, st.sampled_from(Cause), st.just("it broke"), times, st.booleans()),
    st.builds(fsm.Gone, st.floats(0, 0.999)),
)
policies = st.builds(Policy, owned=st.booleans(), crash_loop_failures=st.integers(1, 5))


def drive(policy: Policy, *given_events: fsm.Event, state: State | None = None) -> tuple[State, list[fsm.Action]]:
    state, done = state or State(), []
    for event in given_events:
        state, actions = step(policy, state, event)
        done += actions
    return state, done


def honest(policy: Policy, state: State, actions: list[fsm.Action], rounds: int = 50) -> State:
    """What becomes of a state in a world where every action works."""
    todo = list(actions)
    for _ in range(rounds):
        if not todo:
            return state
        action = todo.pop(0)
        follow: list[fsm.Event] = []
        match action:
            case fsm.Spawn():
                follow = [fsm.Answered()]
            case fsm.Warm():
                follow = [fsm.Warmed()]
            case fsm.Stop():
                follow = [fsm.Gone()]
            case fsm.Wait():
                follow = [fsm.BackoffOver()]
        for event in follow:
            state, more = step(policy, state, event)
            todo += more
    raise AssertionError(f"never at rest: {state}")


@settings(max_examples=200, deadline=None)
@given(policies, st.lists(events, max_size=60))
def test_never_two_engines(policy: Policy, sequence: list[fsm.Event]):
    """An engine is started only when the last one is proved gone, however events come."""
    state, alive = State(), 0
    for event in sequence:
        if isinstance(event, fsm.Gone) and state.engine is Engine.STOPPING:
            alive -= 1
        state, actions = step(policy, state, event)
        alive += sum(isinstance(action, fsm.Spawn) for action in actions)
        assert alive in {0, 1}
        assert alive == (state.engine is not Engine.NONE)


@settings(max_examples=200, deadline=None)
@given(policies, st.lists(events, max_size=60))
def test_every_state_has_a_way_out(policy: Policy, sequence: list[fsm.Event]):
    """From wherever events led, a restart leads to ready and a stop to the end, once the world behaves."""
    state, pending = State(), []
    for event in sequence:
        state, actions = step(policy, state, event)
        pending = [a for a in actions if not isinstance(a, fsm.Kill)] or pending
    owed = [fsm.Stop(graceful=False)] if state.engine is Engine.STOPPING else []
    if not state.closing:
        asked, actions = step(policy, state, fsm.RestartAsked())
        assert honest(policy, asked, owed + actions).name is Name.READY
    ended, actions = step(policy, state, fsm.StopAsked())
    assert honest(policy, ended, owed + actions).over


@settings(max_examples=200, deadline=None)
@given(policies, st.lists(events, max_size=60))
def test_names_tell_the_truth(policy: Policy, sequence: list[fsm.Event]):
    """Only a living engine is called starting, warming, ready or stalled, and a closing launcher starts nothing."""
    state = State()
    for event in sequence:
        state, actions = step(policy, state, event)
        if state.name in {Name.STARTING, Name.WARMING, Name.READY, Name.STALLED}:
            assert state.engine is Engine.ALIVE
        if state.name is Name.STOPPED:
            assert state.engine is Engine.NONE
        if state.name is Name.DRAINING:
            assert state.engine is Engine.STOPPING
        if state.closing:
            assert fsm.Spawn() not in actions


def test_the_way_up():
    """Stopped → starting → warming → ready, with one action each."""
    state, done = drive(POLICY, fsm.Start(), fsm.Answered(), fsm.Warmed())
    assert (state.name, state.attempt, done) == (Name.READY, 0, [fsm.Spawn(), fsm.Warm()])


def test_a_lost_engine_is_killed_then_started_after_a_wait():
    """Nothing is spared of a dead engine, and the next one waits for its back-off."""
    ready, _ = drive(POLICY, fsm.Start(), fsm.Answered(), fsm.Warmed())
    state, done = drive(POLICY, lost(), fsm.Gone(0.5), state=ready)
    assert done == [fsm.Stop(graceful=False), fsm.Wait(10.0)]
    assert (state.name, state.cause) == (Name.RESTARTING, Cause.EXITED)
    state, done = drive(POLICY, fsm.BackoffOver(), state=state)
    assert (state.name, done) == (Name.STARTING, [fsm.Spawn()])


def test_backoff_doubles_up_to_its_limit():
    """10 s, 20, 40, … 300, each spread over ±20 %."""
    waits = [fsm.backoff(POLICY, attempt, 0.5) for attempt in range(1, 9)]
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]
    assert fsm.backoff(POLICY, 1, 0.0) == pytest.approx(8)
    assert fsm.backoff(POLICY, 10**6, 0.999) < 360.1


def test_five_failures_in_ten_minutes_stay_down():
    """The fifth failure within the window ends in failed with a reason; a restart that is asked for forgets them."""
    state = State()
    state, _ = drive(POLICY, fsm.Start())
    for number in range(4):
        state, _ = drive(POLICY, lost(number * 100.0), fsm.Gone(), fsm.BackoffOver(), state=state)
        assert state.name is Name.STARTING
    state, done = drive(POLICY, lost(599.0), fsm.Gone(), fsm.BackoffOver(), state=state)
    assert (state.name, done) == (Name.FAILED, [fsm.Stop(graceful=False)])
    assert "5 failures within 600 s, the last: it broke" in state.reason
    state, done = drive(POLICY, fsm.RestartAsked(), state=state)
    assert (state.name, state.failures, done) == (Name.STARTING, (), [fsm.Spawn()])


def test_failures_long_apart_are_no_crash_loop():
    """A failure outside of the window does not count."""
    state, _ = drive(POLICY, fsm.Start())
    for number in range(20):
        state, _ = drive(POLICY, lost(number * 151.0), fsm.Gone(), fsm.BackoffOver(), state=state)
        assert state.name is Name.STARTING


def test_a_config_error_is_not_retried():
    """What would fail the same way again fails once."""
    state, done = drive(POLICY, fsm.Start(), lost(fatal=True, cause=Cause.STARTUP), fsm.Gone(), fsm.BackoffOver())
    assert (state.name, state.engine, done) == (Name.FAILED, Engine.NONE, [fsm.Spawn(), fsm.Stop(graceful=False)])


def test_a_planned_restart_drains_and_does_not_wait():
    """A restart lets requests finish and starts the next engine at once, without counting a failure."""
    ready, _ = drive(POLICY, fsm.Start(), fsm.Answered(), fsm.Warmed())
    state, done = drive(POLICY, fsm.RestartAsked(), state=ready)
    assert (state.name, done) == (Name.DRAINING, [fsm.Stop(graceful=True)])
    state, done = drive(POLICY, fsm.Gone(), state=state)
    assert (state.name, state.failures, state.cause, done) == (Name.STARTING, (), Cause.ASKED, [fsm.Spawn()])


def test_drain_stays_down_until_a_restart():
    """Drain ends in stopped; restart is the way back."""
    ready, _ = drive(POLICY, fsm.Start(), fsm.Answered(), fsm.Warmed())
    state, done = drive(POLICY, fsm.DrainAsked(), fsm.Gone(), fsm.BackoffOver(), state=ready)
    assert (state.name, done) == (Name.STOPPED, [fsm.Stop(graceful=True)])
    state, _ = drive(POLICY, fsm.RestartAsked(), state=state)
    assert state.name is Name.STARTING


def test_stalled_comes_back_or_is_restarted():
    """A stall that ends leads back to ready; one that is given up leads to restarting."""
    ready, _ = drive(POLICY, fsm.Start(), fsm.Answered(), fsm.Warmed())
    stalled, _ = drive(POLICY, fsm.StallBegan("no step for 120 s"), state=ready)
    assert (stalled.name, stalled.reason) == (Name.STALLED, "no step for 120 s")
    assert drive(POLICY, fsm.StallEnded(), state=stalled)[0] == replace(ready, reason="")
    assert drive(POLICY, lost(cause=Cause.STALLED), state=stalled)[0].name is Name.RESTARTING


def test_an_engine_that_cannot_be_killed_is_never_doubled():
    """A stuck engine means failed; a restart tries to kill it again and starts only when it is gone."""
    stuck, _ = drive(POLICY, fsm.Start(), lost(), fsm.NotGone("pid 7"))
    assert (stuck.name, stuck.engine, stuck.reason) == (Name.FAILED, Engine.STUCK, "pid 7")
    state, done = drive(POLICY, fsm.RestartAsked(), state=stuck)
    assert done == [fsm.Stop(graceful=False)]
    assert drive(POLICY, fsm.Gone(), state=state)[1] == [fsm.Spawn()]
    assert drive(POLICY, fsm.StopAsked(), fsm.NotGone("pid 7"), state=stuck)[0].over


def test_hurry_skips_to_the_kill():
    """Ctrl-C twice: the stop in progress is cut short."""
    state, done = drive(POLICY, fsm.Start(), fsm.StopAsked(), fsm.Hurry())
    assert done == [fsm.Spawn(), fsm.Stop(graceful=True), fsm.Kill()]
    assert drive(POLICY, fsm.Gone(), state=state)[0].over


def test_an_external_engine_is_watched_again_at_once():
    """Its owner restarts it: no back-off, no crash loop."""
    watched = replace(POLICY, owned=False)
    state, _ = drive(watched, fsm.Start())
    for number in range(20):
        state, done = drive(watched, lost(float(number)), fsm.Gone(), state=state)
        assert (state.name, done) == (Name.STARTING, [fsm.Stop(graceful=False), fsm.Spawn()])
