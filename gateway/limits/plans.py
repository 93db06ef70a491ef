"""Pure: who is limited by what, and how a verdict reads in headers and errors.

The header names and the two error shapes are OpenAI's
(https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers); openai-python reads `retry-after-ms`, then
`retry-after`, and obeys `x-should-retry`.
"""

import math
from functools import lru_cache
from typing import NamedTuple

from gateway.config import Config, PlanSettings
from gateway.context import Principal, Via
from gateway.headers import fields_in
from gateway.limits.limiter import Allowance, Kind, Pace, Rate, Refusal, Rule, Verdict

# Who sits before the chat goes before programs of the same plan, up to so many requests in flight more than theirs.
CHAT_LEAD = 5
_SESSION = Via.SESSION  # enum's members are slow to name
KNOWN_CALLERS = 4096  # whose rules are kept


class Plan(NamedTuple):
    """One plan, as the request path asks for it."""

    name: str
    allowance: Allowance
    priority: int  # the engine's: lower ones go first
    max_tokens: int | None  # the largest output that a request may ask for; None is unlimited
    default_max_tokens: int | None  # the output limit of a request that names none; None: the gateway's default


class Plans:
    """The configured plans, ready for use."""

    def __init__(self, config: Config) -> None:
        """Raises ValueError if a plan that callers get by default is not configured."""
        for name in (config.auth.default_plan, config.auth.user_plan):
            if name not in config.plans:
                raise ValueError(f"plans: there is no plan {name!r}, which auth gives by default")
        self._default = config.auth.default_plan
        self._plans = {
            name: Plan(name, allowance(plan), plan.priority, plan.max_tokens, plan.default_max_tokens)
            for name, plan in config.plans.items()
        }
        self._teams = {name: Rule(f"team:{name}", allowance(plan)) for name, plan in config.limits.team.items()}
        self._models = {name: Rule(f"model:{name}", allowance(plan)) for name, plan in config.limits.model.items()}
        self._total = Rule("total", allowance(config.limits.total)) if config.limits.total else None
        self._rules: dict[tuple[str, str, str | None, str | None], tuple[Rule, ...]] = {}  # the same few callers come

    def of(self, principal: Principal) -> Plan:
        """The caller's plan; one that is no longer configured falls back to the default plan."""
        return self._plans.get(principal.plan) or self._plans[self._default]

    def rules(self, principal: Principal, model: str | None) -> tuple[Rule, ...]:
        """All that limits this request; the caller's own rule first.

        A subject that has a session and a token of different plans has an account for each: a busy service of theirs
        does not shut them out of the chat.
        """
        who = (principal.plan, principal.subject, principal.team, model)
        rules = self._rules.get(who)
        if rules is None:
            plan = self.of(principal)
            own = Rule(f"subject:{plan.name}:{principal.subject}", plan.allowance)
            shared = (self._teams.get(principal.team or ""), self._models.get(model or ""), self._total)
            if len(self._rules) >= KNOWN_CALLERS:
                self._rules.clear()
            rules = self._rules[who] = (own, *filter(None, shared))
        return rules

    def priority(self, principal: Principal, running: int) -> int:
        """VLLM's priority (lower goes first): the plan's, plus the caller's requests in flight: fair share.

        Programs (tokens) go after people (sessions) of their plan.
        """
        return self.of(principal).priority + running + (0 if principal.via is _SESSION else CHAT_LEAD)


def allowance(settings: PlanSettings) -> Allowance:
    """A plan's settings as the limiter counts them."""
    per_minute = settings.requests_per_minute
    return Allowance(
        requests=Pace.of_requests(per_minute, settings.request_burst or max(1, per_minute // 6))
        if per_minute
        else None,
        tokens=Pace.of_tokens(settings.tokens_per_minute) if settings.tokens_per_minute else None,
        concurrent=settings.concurrent_requests,
        tokens_per_day=settings.tokens_per_day,
        tokens_per_month=settings.tokens_per_month,
    )


def rate_lines(verdict: Verdict) -> str:
    """The `x-ratelimit-*` headers of every answer, each with its line break. They are most of an answer's head: as one
    text they take a third of the time that a dict takes which is merged and serialised.
    """
    lines = ""
    if rate := verdict.requests:
        lines = _lines("requests", rate)
    if rate := verdict.tokens:
        lines += _lines("tokens", rate)
    if rate := verdict.concurrent:
        lines += f"x-ratelimit-limit-concurrent: {rate.limit}\r\nx-ratelimit-remaining-concurrent: {rate.remaining}\r\n"
    if rate := verdict.day:
        lines += _lines("tokens-day", rate)
    if rate := verdict.month:
        lines += _lines("tokens-month", rate)
    return lines


def _lines(what: str, rate: Rate) -> str:
    return (
        f"x-ratelimit-limit-{what}: {rate.limit}\r\nx-ratelimit-remaining-{what}: {rate.remaining}\r\n"
        f"x-ratelimit-reset-{what}: {go_duration(rate.reset)}\r\n"
    )


def headers(verdict: Verdict) -> dict[str, str]:
    """The same as fields, and on a refusal what tells the client when to come again."""
    fields = fields_in(rate_lines(verdict))
    if refusal := verdict.refusal:
        if refusal.retry_after is not None:
            milliseconds = math.ceil(refusal.retry_after * 1000)
            fields["retry-after-ms"] = str(milliseconds)
            fields["retry-after"] = str(math.ceil(milliseconds / 1000))
        if refusal.retry_after is None or refusal.kind in _BUDGETS:
            fields["x-should-retry"] = "false"
    return fields


def refusal_message(refusal: Refusal) -> tuple[str, str, str]:
    """What the error says: `type`, `code` and `message`. Whose limit it is is said, but not who else shares it."""
    whose = _WHOSE[refusal.rule.partition(":")[0]]
    if refusal.retry_after is None:
        message = f"Prompt and max_tokens together are more tokens than {whose} limit of {refusal.limit} can ever hold."
        return "tokens", "request_too_large_for_plan", message
    wait = go_duration(refusal.retry_after)
    if period := _BUDGETS.get(refusal.kind):
        message = f"{whose} budget of {refusal.limit} tokens a {period} is spent. It is renewed in {wait}."
        return "insufficient_quota", "insufficient_quota", message[0].upper() + message[1:]
    if refusal.kind is Kind.CONCURRENT:
        message = f"{refusal.limit} requests are running already, which is {whose} limit. Please try again in {wait}."
        return "requests", "rate_limit_exceeded", message
    message = f"{whose} limit of {refusal.limit} {refusal.kind} a minute is reached. Please try again in {wait}."
    return refusal.kind.value, "rate_limit_exceeded", message[0].upper() + message[1:]


_BUDGETS = {Kind.QUOTA: "day", Kind.MONTH: "month"}
_WHOSE = {"subject": "your", "team": "your team's", "model": "the model's", "total": "this service's"}


def go_duration(seconds: float) -> str:
    """Seconds as Go prints a time.Duration (`12ms`, `1s`, `6m0s`), rounded up to milliseconds; from an hour on to whole
    seconds, so that the same text serves for as long.
    """
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    if milliseconds < _MINUTE:
        return f"{milliseconds / 1000:g}s"
    if milliseconds < _HOUR:
        minutes, milliseconds = divmod(milliseconds, _MINUTE)
        return f"{minutes}m{milliseconds / 1000:g}s"
    return _hours(math.ceil(seconds))


@lru_cache(maxsize=64)
def _hours(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s"


_MINUTE, _HOUR = 60_000, 3_600_000  # milliseconds
