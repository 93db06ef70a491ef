"""A house with a fixed clock: its key, settings and verifier."""

import hmac
import json
from dataclasses import dataclass, field
from typing import Any

from gateway.auth.keys import Key, KeySet, encode_segment
from gateway.auth.revocations import RevocationList
from gateway.auth.tokens import TokenVerifier
from gateway.config import DEFAULT_PLANS, AuthSettings

NOW = 1_800_000_000.0
SECRET = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKL"


@dataclass
class Clock:
    """Time that only moves when told."""

    now: float = NOW

    def __call__(self) -> float:
        """The time it is."""
        return self.now


@dataclass
class House:
    """Everything that verifying a token needs."""

    auth: AuthSettings = field(default_factory=AuthSettings)
    key: Key = field(default_factory=lambda: Key.from_secret(SECRET))
    clock: Clock = field(default_factory=Clock)
    cache_size: int = 4096

    def __post_init__(self) -> None:
        self.revocations = RevocationList(self.clock)
        self.verifier = TokenVerifier(
            self.auth, DEFAULT_PLANS, KeySet([self.key]), self.revocations, clock=self.clock, cache_size=self.cache_size
        )

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Good claims, changed; `...` as a value takes a claim away."""
        claims = {"sub": "ada", "iat": NOW, "exp": NOW + 3600, "jti": "t1", "plan": "member", "scope": "api", **changes}
        return {name: value for name, value in claims.items() if value is not ...}

    def token(self, **changes: Any) -> str:
        """A properly signed token with these claims."""
        return self.key.sign(json.dumps(self.claims(**changes)).encode())

    def raw(self, header: bytes, payload: bytes) -> str:
        """Sign whatever is given as header and payload with the house's key, by HS256."""
        signing_input = f"{encode_segment(header)}.{encode_segment(payload)}"
        return f"{signing_input}.{encode_segment(hmac.digest(SECRET, signing_input.encode(), 'sha256'))}"

    def with_header(self, **changes: Any) -> str:
        """A good token under a changed header, signed over it; `...` takes a field away."""
        header = {"alg": "HS256", "typ": "JWT", "kid": self.key.kid, **changes}
        header = {name: value for name, value in header.items() if value is not ...}
        return self.raw(json.dumps(header).encode(), json.dumps(self.claims()).encode())
