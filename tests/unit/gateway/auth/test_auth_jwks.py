"""Published key sets: what is taken of them, what is left out and why."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from gateway.auth.jwks import MAX_KEYS, read_jwks, read_pem
from tests.unit.gateway.auth.foreign import ASYMMETRIC, jwks, key_of, private_key, public_jwk, public_pem, sign


def left_out(*entries: dict[str, Any]) -> str:
    found = read_jwks(jwks(*entries))
    assert found.keys == []
    return " ".join(found.left_out)


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_key_of_each_algorithm(algorithm: str) -> None:
    """A published key is taken with its id and its algorithm; unknown members do not matter."""
    found = read_jwks(jwks(public_jwk(algorithm, x5t="x", extra=1)))
    assert [(key.kid, key.algorithm) for key in found.keys] == [(f"{algorithm}-0", algorithm)]


@pytest.mark.parametrize(
    ("algorithm", "assumed"),
    [("RS256", "RS256"), ("ES256", "ES256"), ("ES384", "ES384"), ("ES512", "ES512"), ("EdDSA", "EdDSA")],
)
def test_a_key_that_names_no_algorithm(algorithm: str, assumed: str) -> None:
    """Its type and curve say which; of RSA's six the configuration may choose another than RS256."""
    assert read_jwks(jwks(public_jwk(algorithm, alg=...))).keys[0].algorithm == assumed
    chosen = read_jwks(jwks(public_jwk("RS256", alg=...)), "PS384").keys[0]
    assert chosen.algorithm == "PS384"
    assert read_jwks(jwks(public_jwk("ES256", alg=...)), "PS384").keys == []


def small_rsa() -> dict[str, Any]:
    return RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)


LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "symmetric": ({"kty": "oct", "k": "A" * 43, "alg": "HS256"}, "type"),
    "for encryption": (public_jwk("RS256", use="enc"), "not for signatures"),
    "to sign with only": (public_jwk("RS256", key_ops=["sign"]), "not for signatures"),
    "of a symmetric algorithm": (public_jwk("RS256", alg="HS256"), "algorithm"),
    "of algorithm none": (public_jwk("RS256", alg="none"), "algorithm"),
    "of another curve's algorithm": (public_jwk("ES256", alg="ES384"), "algorithm"),
    "of an unknown curve": (public_jwk("ES256", crv="P-257", alg=...), "algorithm"),
    "of Bitcoin's curve": (
        ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256K1()).public_key(), as_dict=True),
        "algorithm",
    ),
    "a curve that is no text": (public_jwk("ES256", crv=["P-256"]), "algorithm"),
    "an algorithm that is no text": (public_jwk("ES256", alg=["ES256"]), "algorithm"),
    "no type": (public_jwk("ES256", kty=...), "type"),
    "a type that is no text": (public_jwk("ES256", kty=["EC"]), "type"),
    "a kid that is no text": (public_jwk("ES256", kid=1), "kid"),
    "a kid without end": (public_jwk("ES256", kid="x" * 257), "kid"),
    "not on its curve": (public_jwk("ES256", y=public_jwk("ES256")["x"]), "malformed"),
    "half a key": (public_jwk("ES256", y=...), "malformed"),
    "a number that is no text": (public_jwk("RS256", n=65537), "malformed"),
    "padded": (public_jwk("EdDSA", x=public_jwk("EdDSA")["x"] + "="), "base64url"),
    "too small": (small_rsa(), "1024 bits"),
    "exponent without end": (public_jwk("RS256", e="AgAAAAE"), "exponent|malformed"),
    "exponent one": (public_jwk("RS256", e="AQ"), "exponent|malformed"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_is_left_out(case: str) -> None:
    """A key that is not for us, or not sound, is left out with a reason; the others of the set count."""
    entry, reason = LEFT_OUT[case]
    assert any(word in left_out(entry) for word in reason.split("|")), left_out(entry)
    assert [key.kid for key in read_jwks(jwks(entry, public_jwk("EdDSA"))).keys] == ["EdDSA-0"]


def test_one_kid_twice() -> None:
    """Of two keys under one id the first stays; which one a token means could not be told."""
    found = read_jwks(jwks(public_jwk("ES256", kid="k"), public_jwk("ES256", 1, kid="k")))
    assert len(found.keys) == 1
    assert found.keys[0].is_same(key_of("ES256"))
    assert "twice" in found.left_out[0]


def test_a_private_half_is_dropped() -> None:
    """A key published with its private half serves as a public one: nothing here can sign with it."""
    for algorithm, tool in (("RS256", RSAAlgorithm), ("ES256", ECAlgorithm)):
        jwk = {**tool.to_jwk(private_key(algorithm), as_dict=True), "kid": "k", "alg": algorithm}
        jwk.pop("key_ops", None)
        key = read_jwks(jwks(jwk)).keys[0]
        token = sign(algorithm).encode()
        with pytest.raises((AttributeError, TypeError)):
            key.sign(token)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": [1]}',
        b'{"keys": [], "keys": []}',
        b"<html>",
        b"[" * 100_000,
        jwks(*[{}] * (MAX_KEYS + 1)),
    ],
)
def test_no_key_set(data: bytes) -> None:
    """What is not one plain JSON object with a list of keys, or holds too many, is refused whole."""
    with pytest.raises(ValueError, match=r"."):
        read_jwks(data)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid", "alg", "use", "key_ops"]),
        st.text() | st.integers() | st.none() | st.lists(st.text()),
    )
)
def test_any_entry(entry: dict[str, Any]) -> None:
    """Whatever stands in a set, reading it raises nothing."""
    changed = {**public_jwk("RS256"), **entry}
    read_jwks(json.dumps({"keys": [entry, changed]}).encode())


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_pem(algorithm: str) -> None:
    """A public key in PEM, plain or in a certificate, is the key that was meant."""
    for data in (public_pem(algorithm), certificate(algorithm)):
        key = read_pem(data, "k", algorithm)
        assert (key.kid, key.algorithm) == ("k", algorithm)
        assert key.is_same(key_of(algorithm))


def certificate(algorithm: str) -> bytes:
    """A certificate for the key, signed by another."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "id.example")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key(algorithm).public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    return built.sign(private_key("ES256", 9), SHA256()).public_bytes(Encoding.PEM)


def test_pem_of_other_kinds() -> None:
    """Keys that JOSE has no use for, or that are too weak, are refused by name."""
    for public, reason in (
        (dsa.generate_private_key(1024).public_key(), "not accepted"),
        (ec.generate_private_key(ec.SECP256K1()).public_key(), "not accepted"),
        (rsa.generate_private_key(65537, 1024).public_key(), "1024 bits"),
    ):
        with pytest.raises(ValueError, match=reason):
            read_pem(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "k")
    with pytest.raises(ValueError, match="algorithm"):
        read_pem(public_pem("ES256"), "k", "RS256")
