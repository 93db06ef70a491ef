"""What the store hands out: plain frozen values, no live database objects. Times are Unix seconds."""

import enum
from dataclasses import dataclass, field


class RevocationKind(enum.StrEnum):
    """What a revocation refuses."""

    TOKEN = "token"  # noqa: S105 - one token, by its `jti`
    SUBJECT = "subject"  # all that a subject was given up to then: tokens and sessions
    SESSION = "session"  # one chat session, by its id


@dataclass(frozen=True, slots=True)
class User:
    """A person who signs in to the chat."""

    name: str
    display_name: str
    team: str | None
    plan: str
    created_at: float
    password_hash: str | None = field(default=None, repr=False)
    password_set_at: float | None = None
    disabled_at: float | None = None
    admin: bool = False  # may operate the engine and see everybody


@dataclass(frozen=True, slots=True)
class Session:
    """A chat session; the cookie's value is known to the browser only."""

    id: str
    token_hash: bytes = field(repr=False)
    user_name: str
    created_at: float
    seen_at: float
    ends_at: float
    address: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """The record of a token that was issued; not the token."""

    id: str
    subject: str
    team: str | None
    plan: str
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    key_id: str
    issued_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Revocation:
    """From `revoked_at` on, what `kind` and `target` name is refused."""

    kind: RevocationKind
    target: str
    revoked_at: float
    expires_at: float
