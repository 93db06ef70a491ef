"""The corpus for every algorithm: forged, confused and mutated signatures, and the verdict of each."""

import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.keys import decode_segment, encode_segment
from gateway.store.rows import Revocation, RevocationKind
from tests.unit.gateway.auth.foreign import (
    ALGORITHMS,
    ASYMMETRIC,
    SYMMETRIC,
    claims,
    key_of,
    private_key,
    public_jwk,
    public_pem,
    sign,
    signature,
    town,
)
from tests.unit.gateway.auth.house import NOW

TOWN = town()
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def resigned(token: str, change: Callable[[bytes], bytes]) -> str:
    """The token under a changed signature."""
    body, _, proof = token.rpartition(".")
    return f"{body}.{encode_segment(change(decode_segment(proof)))}"


def unsigned(header: dict[str, Any], payload: dict[str, Any], proof: bytes = b"") -> str:
    """A token under any signature."""
    return ".".join([*(encode_segment(json.dumps(part).encode()) for part in (header, payload)), encode_segment(proof)])


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda proof: (
        proof[:at] + bytes([proof[at] ^ 1]) + proof[at + 1 :] if at >= 0 else proof[:-1] + bytes([proof[-1] ^ 1])
    )


SIGNATURES: dict[str, tuple[Callable[[bytes], bytes], str | None]] = {
    "as it is": (lambda proof: proof, None),
    "first bit flipped": (flip(0), "bad_signature"),
    "last bit flipped": (flip(-1), "bad_signature"),
    "cut by a byte": (lambda proof: proof[:-1], "bad_signature"),
    "longer by a zero": (lambda proof: proof + b"\0", "bad_signature"),
    "a zero before it": (lambda proof: b"\0" + proof, "bad_signature"),
    "all zero": (lambda proof: bytes(len(proof)), "bad_signature"),
    "all ones": (lambda proof: b"\xff" * len(proof), "bad_signature"),
    "turned round": (lambda proof: proof[::-1], "bad_signature"),
    "twice": (lambda proof: proof * 2, "bad_signature"),
    "empty": (lambda proof: b"", "bad_signature"),
}


@pytest.mark.parametrize("case", SIGNATURES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_signatures(algorithm: str, case: str) -> None:
    """Of every algorithm, only the signature itself is accepted."""
    change, expected = SIGNATURES[case]
    assert TOWN.verdict(resigned(sign(algorithm), change)) == expected


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("announced", [*ALGORITHMS, "none", "ES256K", "RS1"])
def test_the_header_chooses_no_algorithm(algorithm: str, announced: str) -> None:
    """Under any other `alg` than the key's, even a signature made by that algorithm is refused."""
    header = {"alg": announced, "kid": f"{algorithm}-0"}
    body = ".".join(encode_segment(json.dumps(part).encode()) for part in (header, claims()))
    same_kind = announced[:2] == algorithm[:2] or {announced[:2], algorithm[:2]} == {"RS", "PS"}
    can_sign = announced in ALGORITHMS and same_kind and not announced.startswith("ES")
    maker = announced if can_sign and algorithm not in SYMMETRIC else algorithm
    proof = signature(maker, body.encode())
    expected = None if announced == algorithm else "wrong_algorithm"
    assert TOWN.verdict(f"{body}.{encode_segment(proof)}") == expected


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
@pytest.mark.parametrize("form", ["PEM", "PEM without its newline", "JWK", "n or x"])
def test_a_public_key_is_no_secret(algorithm: str, form: str) -> None:
    """A token under HMAC with a published key as the secret (HS/RS confusion) is refused, whatever it announces."""
    published = {
        "PEM": public_pem(algorithm),
        "PEM without its newline": public_pem(algorithm).strip(),
        "JWK": json.dumps(public_jwk(algorithm)).encode(),
        "n or x": str(public_jwk(algorithm).get("n") or public_jwk(algorithm)["x"]).encode(),
    }[form]
    for announced in (*SYMMETRIC, algorithm):
        header = {"alg": announced, "kid": f"{algorithm}-0"}
        body = unsigned(header, claims()).removesuffix(".")
        hash_name = f"sha{announced[2:]}" if announced in SYMMETRIC else "sha256"
        proof = hmac.digest(published, body.encode(), hash_name)
        expected = "bad_signature" if announced == algorithm else "wrong_algorithm"
        assert TOWN.verdict(f"{body}.{encode_segment(proof)}") == expected


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_key_of_the_same_kind(algorithm: str) -> None:
    """What another key of the algorithm signs is refused, under its own id and under the known one."""
    assert TOWN.verdict(sign(algorithm, number=1)) == "unknown_key"
    assert TOWN.verdict(sign(algorithm, number=1, kid=f"{algorithm}-0")) == "bad_signature"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_that_the_token_brings_along(algorithm: str) -> None:
    """A key in the header, by value or address, is never used, though the signature is that key's."""
    for name, value in (
        ("jwk", {} if algorithm in SYMMETRIC else public_jwk(algorithm, 1)),
        ("jku", "https://evil.example/jwks"),
        ("x5u", "https://evil.example/cert"),
        ("x5c", ["MIIB"]),
    ):
        assert TOWN.verdict(sign(algorithm, number=1, kid=f"{algorithm}-0", **{name: value})) == "token_malformed"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_inside_a_token(algorithm: str) -> None:
    """A signed token as the payload of another is refused: as plain bytes, and announced as nested."""
    inner = sign(algorithm)
    assert TOWN.verdict(sign(algorithm, inner.encode())) in {"token_malformed", "unknown_key", "wrong_algorithm"}
    assert TOWN.verdict(sign(algorithm, inner.encode(), cty="JWT")) == "token_malformed"
    assert TOWN.verdict(sign(algorithm, {"jwt": inner})) is not None


KIDS: dict[str, Any] = {
    "path": "../../../../dev/null",
    "absolute path": "/dev/null",
    "SQL": "x' UNION SELECT 'secret' --",
    "shell": "$(id)",
    "address": "https://evil.example/key",
    "NUL": "ES256-0\0",
    "newline": "ES256-0\n",
    "spaces": " ES256-0 ",
    "upper case": "es256-0",
    "empty": "",
    "missing": ...,
    "null": None,
    "number": 0,
    "true": True,
    "list": ["ES256-0"],
    "object": {"ES256-0": 1},
    "very long": "x" * 4000,
    "of the house": "HOUSE",
    "of another algorithm": "RS256-0",
}


@pytest.mark.parametrize("case", KIDS)
def test_kid_tricks(case: str) -> None:
    """`kid` is a name in a table, compared whole; it is never a path, a query, a pattern or a list."""
    kid = TOWN.house_key.kid if case == "of the house" else KIDS[case]
    expected = "wrong_algorithm" if case == "of another algorithm" else "unknown_key"
    assert TOWN.verdict(sign("ES256", kid=kid)) == expected


def test_es256_the_other_s() -> None:
    """ECDSA has two signatures for each one, (r, s) and (r, -s): both prove the key, say the same, and are revoked as one.

    Refusing the higher s, as Bitcoin does, would refuse half of what honest issuers sign: RFC 7518 has no such rule.
    """
    house = town(key_of("ES256"))
    token = sign("ES256")

    def other(proof: bytes) -> bytes:
        return proof[:32] + (P256_ORDER - int.from_bytes(proof[32:], "big")).to_bytes(32, "big")

    twin = resigned(token, other)
    assert twin != token
    assert house.verifier.verify(twin) == house.verifier.verify(token)
    house.revocations.add([Revocation(RevocationKind.TOKEN, "f1", NOW, NOW + 1e6)])
    assert [house.verdict(each) for each in (token, twin)] == ["token_revoked"] * 2


ES256_FORGERIES: dict[str, Callable[[int, int], bytes]] = {
    "r and s zero": lambda r, s: bytes(64),  # CVE-2022-21449, "psychic signatures"
    "r zero": lambda r, s: bytes(32) + s.to_bytes(32, "big"),
    "s zero": lambda r, s: r.to_bytes(32, "big") + bytes(32),
    "r is the order": lambda r, s: P256_ORDER.to_bytes(32, "big") + s.to_bytes(32, "big"),
    "s is the order": lambda r, s: r.to_bytes(32, "big") + P256_ORDER.to_bytes(32, "big"),
    "r and s exchanged": lambda r, s: s.to_bytes(32, "big") + r.to_bytes(32, "big"),
    "r with a longer integer": lambda r, s: r.to_bytes(33, "big") + s.to_bytes(33, "big"),
    "little end first": lambda r, s: r.to_bytes(32, "little") + s.to_bytes(32, "little"),
}


@pytest.mark.parametrize("case", ES256_FORGERIES)
def test_es256_forgeries(case: str) -> None:
    """Other pairs of numbers, and other spellings of the right pair, are refused."""

    def forged(proof: bytes) -> bytes:
        return ES256_FORGERIES[case](int.from_bytes(proof[:32], "big"), int.from_bytes(proof[32:], "big"))

    assert TOWN.verdict(resigned(sign("ES256"), forged)) == "bad_signature"


def test_es256_in_der() -> None:
    """The form that other protocols use for the same signature is not JOSE's."""
    body = unsigned({"alg": "ES256", "kid": "ES256-0"}, claims()).removesuffix(".")
    der = private_key("ES256").sign(body.encode(), ec.ECDSA(SHA256()))
    raw = b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(der))
    assert TOWN.verdict(f"{body}.{encode_segment(raw)}") is None
    assert TOWN.verdict(f"{body}.{encode_segment(der)}") == "bad_signature"


def test_eddsa_the_other_s() -> None:
    """Ed25519 has one signature: s plus the order of the group, the same value, is refused (RFC 8032, section 5.1.7)."""
    order = 2**252 + 27742317777372353535851937790883648493

    def other(proof: bytes) -> bytes:
        return proof[:32] + (int.from_bytes(proof[32:], "little") + order).to_bytes(32, "little")

    assert TOWN.verdict(resigned(sign("EdDSA"), other)) == "bad_signature"


def test_rsa_the_other_number() -> None:
    """An RSA signature plus the modulus, the same value, is refused."""
    modulus = private_key("RS256").public_key().public_numbers().n
    token = resigned(sign("RS256"), lambda proof: (int.from_bytes(proof, "big") + modulus).to_bytes(257, "big"))
    assert TOWN.verdict(token) == "bad_signature"


def test_pss_with_another_salt() -> None:
    """A PSS signature whose salt is not as long as the hash is refused (RFC 7518, section 3.5)."""
    body = unsigned({"alg": "PS256", "kid": "PS256-0"}, claims()).removesuffix(".")
    for salt, expected in ((32, None), (0, "bad_signature"), (222, "bad_signature")):
        proof = private_key("PS256").sign(body.encode(), padding.PSS(padding.MGF1(SHA256()), salt), SHA256())
        assert TOWN.verdict(f"{body}.{encode_segment(proof)}") == expected


@given(st.sampled_from(ALGORITHMS), st.sampled_from([*ALGORITHMS, "none"]), st.binary(max_size=80), st.data())
def test_nothing_unsigned(algorithm: str, announced: str, proof: bytes, data: st.DataObject) -> None:
    """With keys of every algorithm, no token without its own signature is accepted, whatever it says."""
    changed = data.draw(
        st.dictionaries(st.sampled_from(["sub", "aud", "exp", "scope", "iss"]), st.integers() | st.text())
    )
    assert (
        TOWN.verdict(unsigned({"alg": announced, "kid": f"{algorithm}-0"}, {**claims(), **changed}, proof)) is not None
    )
