"""JWTs: verify what callers present, issue our own. Verifying never waits: no SQL, no network.

PyJWT brings the algorithms of public keys; `signed.py` checks form and signature, `claims.py` what a token says.
"""

import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import msgspec

from gateway.auth.claims import EXPIRED, ClaimRules, Identity, Refusal, read_claims
from gateway.auth.issuers import Issuer
from gateway.auth.keys import Key, KeySet, fingerprint
from gateway.auth.revocations import RevocationList
from gateway.auth.signed import MALFORMED, MAX_TOKEN_BYTES, Opened, open_token
from gateway.config import AuthSettings
from gateway.context import Principal
from gateway.errors import Unauthorized
from gateway.store.rows import IssuedToken

CACHE_SIZE = 4096


@dataclass(slots=True)
class Explanation(Opened):
    """All that can be said of a token: what it contains, and every reason why it would be refused."""

    identity: Identity | None = None
    refusals: list[Refusal] = field(default_factory=list)


class TokenVerifier:
    """Turns a token into a Principal, or says why not.

    Verified tokens are remembered by their full SHA-256 until they expire; revocation is asked each time.
    """

    def __init__(
        self,
        auth: AuthSettings,
        plans: Collection[str],
        keys: KeySet,
        revocations: RevocationList,
        *,
        issuers: Mapping[str, Issuer] = MappingProxyType({}),
        clock: Callable[[], float] = time.time,
        cache_size: int = CACHE_SIZE,
    ) -> None:
        self._leeway = auth.leeway_seconds
        self._plans = plans
        self._house = Issuer(ClaimRules.of_house(auth), keys)
        self._issuers = issuers
        self._revocations = revocations
        self._clock = clock
        self._cache_size = cache_size
        self._verified: OrderedDict[bytes, Identity] = OrderedDict()

    def verify(self, token: str) -> Principal:
        """The caller that `token` proves. Unauthorized, with the reason as its code, when it proves none."""
        return self.identify(token).principal

    def identify(self, token: str) -> Identity:
        """The same, with what `refusal` needs to judge it again later."""
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise _unauthorized(MALFORMED)
        digest = fingerprint(token)
        identity = self._verified.get(digest)
        if identity is None:
            return self._verify_new(token, digest)
        if self._clock() >= identity.expires_at + self._leeway:
            del self._verified[digest]
            raise _unauthorized(EXPIRED)
        if self._revocations.refuse_token(identity):
            raise _unauthorized(_REVOKED)
        self._verified.move_to_end(digest)
        return identity

    def refusal(self, identity: Identity) -> Unauthorized | None:
        """Why an identity that was proven earlier counts no more."""
        return _unauthorized(_REVOKED) if self._revocations.refuse_token(identity) else None

    def forget(self) -> None:
        """Verify everything anew from now on: a key was withdrawn."""
        self._verified.clear()

    def explain(self, token: str) -> Explanation:
        """Everything about a token, for an operator; never raises."""
        found = Explanation()
        found.refusals.extend(self._refusals(token, found))
        return found

    def _verify_new(self, token: str, digest: bytes) -> Identity:
        found = Explanation()
        refusal = next(self._refusals(token, found), None)  # the first decides; nothing behind it is looked at
        identity = found.identity
        if refusal is not None or identity is None:
            raise _unauthorized(refusal or MALFORMED)
        self._verified[digest] = identity
        if len(self._verified) > self._cache_size:
            self._verified.popitem(last=False)
        return identity

    def _refusals(self, token: str, found: Explanation) -> Iterator[Refusal]:
        """Examine step by step, filling `found`."""
        yield from open_token(token, lambda claims: self._issuer_of(claims).keys, found)
        if not found.readable:
            return
        rules = self._issuer_of(found.claims).rules
        found.identity, refusals = read_claims(found.claims, rules, self._plans, self._clock())
        yield from refusals
        if found.identity is not None and self._revocations.refuse_token(found.identity):
            yield _REVOKED

    def _issuer_of(self, claims: dict[str, Any]) -> Issuer:
        name = claims.get("iss")
        return self._issuers.get(name, self._house) if isinstance(name, str) else self._house


_REVOKED = Refusal("token_revoked", "The token was revoked.")


def _unauthorized(refusal: Refusal) -> Unauthorized:
    return Unauthorized(refusal.message, code=refusal.code)


def issue_token(
    key: Key,
    auth: AuthSettings,
    *,
    subject: str,
    ttl_seconds: float,
    team: str | None = None,
    plan: str | None = None,
    scopes: Collection[str] | None = None,
    models: Collection[str] = (),
    clock: Callable[[], float] = time.time,
) -> tuple[str, IssuedToken]:
    """Sign a token that this house's TokenVerifier accepts; returns it and its record, which does not contain it.

    Nothing is written down: keeping the record is the caller's job.
    """
    now = clock()
    record = IssuedToken(
        id=secrets.token_hex(10),
        subject=subject,
        team=team,
        plan=plan or auth.default_plan,
        scopes=tuple(auth.default_scopes if scopes is None else scopes),
        models=tuple(models),
        key_id=key.kid,
        issued_at=now,  # with fractions: a revocation must tell what came before from what came after
        expires_at=float(math.ceil(now + ttl_seconds)),
    )
    claims: dict[str, Any] = {
        "sub": record.subject,
        "iat": record.issued_at,
        "exp": int(record.expires_at),
        "jti": record.id,
        "scope": " ".join(record.scopes),
        "plan": record.plan,
        "team": team,
        "models": list(record.models) or None,
        "iss": auth.issuer,
        "aud": auth.audience,
    }
    payload = msgspec.json.encode({name: value for name, value in claims.items() if value is not None})
    return key.sign(payload), record
