"""Issuers beside the house: a key of every algorithm, made once, and tokens signed by hand so that anything can be."""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms

from gateway.auth.claims import ClaimRules
from gateway.auth.issuers import Issuer
from gateway.auth.jwks import read_jwks
from gateway.auth.keys import Key, KeyFinder, KeySet, encode_segment
from gateway.auth.revocations import RevocationList
from gateway.auth.tokens import TokenVerifier
from gateway.config import DEFAULT_PLANS, AuthSettings, IssuerSettings
from tests.unit.gateway.auth.house import NOW, SECRET, Clock

ISSUER = "https://id.example"
ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
SYMMETRIC = ("HS256", "HS384", "HS512")
ALGORITHMS = (*ASYMMETRIC, *SYMMETRIC)
_CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


def private_key(algorithm: str, number: int = 0) -> Any:
    """The private key (or secret) number `number` of an algorithm; the RSA ones share theirs, they take long to make."""
    return _made(algorithm, number)


@functools.cache
def _made(algorithm: str, number: int) -> Any:
    if algorithm.startswith("HS"):
        return hashlib.shake_256(f"{algorithm} {number}".encode()).digest(64)
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm]())
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return _rsa(number)


@functools.cache
def _rsa(_number: int) -> Any:
    return rsa.generate_private_key(65537, 2048)


def public_jwk(algorithm: str, number: int = 0, **changes: Any) -> dict[str, Any]:
    """The published half, with `kid` and `alg`; `...` takes a member away."""
    key = private_key(algorithm, number)
    match algorithm[:2]:
        case "HS":
            jwk = HMACAlgorithm.to_jwk(key, as_dict=True)
        case "ES":
            jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case "Ed":
            jwk = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    jwk.pop("key_ops", None)
    jwk = {**jwk, "kid": f"{algorithm}-{number}", "alg": algorithm, "use": "sig", **changes}
    return {name: value for name, value in jwk.items() if value is not ...}


def jwks(*keys: Mapping[str, Any]) -> bytes:
    """A published set."""
    return json.dumps({"keys": list(keys)}).encode()


def public_pem(algorithm: str, number: int = 0) -> bytes:
    """The published half in PEM."""
    return private_key(algorithm, number).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(algorithm: str, number: int = 0) -> bytes:
    """The private half in PEM."""
    return private_key(algorithm, number).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def signature(algorithm: str, signing_input: bytes, number: int = 0) -> bytes:
    """The raw JWS signature."""
    return get_default_algorithms()[algorithm].sign(signing_input, private_key(algorithm, number))


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims of the foreign issuer; `...` takes one away."""
    good = {"iss": ISSUER, "aud": "gatehouse", "sub": "ada", "iat": NOW, "exp": NOW + 3600, "jti": "f1", **changes}
    return {name: value for name, value in good.items() if value is not ...}


def sign(algorithm: str, payload: Any = None, *, number: int = 0, **header: Any) -> str:
    """A token of the issuer; the header's fields as given, `...` takes one away."""
    head = {"alg": algorithm, "typ": "JWT", "kid": f"{algorithm}-{number}", **header}
    head = {name: value for name, value in head.items() if value is not ...}
    body = payload if isinstance(payload, bytes) else json.dumps(payload or claims()).encode()
    signing_input = f"{encode_segment(json.dumps(head).encode())}.{encode_segment(body)}"
    return f"{signing_input}.{encode_segment(signature(algorithm, signing_input.encode(), number))}"


def key_of(algorithm: str, number: int = 0) -> Key:
    """The key as the gateway knows it."""
    if algorithm in SYMMETRIC:
        return Key.from_secret(private_key(algorithm, number), algorithm, f"{algorithm}-{number}")
    return read_jwks(jwks(public_jwk(algorithm, number))).keys[0]


def settings(**changes: Any) -> IssuerSettings:
    """A foreign issuer's settings."""
    return IssuerSettings.model_validate(
        {"name": "corp", "issuer": ISSUER, "audience": "gatehouse", "jwks_url": f"{ISSUER}/jwks", **changes}
    )


@dataclass
class Town:
    """A house and a foreign issuer, one verifier for both."""

    keys: KeyFinder
    issuer: IssuerSettings
    clock: Clock

    def __post_init__(self) -> None:
        auth = AuthSettings()
        self.house_key = Key.from_secret(SECRET)
        self.revocations = RevocationList(self.clock)
        self.verifier = TokenVerifier(
            auth,
            DEFAULT_PLANS,
            KeySet([self.house_key]),
            self.revocations,
            issuers={self.issuer.issuer: Issuer(ClaimRules.of_issuer(self.issuer, auth), self.keys)},
            clock=self.clock,
        )

    def verdict(self, token: str) -> str | None:
        """The code of the refusal; None when it is accepted."""
        return next((refusal.code for refusal in self.verifier.explain(token).refusals), None)


def town(*keys: Key, **changes: Any) -> Town:
    """A town whose issuer has these keys; without any, one of each algorithm."""
    return Town(KeySet(keys or map(key_of, ALGORITHMS)), settings(**changes), Clock())
