"""A key of each algorithm, and tokens signed with it."""

from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import PyJWK
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.auth.keys import Key, encode_segment

ALGORITHMS = (
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
_CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
_SECRET = bytes(range(33, 33 + 64))


class Signer:
    """Signs as an issuer would; `key` is what the gateway holds of it, `jwk` PyJWT's form of that."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        if algorithm.startswith("HS"):
            self.private = _SECRET
            self.key = Key.from_secret(_SECRET, algorithm, "k")
            self.jwk = PyJWK({"kty": "oct", "k": encode_segment(_SECRET)}, algorithm)
            return
        if algorithm in _CURVES:
            self.private, tool = ec.generate_private_key(_CURVES[algorithm]()), ECAlgorithm
        elif algorithm == "EdDSA":
            self.private, tool = ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm
        else:
            self.private, tool = rsa.generate_private_key(65537, 2048), RSAAlgorithm
        self.jwk = PyJWK(tool.to_jwk(self.private.public_key(), as_dict=True), algorithm)
        self.key = Key("k", algorithm, self.jwk)

    def sign(self, claims: dict[str, Any]) -> str:
        """A token."""
        return jwt.encode(claims, self.private, self.algorithm, headers={"kid": "k"})
