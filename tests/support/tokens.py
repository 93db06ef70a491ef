"""Tokens that a gateway under test accepts."""

from __future__ import annotations

from typing import Any

from gateway.auth.keys import load_keys
from gateway.auth.tokens import issue_token
from gateway.config import Config
from gateway.store import IssuedToken


def issued(
    config: Config, subject: str = "tester", *, ttl_seconds: float = 3600, **how: Any
) -> tuple[str, IssuedToken]:
    """One, signed with the key of a gateway's settings, and its record; `how` is issue_token's."""
    return issue_token(load_keys(config).signing, config.auth, subject=subject, ttl_seconds=ttl_seconds, **how)


def token(config: Config, subject: str = "tester", **how: Any) -> str:
    """The token alone."""
    return issued(config, subject, **how)[0]
