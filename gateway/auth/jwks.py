"""Public keys in the forms that others hand out: JWK sets (RFC 7517) and PEM. Pure: bytes in, Keys out.

Whatever the form, a key has one algorithm before the first token is seen: the one it names, the configured one, or
that of its type. Published sets hold what is not for us too: keys to encrypt with, of unknown types, too small, or
(a trap: everybody could sign) symmetric ones. Those are left out, with a reason.
"""

from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jwt import PyJWK
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from gateway.auth.claims import strict_json
from gateway.auth.keys import Key, decode_segment

MIN_RSA_BITS = 2048  # RFC 7518, section 3.3
MAX_RSA_BITS = 8192  # verifying costs grow with the square
MAX_EXPONENT = 2**32
MAX_KEYS = 100
MAX_KID = 256

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
# what a type and curve can do; the first is meant when nothing is said (RFC 7518, RFC 8037)
_ALGORITHMS: dict[tuple[str, str | None], tuple[str, ...]] = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
# only these reach the library: a private half that was published by mistake makes no signing key here
_PUBLIC = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}


@dataclass(slots=True)
class JwkSet:
    """What a published set holds: keys that can be used, and why the others cannot."""

    keys: list[Key] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def read_jwks(data: bytes, algorithm: str | None = None) -> JwkSet:
    """The keys of a JWK set; `algorithm` is for those that name none. ValueError when it is no set, or too large."""
    entries = strict_json(data).get("keys")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("not a JWK set")
    if len(entries) > MAX_KEYS:
        raise ValueError(f"more than {MAX_KEYS} keys")
    found = JwkSet()
    for number, entry in enumerate(entries):
        try:
            key = _read_jwk(entry, algorithm)
        except ValueError as reason:
            found.left_out.append(f"key {number + 1}: {reason}")
            continue
        if any(known.kid == key.kid for known in found.keys):
            # which of the two a token means cannot be told
            found.left_out.append(f"key {number + 1}: its kid is given twice")
        else:
            found.keys.append(key)
    return found


def _read_jwk(entry: dict[str, Any], algorithm: str | None) -> Key:
    uses = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(uses, list) or "verify" not in uses:
        raise ValueError("not for signatures")
    kind, kid = entry.get("kty"), entry.get("kid", "")
    if not isinstance(kind, str) or kind not in _PUBLIC:
        raise ValueError("its type is not accepted")
    if not isinstance(kid, str) or len(kid) > MAX_KID:
        raise ValueError("its kid is not a short text")
    chosen = _algorithm(kind, entry.get("crv") if kind != "RSA" else None, entry.get("alg") or algorithm)
    public = {name: entry[name] for name in _PUBLIC[kind] if isinstance(entry.get(name), str)}
    for name in public.keys() - {"crv"}:
        decode_segment(public[name])  # canonical, or two parsers could read two keys
    try:
        jwk = PyJWK({"kty": kind, **public}, chosen)
    except (PyJWTError, UnsupportedAlgorithm, KeyError):
        raise ValueError("it is malformed") from None
    _check_strength(jwk.key)
    return Key(kid, chosen, jwk)


def _algorithm(kind: str, curve: object, wanted: object) -> str:
    possible = _ALGORITHMS.get((kind, curve if isinstance(curve, str) else None), ())
    if wanted is None and possible:
        return possible[0]
    if isinstance(wanted, str) and wanted in possible:
        return wanted
    raise ValueError("its algorithm is not accepted, or not that of its type")


def _check_strength(key: object) -> None:
    if isinstance(key, RSAPublicKey):
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted")
        if not 2 < key.public_numbers().e < MAX_EXPONENT:
            raise ValueError("an RSA key with a strange exponent")


def read_pem(data: bytes, kid: str, algorithm: str | None = None) -> Key:
    """The public key of a PEM file, plain or in a certificate. ValueError says why there is none."""
    if b"PRIVATE KEY" in data:
        raise ValueError("holds a private key; only the public one is needed here")
    try:
        public: object = (
            load_pem_x509_certificate(data).public_key() if b"CERTIFICATE" in data else load_pem_public_key(data)
        )
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("not a public key in PEM") from None
    jwk = _as_jwk(public)
    _check_strength(public)
    chosen = _algorithm(jwk["kty"], jwk.get("crv"), algorithm)
    return Key(kid, chosen, PyJWK(jwk, chosen))


def _as_jwk(public: object) -> dict[str, Any]:
    match public:
        case RSAPublicKey():
            jwk = RSAAlgorithm.to_jwk(public, as_dict=True)
        case EllipticCurvePublicKey() if public.curve.name in {"secp256r1", "secp384r1", "secp521r1"}:
            jwk = ECAlgorithm.to_jwk(public, as_dict=True)
        case Ed25519PublicKey() | Ed448PublicKey():
            jwk = OKPAlgorithm.to_jwk(public, as_dict=True)
        case _:
            raise ValueError("a key of a type that is not accepted")
    return {name: jwk[name] for name in ("kty", *_PUBLIC[jwk["kty"]])}
