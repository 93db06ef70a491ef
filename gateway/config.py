"""The gateway's settings: one frozen value, built once, every problem reported at once (pydantic collects them).

Each class is one section of `gatehouse.yaml`. Times are seconds, sizes bytes, unless the name says otherwise.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import Field, IPvAnyNetwork, SecretStr, field_validator, model_validator

from gateway.chat.settings import ChatSettings
from gateway.section import Bytes, Count, Seconds, Section


class GatewaySettings(Section):
    """Listeners, deadlines and sizes of the HTTP side."""

    host: str = Field("127.0.0.1", description="address of the public listener")
    port: int = Field(8080, ge=0, le=65535, description="port of the public listener; 0 picks a free one")
    admin_host: str = Field("127.0.0.1", description="address of the admin listener; keep it on loopback")
    admin_port: int = Field(9090, ge=0, le=65535, description="port of the admin listener; 0 picks a free one")
    workers: Count = Field(1, description="gateway processes; more than one need redis.url")
    worker_hang_seconds: Seconds = Field(
        30, description="a worker whose event loop answers its parent nothing for so long is killed and replaced"
    )
    socket_dir: Path | None = Field(
        None, description="folder where each worker N listens on worker-N.sock, for a proxy on this machine"
    )
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        (), description="addresses or networks of proxies whose X-Forwarded-For is believed"
    )
    proxy_protocol: bool = Field(
        default=False, description="connections from trusted_proxies begin with a PROXY protocol header, version 1 or 2"
    )
    backlog: Count = Field(2048, description="connections the kernel may hold before they are accepted")
    max_connections: Count = Field(8192, description="connections of clients to one worker")
    max_connections_per_address: Count | None = Field(
        1024,
        description="connections from one address or IPv6 /64; trusted proxies and Unix sockets are not counted",
    )
    head_seconds: Seconds = Field(10, description="deadline for receiving a request's line and header fields")
    max_body_bytes: Bytes = Field(8 * 1024 * 1024, description="largest request body; more is 413")
    max_json_depth: Count = Field(64, description="deepest nesting of a JSON body; more is 400")
    max_choices: Count = Field(8, description="largest `n` and `best_of`")
    max_logprobs: Annotated[int, Field(ge=0)] = Field(20, description="largest `logprobs`/`top_logprobs`")
    max_stop: Count = Field(16, description="most `stop` sequences")
    max_token_ids: Count = Field(1024, description="most tokens in `logit_bias` and in lists of token ids")
    max_logprob_values: Count = Field(
        200_000, description="most log probabilities in one answer: tokens x choices x (`top_logprobs` + 1)"
    )
    max_tools: Count = Field(128, description="most `tools`")
    max_tools_bytes: Bytes = Field(256 * 1024, description="largest `tools`, as JSON")
    max_schema_bytes: Bytes = Field(64 * 1024, description="largest `response_format` and the like, as JSON")
    max_prompts: Count = Field(64, description="most prompts in one completions request")
    max_inputs: Count = Field(2048, description="most texts in one request for embeddings, scores or a ranking")
    media_domains: tuple[str, ...] = Field(
        (), description="hosts that the engine may fetch media from, over https; others must be data: URLs"
    )
    model_aliases: tuple[str, ...] = Field((), description="further names by which callers may ask for the model")
    cache_salt: Literal["team", "subject", "none"] = Field(
        "team", description="who shares the prefix cache: a team, nobody, everybody"
    )
    default_max_tokens: Count = Field(2048, description="output limit set when the client names none")
    hold_seconds: Annotated[float, Field(ge=0)] = Field(
        30, description="how long a request waits for an engine that is loading or restarting"
    )
    max_resends: Annotated[int, Field(ge=0)] = Field(
        1, description="how often a request that died with its engine is sent again; a poisonous one must not kill more"
    )
    connect_seconds: Seconds = Field(2, description="deadline for a connection to the engine")
    first_token_seconds: Seconds = Field(120, description="deadline for the first token, queueing included")
    next_token_seconds: Seconds = Field(
        120, description="deadline between two reads of a stream; a model may work unseen while a tool call is parsed"
    )
    total_seconds: Seconds = Field(3600, description="deadline of a request that is answered in one piece")
    write_seconds: Seconds = Field(30, description="a client that reads nothing for so long is cut off")
    body_seconds: Seconds = Field(30, description="deadline for receiving a request's body")
    max_waiting: Count | None = Field(
        256, description="requests in the engine's waiting line; more are 503, those of the plans that come last first"
    )
    drain_seconds: Seconds = Field(30, description="how long running streams may finish on shutdown")

    @field_validator("socket_dir")
    @classmethod
    def _fits_a_socket(cls, folder: Path | None) -> Path | None:
        # unix(7): a socket's path has at most 107 bytes; the worker's number may have three digits
        if folder is not None and len(os.fsencode(folder.absolute() / "worker-999.sock")) > 107:
            raise ValueError("the path is too long for a Unix socket: at most 91 bytes")
        return folder

    @model_validator(mode="after")
    def _announced_by_somebody(self) -> Self:
        if self.proxy_protocol and not self.trusted_proxies:
            raise ValueError("proxy_protocol: name in trusted_proxies who may use it; anybody else could be anybody")
        return self


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


Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]


class ClaimNames(Section):
    """Where an issuer's tokens say what. A dotted path such as `realm_access.roles` leads into objects."""

    subject: str = "sub"
    team: str = "team"
    scopes: str = "scope"
    plan: str = Field("plan", description="a plan, or groups that `plan_names` gives plans to")
    models: str = "models"


class SsoSettings(Section):
    """Signing in to the chat at an issuer: the OpenID Connect client that it knows this gateway as."""

    client_id: str = Field(min_length=1)
    client_secret_file: Path | None = Field(None, description="none: a public client, which has PKCE alone")
    title: str | None = Field(None, description="what the login page calls it; default: the issuer's name")
    scopes: tuple[str, ...] = Field(("openid", "profile", "email"), description="what is asked for")

    @field_validator("scopes")
    @classmethod
    def _is_openid(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        if "openid" not in scopes:
            raise ValueError("must have openid")
        return scopes


class IssuerSettings(Section):
    """A foreign issuer of tokens: whose they are, by which keys they are signed, what they may say."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="short name; the default subject prefix")
    issuer: str = Field(min_length=1, description="required `iss`; with `discovery` its URL, too")
    audience: tuple[str, ...] = Field(min_length=1, description="accepted `aud`, any of them")
    discovery: bool = Field(default=False, description="find the keys through OpenID Connect discovery")
    jwks_url: str | None = Field(None, description="address of the key set")
    jwks_file: Path | None = Field(None, description="file with a key set, read again when it changes")
    pem_files: dict[str, Path] = Field({}, description="`kid` → public key or certificate in PEM")
    secret_files: dict[str, Path] = Field({}, description="`kid` → secret shared with the issuer, for HS256 and longer")
    algorithm: Algorithm | None = Field(
        None, description="of keys that do not name theirs; default: RS256, HS256, EdDSA, or that of the curve"
    )
    claims: ClaimNames = ClaimNames()
    subject_prefix: str | None = Field(
        None,
        pattern=r"^([a-z0-9][a-z0-9-]{0,31}:)?$",
        description="set before each subject, so that issuers cannot speak for each other; default: `NAME:`",
    )
    scope_names: dict[str, str] = Field({}, description="the issuer's name → scope; none: names are scopes")
    grants: tuple[str, ...] = Field(("api", "chat"), description="scopes this issuer may give; others are ignored")
    plan_names: dict[str, str] = Field({}, description="group → plan; the first that fits counts")
    default_scopes: tuple[str, ...] = Field(("api",), description="scopes of a token that has no such claim")
    default_plan: str | None = Field(None, description="plan of a token that names none; default: auth.default_plan")
    default_team: str | None = Field(None, description="team of a token that names none")
    sso: SsoSettings | None = Field(None, description="people sign in to the chat there")

    @field_validator("issuer", "jwks_url")
    @classmethod
    def _no_plain_http(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("http:") and not is_near(value):
            raise ValueError("must use https: who can change keys on their way can be anybody")
        return value

    @field_validator("audience", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> Self:
        sources = (self.discovery, self.jwks_url, self.jwks_file, self.pem_files, self.secret_files)
        if sum(map(bool, sources)) != 1:
            raise ValueError("name one of discovery, jwks_url, jwks_file, pem_files, secret_files")
        if self.discovery and not self.issuer.startswith(("https://", "http://")):
            raise ValueError("with discovery, issuer must be a URL")
        if self.sso is not None and not self.discovery:
            raise ValueError("sso needs discovery: where people sign in is found so")
        return self


def is_near(url: str) -> bool:
    """Whether a URL leads to this host."""
    return urlsplit(url).hostname in {"127.0.0.1", "::1", "localhost"}


class AuthSettings(Section):
    """Who may call: how tokens are verified and chat sessions kept."""

    secret_file: Path | None = Field(
        None, description="HS256 key of at least 32 bytes; default: STATE_DIR/jwt.key, made on first start"
    )
    previous_secret_files: tuple[Path, ...] = Field(
        (), description="earlier keys: they sign nothing more, what they signed is accepted"
    )
    issuer: str | None = Field(None, description="required `iss` of a token; none: not checked")
    audience: str | None = Field(None, description="required `aud` of a token; none: not checked")
    issuers: tuple[IssuerSettings, ...] = Field((), description="others whose tokens are accepted, too")
    public_url: str | None = Field(
        None, pattern=r"^https?://[^/?#@]+$", description="where browsers reach the chat; sso needs it"
    )
    jwks_max_age_seconds: Seconds = Field(
        300, description="key sets are fetched again after so long; a Cache-Control of the issuer's may say sooner"
    )
    jwks_cooldown_seconds: Seconds = Field(
        30, description="least time between two fetches, however many unknown keys or failures"
    )
    jwks_stale_seconds: Seconds = Field(86_400, description="how long the last keys count while none can be fetched")
    leeway_seconds: Annotated[float, Field(ge=0, le=300)] = Field(10, description="tolerated clock skew")
    max_token_days: Count = Field(366, description="longest lifetime a token may have")
    default_scopes: tuple[str, ...] = Field(("api",), description="scopes of a token that names none")
    default_plan: str = Field("service", description="plan of a token that names none")
    user_plan: str = Field("member", description="plan of a new chat user")
    session_idle_hours: Seconds = Field(12, description="a chat session unused for so long ends")
    session_max_days: Seconds = Field(30, description="a chat session never lives longer")
    cookie_over_http: bool = Field(
        default=False, description="allow the session cookie over plain HTTP (a LAN without TLS; unsafe)"
    )

    @model_validator(mode="after")
    def _issuers_differ(self) -> Self:
        for key in ("name", "issuer"):
            values = [getattr(issuer, key) for issuer in self.issuers]
            if len(set(values)) < len(values):
                raise ValueError(f"issuers: each needs its own {key}")
        if self.issuer in {issuer.issuer for issuer in self.issuers}:
            raise ValueError("issuers: one of them has the name of this house, auth.issuer")
        if self.public_url is None and any(issuer.sso for issuer in self.issuers):
            raise ValueError("public_url: sso needs it, such as https://chat.example.com")
        return self


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


class BodySettings(Section):
    """Prompts and answers in the record. They are what people said: mind whose eyes see the file, and for how long."""

    enabled: bool = Field(default=False, description="keep prompts and answers in the record's file")
    stdout: bool = Field(default=False, description="in its copy on stdout, too")
    max_bytes: Bytes = Field(16 * 1024, le=1024 * 1024, description="kept of each prompt and of each answer")
    redact_fields: tuple[str, ...] = Field(
        (
            "password", "passphrase", "secret", "client_secret", "api_key", "apikey", "access_token", "refresh_token",
            "authorization", "private_key",
        ),
        description="names of JSON fields, in any letters' case, whose values are not kept",
    )  # fmt: skip
    redact_patterns: tuple[str, ...] = Field((), description="regular expressions of what else is not kept")

    @field_validator("redact_patterns")
    @classmethod
    def _are_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                found = re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
            if found.match(""):
                raise ValueError(f"{pattern!r} matches nothing at all, and so everywhere")
        return patterns


class LoggingSettings(Section):
    """The record: one JSON line a request."""

    file: Path | None = Field(None, description="default: STATE_DIR/requests.jsonl")
    stdout: bool = Field(default=True, description="also print the lines")
    format: Literal["json", "console"] = Field("json", description="form of the lines on stdout")
    level: Literal["debug", "info", "warning", "error"] = "info"
    max_bytes: Bytes = Field(100 * 1024 * 1024, description="the file is rotated at this size")
    keep_files: Count = Field(5, description="rotated files kept")
    queue_lines: Count = Field(10_000, description="lines waiting for the disk; more are dropped and counted")
    bodies: BodySettings = BodySettings()


class TracingSettings(Section):
    """Spans, one a request, for a collector that speaks OTLP over HTTP. Needs the extra `otlp`."""

    endpoint: str | None = Field(
        None, description="where spans go, such as http://127.0.0.1:4318/v1/traces; none: no spans"
    )
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="share of the traces that begin here; a caller's own decision stands"
    )
    queue_spans: Count = Field(2048, description="spans waiting for the collector; more are dropped and counted")
    timeout_seconds: Seconds = Field(5, description="longest wait for the collector, off the request path")

    @field_validator("endpoint")
    @classmethod
    def _has_a_path(cls, endpoint: str | None) -> str | None:
        parts = urlsplit(endpoint or "http://none/path")
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path in {"", "/"}:
            raise ValueError("must be a URL with its path, such as http://127.0.0.1:4318/v1/traces")
        return endpoint


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
