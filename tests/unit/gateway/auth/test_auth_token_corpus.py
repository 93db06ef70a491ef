"""Forged, mutated and boundary tokens: the expected verdict of each. `None` means accepted."""

import base64
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.auth.keys import Key, KeySet, decode_segment, encode_segment
from gateway.auth.revocations import RevocationList
from gateway.auth.tokens import MAX_TOKEN_BYTES, TokenVerifier
from gateway.config import DEFAULT_PLANS, AuthSettings
from gateway.errors import Unauthorized
from tests.unit.gateway.auth.house import NOW, SECRET, House

HEADER = {"alg": "HS256", "typ": "JWT"}
DAY = 86_400
STRICT = AuthSettings(issuer="https://issuer.example", audience="gatehouse")
GOOD = {"iss": "https://issuer.example", "aud": "gatehouse"}


def verdict(house: House, token: str) -> str | None:
    try:
        house.verifier.verify(token)
    except Unauthorized as error:
        return error.code
    return None


def parts(house: House) -> tuple[str, str, str]:
    header, payload, signature = house.token().split(".")
    return header, payload, signature


def payload_json(house: House, text: str) -> str:
    return house.raw(json.dumps({**HEADER, "kid": house.key.kid}).encode(), text.encode("utf-8", "surrogatepass"))


def good_text(house: House) -> str:
    return json.dumps(house.claims())


def swap_last_bits(segment: str) -> str:
    """Another spelling of the same bytes: the unused low bits of the last character set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return segment[:-1] + alphabet[alphabet.index(segment[-1]) ^ 1]


FORM: dict[str, tuple[Callable[[House], str], str | None]] = {
    "good": (lambda h: h.token(), None),
    "empty": (lambda h: "", "token_malformed"),
    "one dot": (lambda h: "a.b", "token_malformed"),
    "only dots": (lambda h: "..", "token_malformed"),
    "four parts": (lambda h: h.token() + ".x", "token_malformed"),
    "five parts, as an encrypted JWT": (lambda h: ".".join(["eyJh"] * 5), "token_malformed"),
    "trailing newline": (lambda h: h.token() + "\n", "token_malformed"),
    "leading space": (lambda h: " " + h.token(), "token_malformed"),
    "space inside": (lambda h: h.token().replace(".", ". ", 1), "token_malformed"),
    "NUL inside": (lambda h: h.token().replace(".", "\0.", 1), "token_malformed"),
    "not ASCII": (lambda h: h.token() + "é", "token_malformed"),
    "lone surrogate": (lambda h: h.token() + "\udc80", "token_malformed"),
    "full-width dot": (lambda h: h.token().replace(".", "．"), "token_malformed"),
    "padded header": (lambda h: parts(h)[0] + "=." + ".".join(parts(h)[1:]), "token_malformed"),
    "padded signature": (lambda h: h.token() + "=", "token_malformed"),
    "standard base64 alphabet": (lambda h: h.token() + "+/", "token_malformed"),
    "signature spelt otherwise": (lambda h: ".".join([*parts(h)[:2], swap_last_bits(parts(h)[2])]), "token_malformed"),
    "signature cut by one": (lambda h: h.token()[:-1], "token_malformed"),
    "signature cut by a byte": (
        lambda h: ".".join([*parts(h)[:2], encode_segment(decode_segment(parts(h)[2])[:-1])]),
        "bad_signature",
    ),
    "signature cut in half": (lambda h: ".".join([*parts(h)[:2], encode_segment(b"x" * 16)]), "bad_signature"),
    "signature of impossible length": (lambda h: ".".join([*parts(h)[:2], "AAAAA"]), "token_malformed"),
    "signature longer": (lambda h: ".".join([*parts(h)[:2], encode_segment(b"x" * 64)]), "bad_signature"),
    "no signature": (lambda h: ".".join(parts(h)[:2]) + ".", "bad_signature"),
    "all-zero signature": (lambda h: ".".join([*parts(h)[:2], encode_segment(bytes(32))]), "bad_signature"),
    "payload of another": (
        lambda h: ".".join([parts(h)[0], h.token(sub="eve").split(".")[1], parts(h)[2]]),
        "bad_signature",
    ),
    "header and payload swapped": (lambda h: ".".join([parts(h)[1], parts(h)[0], parts(h)[2]]), "wrong_algorithm"),
    "as long as allowed, nonsense": (lambda h: "a" * MAX_TOKEN_BYTES, "token_malformed"),
    "one byte too long, yet signed": (lambda h: h.token(pad="x" * MAX_TOKEN_BYTES), "token_malformed"),
    "a megabyte": (lambda h: "a" * 500_000 + "." + "b" * 500_000 + ".c", "token_malformed"),
    "header of brackets only": (lambda h: h.raw(b"[" * 3000, b"{}"), "token_malformed"),
    "payload of brackets only": (lambda h: payload_json(h, "[" * 3000), "token_malformed"),
}

HEADERS: dict[str, tuple[Callable[[House], str], str | None]] = {
    "no kid, one key": (lambda h: h.with_header(kid=...), None),
    "no typ": (lambda h: h.with_header(typ=...), None),
    "another typ": (lambda h: h.with_header(typ="at+jwt"), None),
    "alg none, unsigned": (
        lambda h: f"{encode_segment(json.dumps({'alg': 'none'}).encode())}.{parts(h)[1]}.",
        "wrong_algorithm",
    ),
    "alg None": (lambda h: h.with_header(alg="None"), "wrong_algorithm"),
    "alg NONE": (lambda h: h.with_header(alg="NONE"), "wrong_algorithm"),
    "alg null": (lambda h: h.with_header(alg=None), "wrong_algorithm"),
    "alg missing": (lambda h: h.with_header(alg=...), "wrong_algorithm"),
    "alg empty": (lambda h: h.with_header(alg=""), "wrong_algorithm"),
    "alg a list": (lambda h: h.with_header(alg=["HS256"]), "wrong_algorithm"),
    "alg a number": (lambda h: h.with_header(alg=256), "wrong_algorithm"),
    "alg in lower case": (lambda h: h.with_header(alg="hs256"), "wrong_algorithm"),
    "alg with a space": (lambda h: h.with_header(alg="HS256 "), "wrong_algorithm"),
    "HS384 by the same secret": (
        lambda h: jwt.encode(h.claims(), SECRET, "HS384", headers={"kid": h.key.kid}),
        "wrong_algorithm",
    ),
    "HS512 by the same secret": (
        lambda h: jwt.encode(h.claims(), SECRET + bytes(16), "HS512", headers={"kid": h.key.kid}),
        "wrong_algorithm",
    ),
    "RS256 announced": (lambda h: h.with_header(alg="RS256"), "wrong_algorithm"),
    "kid unknown": (lambda h: h.with_header(kid="other"), "unknown_key"),
    "kid empty": (lambda h: h.with_header(kid=""), "unknown_key"),
    "kid a path": (lambda h: h.with_header(kid="../../../../dev/null"), "unknown_key"),
    "kid SQL": (lambda h: h.with_header(kid="x' UNION SELECT 'key"), "unknown_key"),
    "kid a number": (lambda h: h.with_header(kid=1), "unknown_key"),
    "kid a list": (lambda h: h.with_header(kid=[h.key.kid]), "unknown_key"),
    "kid an object": (lambda h: h.with_header(kid={}), "unknown_key"),
    "kid false": (lambda h: h.with_header(kid=False), "unknown_key"),
    "kid null": (lambda h: h.with_header(kid=None), None),
    "crit": (lambda h: h.with_header(crit=["exp"]), "token_malformed"),
    "crit, empty": (lambda h: h.with_header(crit=[]), "token_malformed"),
    "crit, null": (lambda h: h.with_header(crit=None), "token_malformed"),
    "crit b64": (lambda h: h.with_header(crit=["b64"], b64=False), "token_malformed"),
    "b64 true": (lambda h: h.with_header(b64=True), "token_malformed"),
    "jku": (lambda h: h.with_header(jku="https://evil.example/jwks"), "token_malformed"),
    "x5u": (lambda h: h.with_header(x5u="https://evil.example/cert"), "token_malformed"),
    "x5c": (lambda h: h.with_header(x5c=["MIIB"]), "token_malformed"),
    "jwk": (lambda h: h.with_header(jwk={"kty": "oct", "k": "AAAA"}), "token_malformed"),
    "zip": (lambda h: h.with_header(zip="DEF"), "token_malformed"),
    "enc": (lambda h: h.with_header(enc="A256GCM"), "token_malformed"),
    "cty JWT, nested": (lambda h: h.with_header(cty="JWT"), "token_malformed"),
    "header a list": (lambda h: h.raw(b"[]", good_text(h).encode()), "token_malformed"),
    "header a text": (lambda h: h.raw(b'"HS256"', good_text(h).encode()), "token_malformed"),
    "header empty object": (lambda h: h.raw(b"{}", good_text(h).encode()), "wrong_algorithm"),
    "header not JSON": (lambda h: h.raw(b"{alg:HS256}", good_text(h).encode()), "token_malformed"),
    "header not UTF-8": (lambda h: h.raw(b'{"alg":"HS256\xff"}', good_text(h).encode()), "token_malformed"),
    "header in UTF-16": (lambda h: h.raw('{"alg":"HS256"}'.encode("utf-16"), good_text(h).encode()), "token_malformed"),
    "alg twice": (lambda h: h.raw(b'{"alg":"none","alg":"HS256"}', good_text(h).encode()), "token_malformed"),
    "kid twice": (lambda h: h.raw(b'{"alg":"HS256","kid":"a","kid":"b"}', good_text(h).encode()), "token_malformed"),
}

CLAIMS: dict[str, tuple[dict[str, Any], str | None]] = {
    "sub missing": ({"sub": ...}, "token_malformed"),
    "sub null": ({"sub": None}, "token_malformed"),
    "sub empty": ({"sub": ""}, "token_malformed"),
    "sub a number": ({"sub": 7}, "token_malformed"),
    "sub a list": ({"sub": ["ada"]}, "token_malformed"),
    "sub with a newline": ({"sub": "ada\nroot"}, "token_malformed"),
    "sub with an escape": ({"sub": "ada\x1b[2J"}, "token_malformed"),
    "sub with text direction reversed": ({"sub": "ada\u202e"}, "token_malformed"),
    "sub a lone surrogate": ({"sub": "\ud800"}, "token_malformed"),
    "sub at its longest": ({"sub": "x" * 256}, None),
    "sub too long": ({"sub": "x" * 257}, "token_malformed"),
    "sub Chinese": ({"sub": "张伟"}, None),
    "exp missing": ({"exp": ...}, "token_malformed"),
    "exp null": ({"exp": None}, "token_malformed"),
    "exp a text": ({"exp": str(NOW + 60)}, "token_malformed"),
    "exp true": ({"exp": True}, "token_malformed"),
    "exp a list": ({"exp": [NOW + 60]}, "token_malformed"),
    "exp negative": ({"exp": -1}, "token_malformed"),
    "exp a float": ({"exp": NOW + 60.5}, None),
    "exp huge": ({"exp": 10**400}, "token_malformed"),
    "exp huge float": ({"exp": 1e308}, "token_malformed"),
    "exp in milliseconds": ({"exp": (NOW + 60) * 1000}, "token_lifetime_too_long"),
    "exp just inside the leeway": ({"iat": NOW - 60, "exp": NOW - 9.99}, None),
    "exp at the end of the leeway": ({"iat": NOW - 60, "exp": NOW - 10}, "token_expired"),
    "exp long ago": ({"iat": NOW - 9 * DAY, "exp": NOW - 8 * DAY}, "token_expired"),
    "exp zero": ({"iat": 0, "exp": 0}, "token_expired"),
    "exp equal to iat": ({"exp": NOW}, "token_malformed"),
    "exp before iat": ({"exp": NOW - 1}, "token_malformed"),
    "iat missing": ({"iat": ...}, "token_malformed"),
    "iat a text": ({"iat": "now"}, "token_malformed"),
    "iat false": ({"iat": False}, "token_malformed"),
    "iat inside the leeway": ({"iat": NOW + 10}, None),
    "iat in the future": ({"iat": NOW + 10.01}, "token_not_yet_valid"),
    "nbf now": ({"nbf": NOW}, None),
    "nbf inside the leeway": ({"nbf": NOW + 10}, None),
    "nbf in the future": ({"nbf": NOW + 11}, "token_not_yet_valid"),
    "nbf a text": ({"nbf": "0"}, "token_malformed"),
    "nbf null": ({"nbf": None}, None),
    "the longest lifetime": ({"exp": NOW + 366 * DAY}, None),
    "a second longer": ({"exp": NOW + 366 * DAY + 1}, "token_lifetime_too_long"),
    "jti missing": ({"jti": ...}, None),
    "jti a number": ({"jti": 1}, "token_malformed"),
    "team missing": ({"team": ...}, None),
    "team an object": ({"team": {}}, "token_malformed"),
    "plan missing": ({"plan": ...}, None),
    "plan unknown": ({"plan": "gold"}, "unknown_plan"),
    "plan a list": ({"plan": ["member"]}, "token_malformed"),
    "scope missing": ({"scope": ...}, None),
    "scope a list": ({"scope": ["api", "chat"]}, None),
    "scope empty": ({"scope": ""}, None),
    "scope a number": ({"scope": 1}, "token_malformed"),
    "scope a list of numbers": ({"scope": [1]}, "token_malformed"),
    "scope an object": ({"scope": {"api": True}}, "token_malformed"),
    "scopes without end": ({"scope": " ".join(f"s{n}" for n in range(65))}, "token_malformed"),
    "models a list": ({"models": ["gpt-*"]}, None),
    "models empty": ({"models": []}, "token_malformed"),
    "models a text": ({"models": "*"}, "token_malformed"),
    "models with an empty glob": ({"models": [""]}, "token_malformed"),
    "models with null": ({"models": [None]}, "token_malformed"),
    "an unknown claim": ({"role": "admin"}, None),
    "aud, when none is asked for": ({"aud": "elsewhere"}, None),
    "aud a number": ({"aud": 1}, "token_malformed"),
    "iss a number": ({"iss": 1}, "token_malformed"),
}

ISSUED_ELSEWHERE: dict[str, tuple[dict[str, Any], str | None]] = {
    "both right": (GOOD, None),
    "aud one of a list": ({**GOOD, "aud": ["other", "gatehouse"]}, None),
    "aud missing": ({**GOOD, "aud": ...}, "wrong_audience"),
    "aud another": ({**GOOD, "aud": "gatehouse2"}, "wrong_audience"),
    "aud an empty list": ({**GOOD, "aud": []}, "wrong_audience"),
    "aud a list of lists": ({**GOOD, "aud": [["gatehouse"]]}, "token_malformed"),
    "aud in upper case": ({**GOOD, "aud": "GATEHOUSE"}, "wrong_audience"),
    "iss missing": ({**GOOD, "iss": ...}, "wrong_issuer"),
    "iss with a slash more": ({**GOOD, "iss": "https://issuer.example/"}, "wrong_issuer"),
    "iss a list": ({**GOOD, "iss": ["https://issuer.example"]}, "token_malformed"),
}

PAYLOADS: dict[str, Callable[[House], str]] = {
    "sub twice": lambda h: good_text(h)[:-1] + ', "sub": "eve"}',
    "sub twice, once escaped": lambda h: good_text(h)[:-1] + ', "s\\u0075b": "eve"}',
    "exp NaN": lambda h: good_text(h).replace(str(NOW + 3600), "NaN"),
    "exp Infinity": lambda h: good_text(h).replace(str(NOW + 3600), "Infinity"),
    "exp beyond any float": lambda h: good_text(h).replace(str(NOW + 3600), "1e999"),
    "exp of 5,000 digits": lambda h: good_text(h).replace(str(NOW + 3600), "9" * 5000),
    "a list": lambda h: f"[{good_text(h)}]",
    "a text": lambda h: '"ada"',
    "null": lambda h: "null",
    "nothing but a space": lambda h: " ",
    "a nested JWT": lambda h: h.token(),
    "two objects": lambda h: good_text(h) * 2,
    "with a byte order mark": lambda h: "\ufeff" + good_text(h),
    "not UTF-8": lambda h: good_text(h).replace("ada", "\udc80"),
    "single quotes": lambda h: good_text(h).replace('"', "'"),
    "a trailing comma": lambda h: good_text(h)[:-1] + ",}",
}


@pytest.mark.parametrize("case", FORM)
def test_form(case: str, house: House) -> None:
    """A token that is not exactly header.payload.signature in canonical base64url is refused before it is read."""
    make, expected = FORM[case]
    assert verdict(house, make(house)) == expected


@pytest.mark.parametrize("case", HEADERS)
def test_headers(case: str, house: House) -> None:
    """The header chooses neither algorithm nor key, and brings none, even under a valid signature."""
    make, expected = HEADERS[case]
    assert verdict(house, make(house)) == expected


@pytest.mark.parametrize("case", CLAIMS)
def test_claims(case: str, house: House) -> None:
    """A properly signed claim of the wrong type, time or size is refused with the reason a developer can act on."""
    changes, expected = CLAIMS[case]
    assert verdict(house, house.token(**changes)) == expected


@pytest.mark.parametrize("case", ISSUED_ELSEWHERE)
def test_issuer_and_audience(case: str) -> None:
    """When configured, `iss` and `aud` must be there and name this service exactly."""
    changes, expected = ISSUED_ELSEWHERE[case]
    house = House(auth=STRICT)
    assert verdict(house, house.token(**changes)) == expected


@pytest.mark.parametrize("case", PAYLOADS)
def test_payload_json(case: str, house: House) -> None:
    """JSON that two parsers could read differently is refused, even under a valid signature."""
    assert verdict(house, payload_json(house, PAYLOADS[case](house))) == "token_malformed"


def test_foreign_secret(house: House) -> None:
    """A token signed with another secret is refused, whichever kid it claims."""
    other = Key.from_secret(SECRET[::-1])
    assert verdict(house, other.sign(good_text(house).encode())) == "unknown_key"
    forged = jwt.encode(house.claims(), SECRET[::-1], "HS256", headers={"kid": house.key.kid})
    assert verdict(house, forged) == "bad_signature"


def test_empty_secret(house: House) -> None:
    """A token under the empty HMAC key is refused (new-api once accepted those)."""
    signing_input = ".".join(parts(house)[:2])
    signature = encode_segment(hmac.digest(b"", signing_input.encode(), "sha256"))
    assert verdict(house, f"{signing_input}.{signature}") == "bad_signature"


def test_public_key_is_no_secret() -> None:
    """A token under HMAC with an RSA public key as the secret is refused: the key's algorithm is RS256."""
    private = rsa.generate_private_key(65537, 2048)
    public_pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    numbers = private.public_key().public_numbers()
    jwk = {
        "kty": "RSA",
        "n": encode_segment(numbers.n.to_bytes(256, "big")),
        "e": encode_segment(numbers.e.to_bytes(3, "big")),
    }
    keys = KeySet([Key("rsa", "RS256", jwt.PyJWK(jwk, "RS256"))])
    house = House()
    house.verifier = TokenVerifier(house.auth, DEFAULT_PLANS, keys, RevocationList(house.clock), clock=house.clock)
    header, payload = ({"alg": "HS256", "kid": "rsa"}, house.claims())
    signing_input = ".".join(encode_segment(json.dumps(part).encode()) for part in (header, payload))
    signature = encode_segment(hmac.digest(public_pem, signing_input.encode(), "sha256"))
    assert verdict(house, f"{signing_input}.{signature}") == "wrong_algorithm"
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert verdict(house, jwt.encode(payload, pem, "RS256", headers={"kid": "rsa"})) is None


def test_no_kid_among_several_keys(house: House) -> None:
    """With several keys a token must name its own: none is tried by chance."""
    keys = KeySet([house.key, Key.from_secret(SECRET[::-1])])
    verifier = TokenVerifier(house.auth, DEFAULT_PLANS, keys, house.revocations, clock=house.clock)
    with pytest.raises(Unauthorized) as refused:
        verifier.verify(house.with_header(kid=...))
    assert refused.value.code == "unknown_key"
    assert verifier.verify(house.token()).subject == "ada"


def test_every_flipped_bit_is_noticed(house: House) -> None:
    """Changing any one character of a token makes it worthless."""
    token = house.token()
    for at, character in enumerate(token):
        replacement = "A" if character != "A" else "B"
        assert verdict(house, token[:at] + replacement + token[at + 1 :]) is not None, at


def test_padding_does_not_give_a_second_name(house: House) -> None:
    """A token has one spelling: base64 with padding, which PyJWT lets pass, is refused."""
    header, payload, signature = parts(house)
    padded = base64.urlsafe_b64encode(base64.urlsafe_b64decode(signature + "=")).decode()
    assert padded.endswith("=")
    assert verdict(house, f"{header}.{payload}.{padded}") == "token_malformed"
