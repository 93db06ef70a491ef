"""Settings of who may call: tokens, sessions, and foreign issuers of both."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from gateway.section import Count, Seconds, Section

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
