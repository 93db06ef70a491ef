"""Settings of plans and limits."""

from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from gateway.section import Count, Seconds, Section


class PlanSettings(Section):
    """One plan's limits; null means unlimited."""

    requests_per_minute: Count | None = None
    request_burst: Count | None = Field(None, description="requests at once; default: requests_per_minute / 6")
    tokens_per_minute: Count | None = None
    concurrent_requests: Count | None = None
    tokens_per_day: Count | None = None
    tokens_per_month: Count | None = None
    priority: int = Field(0, description="vLLM's priority; lower goes first")
    max_tokens: Count | None = Field(None, description="largest output a request may ask for")
    default_max_tokens: Count | None = Field(
        None, description="output limit of a request that names none; default: gateway.default_max_tokens"
    )


class LimitsSettings(Section):
    """Limits shared by all who fall under them, and how the limiter works."""

    team: dict[str, PlanSettings] = Field({}, description="by the name of a team")
    model: dict[str, PlanSettings] = Field({}, description="by the name of a model")
    total: PlanSettings | None = None
    lease_seconds: Seconds = Field(30, description="a concurrency lease not renewed for so long is free again")
    time_zone: str = Field("UTC", description="whose midnight ends the day of tokens_per_day, and the month")

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ValueError, OSError, KeyError):
            raise ValueError("must be a time zone such as UTC or Asia/Shanghai") from None
        return name


DEFAULT_PLANS: dict[str, PlanSettings] = {
    "member": PlanSettings(
        requests_per_minute=60,
        tokens_per_minute=60_000,
        concurrent_requests=4,
        tokens_per_day=1_000_000,
        priority=0,
    ),
    "service": PlanSettings(requests_per_minute=600, tokens_per_minute=400_000, concurrent_requests=32, priority=10),
}
