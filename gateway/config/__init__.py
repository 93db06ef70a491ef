"""The gateway's settings: one frozen value, built once, every problem reported at once (pydantic collects them).

Each class is one section of `gatehouse.yaml`. Times are seconds, sizes bytes, unless the name says otherwise.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from gateway.chat.settings import ChatSettings
from gateway.config.auth import AuthSettings, ClaimNames, IssuerSettings, SsoSettings, is_near
from gateway.config.http import GatewaySettings
from gateway.config.limits import DEFAULT_PLANS, LimitsSettings, PlanSettings
from gateway.config.record import BodySettings, LoggingSettings, TracingSettings
from gateway.section import Count, Seconds, Section

__all__ = [
    "DEFAULT_PLANS", "AuthSettings", "BodySettings", "ClaimNames", "Config", "DatabaseSettings", "EngineTarget",
    "GatewaySettings", "IssuerSettings", "LimitsSettings", "LoggingSettings", "PlanSettings", "RedisSettings",
    "SsoSettings", "TracingSettings", "is_near",
]  # fmt: skip


class RedisSettings(Section):
    """Hot counters that several workers or hosts share. Without a URL each worker counts for itself."""

    url: SecretStr | None = Field(
        None,
        description="redis://, rediss:// (TLS), unix://, redis+sentinel://HOST,…/SERVICE; several hosts: a cluster",
    )
    on_failure: Literal["local", "open", "closed"] = Field(
        "local", description="while it is away: each worker counts for itself, nobody counts, or requests are refused"
    )
    timeout_seconds: float = Field(0.05, gt=0, le=0.1, description="longest wait of a request for an answer")
    namespace: str = Field("gatehouse", pattern=r"^[A-Za-z0-9_.:-]{1,64}$", description="what every key begins with")


class DatabaseSettings(Section):
    """SQL: what must survive. SQLite in the state directory unless a URL is given."""

    url: SecretStr | None = Field(None, description="SQLAlchemy URL; default: SQLite file in the state dir")


class EngineTarget(Section):
    """What the gateway must know of the engine it stands before."""

    url: str | None = Field(None, description="base URL; none: the launcher tells it on its status socket")
    api_key: SecretStr | None = None
    status_socket: Path | None = Field(None, description="the launcher's status socket; none: probe /health")
    model: str = "gpt-oss-20b"
    max_model_len: Count = 8192
    keep_alive_seconds: Seconds = Field(4, description="reuse idle connections no longer than this")

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.url is None and self.status_socket is None:
            raise ValueError("engine: an url or a status_socket is needed to reach the engine")
        return self


class Config(Section):
    """Everything the gateway is told; `gatehouse` builds it from gatehouse.yaml."""

    state_dir: Path
    engine: EngineTarget
    gateway: GatewaySettings = GatewaySettings()
    redis: RedisSettings = RedisSettings()
    database: DatabaseSettings = DatabaseSettings()
    auth: AuthSettings = AuthSettings()
    plans: dict[str, PlanSettings] = DEFAULT_PLANS
    limits: LimitsSettings = LimitsSettings()
    logging: LoggingSettings = LoggingSettings()
    tracing: TracingSettings = TracingSettings()
    chat: ChatSettings = ChatSettings()

    @property
    def workers_apart(self) -> bool:
        """Whether several workers would each count for itself."""
        return self.gateway.workers > 1 and self.redis.url is None
