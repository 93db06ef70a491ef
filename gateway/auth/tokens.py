"""JWTs: verify what callers present, issue our own. Verifying never waits: no SQL, no network.

PyJWT brings the algorithms; the form (RFC 7515, section 3.1) and the claims are checked here and in `claims.py`,
stricter than PyJWT does, and each part is parsed once, so that no two parsers can disagree.
"""

import math
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import msgspec

from gateway.auth.claims import EXPIRED, ClaimRules, Identity, Refusal, read_claims, strict_json
from gateway.auth.issuers import Issuer
from gateway.auth.keys import Key, KeyFinder, KeySet, decode_segment, fingerprint
from gateway.auth.revocations import RevocationList
from gateway.config import AuthSettings
from gateway.context import Principal
from gateway.errors import Unauthorized
from gateway.store.rows import IssuedToken

MAX_TOKEN_BYTES = 8192
CACHE_SIZE = 4096
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
# Headers that bring a key along, or change what the rest means (CVE-2026-32597, CVE-2026-48523): never followed
_REFUSED_HEADERS = ("crit", "jku", "jwk", "x5u", "x5c", "b64", "zip", "enc", "cty")


@dataclass(slots=True)
class Explanation:
    """All that can be said of a token: what it contains, and every reason why it would be refused."""

    header: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
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
            raise _unauthorized(_MALFORMED)
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
            raise _unauthorized(refusal or _MALFORMED)
        self._verified[digest] = identity
        if len(self._verified) > self._cache_size:
            self._verified.popitem(last=False)
        return identity

    def _refusals(self, token: str, found: Explanation) -> Iterator[Refusal]:
        """Examine step by step, filling `found`.

        Of the payload only `iss` is looked at before the signature is: it says whose keys must have made it, and no
        other's are tried.
        """
        if len(token) > MAX_TOKEN_BYTES or not _COMPACT.fullmatch(token):
            yield _MALFORMED
            return
        signing_input, _, signature = token.rpartition(".")
        header, _, payload = signing_input.partition(".")
        try:
            found.header = strict_json(decode_segment(header))
            proof = decode_segment(signature)
        except ValueError:
            yield _MALFORMED
            return
        for name in _REFUSED_HEADERS:
            if name in found.header:
                yield Refusal("token_malformed", f"The token's header has `{name}`, which is not accepted here.")
        claims = _readable(payload)
        issuer = self._house if claims is None else self._issuer_of(claims)
        yield from _signature_refusals(issuer.keys, found.header, signing_input.encode(), proof)
        if claims is None:
            yield Refusal("token_malformed", "The token's payload is not one plain JSON object.")
            return
        found.claims = claims
        found.identity, refusals = read_claims(claims, issuer.rules, self._plans, self._clock())
        yield from refusals
        if found.identity is not None and self._revocations.refuse_token(found.identity):
            yield _REVOKED

    def _issuer_of(self, claims: dict[str, Any]) -> Issuer:
        name = claims.get("iss")
        return self._issuers.get(name, self._house) if isinstance(name, str) else self._house


def _readable(payload: str) -> dict[str, Any] | None:
    try:
        return strict_json(decode_segment(payload))
    except ValueError:
        return None


def _signature_refusals(
    keys: KeyFinder, header: dict[str, Any], signing_input: bytes, signature: bytes
) -> Iterator[Refusal]:
    kid = header.get("kid")
    key = keys.find(kid) if kid is None or isinstance(kid, str) else None
    if key is None:
        yield Refusal("unknown_key", "The token is signed by a key that is not known here (`kid`).")
    elif header.get("alg") != key.algorithm:
        yield Refusal("wrong_algorithm", "The token's `alg` is not that of its key.")
    elif not key.verify(signing_input, signature):
        yield Refusal("bad_signature", "The token's signature does not match.")


_MALFORMED = Refusal("token_malformed", "This is not a signed JWT in compact form.")
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
