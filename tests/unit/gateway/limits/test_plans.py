"""Who is limited by what, and how a verdict reads: golden values."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.config import AuthSettings, Config, EngineTarget, LimitsSettings, PlanSettings
from gateway.context import Principal, Via
from gateway.limits.limiter import MINUTE, Kind, Pace, Rate, Refusal, Verdict
from gateway.limits.plans import CHAT_LEAD, Plans, allowance, go_duration, headers, refusal_message


def make_config(**sections: object) -> Config:
    target = EngineTarget(url="http://127.0.0.1:1", api_key=SecretStr("k"))
    return Config(state_dir=Path("/nonexistent"), engine=target, **sections)


def caller(subject: str = "alice", plan: str = "member", team: str | None = "red", via: Via = Via.SESSION) -> Principal:
    return Principal(subject, team, frozenset({"api"}), plan, (), "t1", via)


def verdict(refusal: Refusal | None = None, **rates: Rate) -> Verdict:
    return Verdict(refusal, 0, *(rates.get(name) for name in ("requests", "tokens", "concurrent", "day")))


def test_rules_are_the_callers_own_then_team_model_total() -> None:
    """Every limit that applies is a rule, the caller's own first; teams and models without limits make none."""
    limits = LimitsSettings(
        team={"red": PlanSettings(requests_per_minute=100)},
        model={"m": PlanSettings(tokens_per_minute=100)},
        total=PlanSettings(concurrent_requests=64),
    )
    plans = Plans(make_config(limits=limits))
    keys = [rule.key for rule in plans.rules(caller(), "m")]
    assert keys == ["subject:member:alice", "team:red", "model:m", "total"]
    assert [rule.key for rule in plans.rules(caller(team=None), "other")] == ["subject:member:alice", "total"]
    assert [rule.key for rule in Plans(make_config()).rules(caller(), None)] == ["subject:member:alice"]


def test_a_plan_that_is_gone_falls_back_to_the_default() -> None:
    """A token of a removed plan is limited as the default plan says, never unlimited."""
    plans = Plans(make_config())
    assert plans.of(caller(plan="gold")).name == "service"
    assert plans.rules(caller(plan="gold"), None)[0].key == "subject:service:alice"


@pytest.mark.parametrize("auth", [AuthSettings(default_plan="gold"), AuthSettings(user_plan="gold")])
def test_a_default_plan_that_does_not_exist_is_an_error_at_start(auth: AuthSettings) -> None:
    """Nobody runs unlimited because of a spelling mistake."""
    with pytest.raises(ValueError, match="'gold'"):
        Plans(make_config(auth=auth))


def test_priority_is_the_plans_plus_what_the_caller_has_running() -> None:
    """Who has fewer requests in flight goes first; the plans' order counts, and within a plan people before programs."""
    plans = Plans(make_config())
    assert [plans.priority(caller(), n) for n in (0, 3)] == [0, 3]
    assert plans.priority(caller(plan="service"), 3) == 13
    assert plans.of(caller(plan="service", via=Via.BEARER)).priority == 10
    assert plans.priority(caller(), CHAT_LEAD - 1) < plans.priority(caller(via=Via.BEARER), 0)
    assert plans.of(caller()).max_tokens is None


def test_an_allowance_of_nothing_is_unlimited() -> None:
    """Null means unlimited; the burst is a sixth of the minute's requests unless given, and at least one."""
    assert allowance(PlanSettings()).unlimited
    assert allowance(PlanSettings(requests_per_minute=60)).requests == Pace(60, 10_000_000)
    assert allowance(PlanSettings(requests_per_minute=3)).requests == Pace(3, 20_000_000)
    assert allowance(PlanSettings(requests_per_minute=60, request_burst=60)).requests == Pace(60, 60_000_000)
    assert not allowance(PlanSettings(tokens_per_day=1)).unlimited


def test_headers_of_an_admitted_request() -> None:
    """OpenAI's names, integers, Go durations; no retry-after on an admitted request."""
    admitted = verdict(
        requests=Rate(60, 9, 1.0),
        tokens=Rate(60_000, 57_952, 2.0481),
        concurrent=Rate(4, 3, 30),
        day=Rate(10**6, 7, 3600),
    )
    assert headers(admitted) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "60000",
        "x-ratelimit-remaining-tokens": "57952",
        "x-ratelimit-reset-tokens": "2.049s",
        "x-ratelimit-limit-concurrent": "4",
        "x-ratelimit-remaining-concurrent": "3",
        "x-ratelimit-limit-tokens-day": "1000000",
        "x-ratelimit-remaining-tokens-day": "7",
        "x-ratelimit-reset-tokens-day": "1h0m0s",
    }
    assert headers(verdict()) == {}


@pytest.mark.parametrize(
    ("refusal", "fields", "error"),
    [
        (
            Refusal("subject:member:alice", Kind.REQUESTS, 60, 0.8765432),
            {"retry-after-ms": "877", "retry-after": "1"},
            (
                "requests",
                "rate_limit_exceeded",
                "Your limit of 60 requests a minute is reached. Please try again in 877ms.",
            ),
        ),
        (
            Refusal("team:red", Kind.TOKENS, 60_000, 61.0001),
            {"retry-after-ms": "61001", "retry-after": "62"},
            (
                "tokens",
                "rate_limit_exceeded",
                "Your team's limit of 60000 tokens a minute is reached. Please try again in 1m1.001s.",
            ),
        ),
        (
            Refusal("total", Kind.CONCURRENT, 64, 2.0),
            {"retry-after-ms": "2000", "retry-after": "2"},
            (
                "requests",
                "rate_limit_exceeded",
                "64 requests are running already, which is this service's limit. Please try again in 2s.",
            ),
        ),
        (
            Refusal("model:m", Kind.QUOTA, 1000, 5400.0),
            {"retry-after-ms": "5400000", "retry-after": "5400", "x-should-retry": "false"},
            (
                "insufficient_quota",
                "insufficient_quota",
                "The model's budget of 1000 tokens a day is spent. It is renewed in 1h30m0s.",
            ),
        ),
        (
            Refusal("subject:member:alice", Kind.TOKENS, 100, None),
            {"x-should-retry": "false"},
            (
                "tokens",
                "request_too_large_for_plan",
                "Prompt and max_tokens together are more tokens than your limit of 100 can ever hold.",
            ),
        ),
    ],
)
def test_a_refusal_says_when_to_come_again(
    refusal: Refusal, fields: dict[str, str], error: tuple[str, str, str]
) -> None:
    """True waits in both units, rounded up; no retry where waiting is in vain or lasts until midnight."""
    assert headers(verdict(refusal)) == fields
    assert refusal_message(refusal) == error


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0001, "1ms"), (0.012, "12ms"), (1, "1s"), (1.5, "1.5s"), (59.9999, "1m0s"), (360, "6m0s"),
     (3599.25, "59m59.25s"), (3600, "1h0m0s"), (86_398.25, "23h59m59s"), (86_399.25, "24h0m0s")],
)  # fmt: skip
def test_durations_as_go_prints_them(seconds: float, text: str) -> None:
    """time.Duration.String of the Go standard library, rounded up to milliseconds; from an hour on to seconds."""
    assert go_duration(seconds) == text


@given(st.integers(1, 10**7), st.integers(0, 10**6), st.integers(0, 10**6))
def test_cost_and_room_agree(per_minute: int, amount: int, backlog: int) -> None:
    """What there is room for may be charged in one piece, and one more may not."""
    pace = Pace.of_tokens(per_minute)
    room = pace.room(backlog)
    assert backlog + pace.cost(room) <= pace.depth
    assert backlog + pace.cost(room + 1) > pace.depth
    assert pace.cost(amount) >= amount * 60_000_000 / per_minute


@given(st.integers(1, 10**7), st.integers(0, 10**7))
def test_rounding_never_favours_the_caller(per_minute: int, amount: int) -> None:
    """A charge takes at least as long to work off as it should, by less than a microsecond; what is left fits in."""
    pace = Pace.of_tokens(per_minute)
    assert 0 <= pace.cost(amount) * per_minute - amount * MINUTE < per_minute
    backlog = min(pace.cost(amount), pace.depth)
    assert backlog + pace.cost(pace.room(backlog)) <= pace.depth < backlog + pace.cost(pace.room(backlog) + 1)
