"""Hypothesis: nothing that was not signed ever yields a Principal, whatever it looks like."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.keys import Key, encode_segment
from gateway.errors import Unauthorized
from tests.unit.gateway.auth.house import SECRET, House

HOUSE = House()
GOOD = HOUSE.token()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
headers = st.fixed_dictionaries(
    {"alg": st.sampled_from(["HS256", "none", "RS256", "ES256", "EdDSA", ""]) | json_values},
    optional={
        "kid": st.just(HOUSE.key.kid) | json_values,
        "typ": st.just("JWT") | json_values,
        "crit": json_values,
        "jku": json_values,
        "jwk": json_values,
    },
)
claims = st.fixed_dictionaries(
    {},
    optional={
        name: st.just(value) | json_values for name, value in {**HOUSE.claims(), "aud": "a", "models": ["*"]}.items()
    },
)


def accepted(token: str) -> bool:
    try:
        HOUSE.verifier.verify(token)
    except Unauthorized:
        return False
    return True


def segment(value: Any) -> str:
    return encode_segment(json.dumps(value).encode())


@given(st.text() | st.text(alphabet="abcXYZ019-_.=", max_size=80))
def test_any_text(text: str) -> None:
    """No text is a token by chance, and none raises anything but Unauthorized."""
    assert not accepted(text)


@given(headers, claims, st.binary(max_size=64))
def test_unsigned(header: dict[str, Any], payload: dict[str, Any], signature: bytes) -> None:
    """Well-formed tokens with any header, any claims and any signature but the right one are refused."""
    assert not accepted(f"{segment(header)}.{segment(payload)}.{encode_segment(signature)}")


@given(claims, st.binary(min_size=32, max_size=64).filter(lambda secret: secret != SECRET))
def test_another_secret(payload: dict[str, Any], secret: bytes) -> None:
    """What another secret signs is refused, under its own kid and under ours."""
    stranger = Key.from_secret(secret)
    body = json.dumps(payload).encode()
    assert not accepted(stranger.sign(body))
    assert not accepted(Key(HOUSE.key.kid, "HS256", stranger.material).sign(body))


@given(st.integers(0, len(GOOD) - 1), st.characters(max_codepoint=0x2FF))
def test_one_character_changed(at: int, character: str) -> None:
    """A good token with one character replaced is refused, unless it is the same one."""
    changed = GOOD[:at] + character + GOOD[at + 1 :]
    assert accepted(changed) == (changed == GOOD)


@given(st.data())
def test_cut_and_glued(data: st.DataObject) -> None:
    """No piece of a good token, and no two pieces of good tokens, make another."""
    other = HOUSE.token(sub="eve", jti="t2")
    glued = GOOD[: data.draw(st.integers(0, len(GOOD)))] + other[data.draw(st.integers(0, len(other))) :]
    assert accepted(glued) == (glued in (GOOD, other))


@given(claims)
def test_signed_claims(payload: dict[str, Any]) -> None:
    """Whatever is properly signed either yields a Principal that says what the claims say, or Unauthorized."""
    token = HOUSE.key.sign(json.dumps(payload).encode())
    try:
        principal = HOUSE.verifier.verify(token)
    except Unauthorized:
        return
    assert principal.subject == payload["sub"]
    assert principal.plan == payload.get("plan") or principal.plan == "service"
    assert list(principal.models) == (payload.get("models") or [])
