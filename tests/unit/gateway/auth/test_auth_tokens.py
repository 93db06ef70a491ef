"""The verifier around the corpus: what it grants, its cache, revocation, explanations, and issuing."""

import hashlib
import traceback

import pytest

from gateway.auth.keys import Key, KeySet
from gateway.auth.tokens import issue_token
from gateway.config import AuthSettings
from gateway.context import Principal, Via
from gateway.errors import Unauthorized
from gateway.store.rows import Revocation, RevocationKind
from tests.unit.gateway.auth.house import NOW, SECRET, House


def refusal(house: House, token: str) -> str:
    with pytest.raises(Unauthorized) as refused:
        house.verifier.verify(token)
    return refused.value.code


def revoke(house: House, kind: RevocationKind, target: str, at: float = NOW) -> None:
    house.revocations.add([Revocation(kind, target, at, at + 86_400)])


def test_principal(house: House) -> None:
    """Every claim arrives where it belongs."""
    token = house.token(team="research", scope="api chat", models=["gpt-*", "qwen"])
    assert house.verifier.verify(token) == Principal(
        "ada", "research", frozenset({"api", "chat"}), "member", ("gpt-*", "qwen"), "t1", Via.BEARER
    )


def test_defaults(house: House) -> None:
    """A token that names no plan and no scope gets the configured ones, and no more."""
    principal = house.verifier.verify(house.token(plan=..., scope=..., jti=...))
    assert (principal.plan, principal.scopes, principal.token_id) == ("service", frozenset({"api"}), None)


def test_an_empty_scope_grants_nothing(house: House) -> None:
    """`scope: ""` is an answer, not the absence of one."""
    assert house.verifier.verify(house.token(scope="")).scopes == frozenset()


def test_a_cached_token_expires(house: House) -> None:
    """A remembered token is refused from the moment its `exp` and the leeway have passed."""
    token = house.token()
    house.verifier.verify(token)
    house.clock.now = NOW + 3600 + 9.9
    house.verifier.verify(token)
    house.clock.now = NOW + 3600 + 10
    assert refusal(house, token) == "token_expired"
    assert refusal(house, token) == "token_expired"  # and when it is no longer remembered


def test_the_cache_is_bounded(house: House) -> None:
    """No more than `cache_size` tokens are kept, by their full SHA-256; the one unused longest goes first."""
    small = House(cache_size=2)
    first, second, third = (small.token(jti=name) for name in "abc")
    for token in (first, second, first, third):
        small.verifier.verify(token)
    assert list(small.verifier._verified) == [hashlib.sha256(token.encode()).digest() for token in (first, third)]


@pytest.mark.parametrize("cached", [True, False])
def test_revoked_by_id(house: House, cached: bool) -> None:
    """A revoked token is refused at once, remembered or not; others of the subject pass."""
    token, other = house.token(), house.token(jti="t2")
    if cached:
        house.verifier.verify(token)
    revoke(house, RevocationKind.TOKEN, "t1")
    assert refusal(house, token) == "token_revoked"
    assert house.verifier.verify(other).token_id == "t2"


@pytest.mark.parametrize("cached", [True, False])
def test_revoked_by_subject(house: House, cached: bool) -> None:
    """Revoking a subject refuses what was issued until then, and nothing issued later or to others."""
    old, same_moment, new = house.token(iat=NOW - 1), house.token(), house.token(iat=NOW + 0.001)
    other = house.token(sub="eve")
    if cached:
        for token in (old, same_moment, new, other):
            house.verifier.verify(token)
    revoke(house, RevocationKind.SUBJECT, "ada")
    assert refusal(house, old) == refusal(house, same_moment) == "token_revoked"
    assert house.verifier.verify(new).subject == "ada"
    assert house.verifier.verify(other).subject == "eve"


def test_an_older_revocation_takes_nothing_back(house: House) -> None:
    """Revocations may arrive in any order: the latest moment of a subject counts."""
    revoke(house, RevocationKind.SUBJECT, "ada", NOW + 5)
    revoke(house, RevocationKind.SUBJECT, "ada", NOW - 100)
    assert refusal(house, house.token()) == "token_revoked"


def test_old_revocations_are_forgotten(house: House) -> None:
    """A revocation leaves memory once nothing that it refuses can be valid, and not before."""
    for kind in RevocationKind:
        revoke(house, kind, "x")
    house.clock.now = NOW + 86_399
    house.revocations.forget()
    assert house.revocations.refuse_session("x", "y", NOW)
    house.clock.now = NOW + 86_400
    house.revocations.forget()
    assert not house.revocations.refuse_session("x", "x", NOW)


def test_explain_names_every_reason(house: House) -> None:
    """One look shows all that is wrong, with header and claims to compare."""
    token = Key.from_secret(SECRET[::-1]).sign(b'{"sub": "", "iat": 1, "exp": 2, "plan": "gold"}')
    found = house.verifier.explain(token)
    assert [reason.code for reason in found.refusals] == [
        "unknown_key",
        "token_malformed",
        "token_expired",
        "unknown_plan",
    ]
    assert found.claims["plan"] == "gold"
    assert found.header["alg"] == "HS256"


def test_explain_a_good_and_a_revoked_token(house: House) -> None:
    """A good token has no refusal; a revoked one has that one."""
    assert house.verifier.explain(house.token()).refusals == []
    revoke(house, RevocationKind.TOKEN, "t1")
    assert [reason.code for reason in house.verifier.explain(house.token()).refusals] == ["token_revoked"]


def test_explain_survives_anything(house: House) -> None:
    """What is no token at all is explained too."""
    for text in ("", "x", "a.b.c", "é.é.é"):
        assert [reason.code for reason in house.verifier.explain(text).refusals] == ["token_malformed"]


def test_an_empty_payload_is_explained(house: House) -> None:
    """A signed token that says nothing lacks its claims."""
    found = house.verifier.explain(house.key.sign(b"{}"))
    assert {reason.code for reason in found.refusals} == {"token_malformed"}


def test_explain_goes_on_behind_the_header(house: House) -> None:
    """A token with several faults is explained as far as it can be read."""
    token = house.raw(b'{"alg": "none", "crit": ["x"]}', b"[]")
    assert [reason.code for reason in house.verifier.explain(token).refusals] == [
        "token_malformed",
        "wrong_algorithm",
        "token_malformed",
    ]


def test_issue(house: House) -> None:
    """An issued token is accepted as it was meant; its record has everything but the token."""
    token, record = issue_token(
        house.key,
        house.auth,
        subject="ci",
        team="eng",
        plan="member",
        scopes=("api", "chat"),
        models=("gpt-*",),
        ttl_seconds=60,
        clock=house.clock,
    )
    principal = house.verifier.verify(token)
    assert principal == Principal("ci", "eng", frozenset({"api", "chat"}), "member", ("gpt-*",), record.id, Via.BEARER)
    assert (record.issued_at, record.expires_at, record.key_id) == (NOW, NOW + 60, house.key.kid)
    assert token not in repr(record)


def test_issue_with_defaults_for_a_strict_house() -> None:
    """A house that asks for issuer and audience issues tokens that have them."""
    house = House(auth=AuthSettings(issuer="https://here", audience="gatehouse", default_scopes=()))
    token, record = issue_token(house.key, house.auth, subject="ci", ttl_seconds=0.5, clock=house.clock)
    principal = house.verifier.verify(token)
    assert (principal.plan, principal.scopes, principal.models) == ("service", frozenset(), ())
    assert record.expires_at > record.issued_at


def test_refusals_do_not_repeat_the_token(house: House) -> None:
    """Neither the text of a refusal nor its traceback holds any part of the token."""
    token = house.token(sub="")
    with pytest.raises(Unauthorized) as refused:
        house.verifier.verify(token)
    text = "".join(traceback.format_exception(refused.value))
    assert not any(part in text for part in token.split("."))
    assert refused.value.headers["WWW-Authenticate"].startswith("Bearer ")


def test_keys_rotate_with_overlap(house: House) -> None:
    """With the old key kept beside the new one, the tokens of both are accepted."""
    new = Key.from_secret(SECRET[::-1])
    verifier = type(house.verifier)(
        house.auth, {"service": None, "member": None}, KeySet([new, house.key]), house.revocations, clock=house.clock
    )
    token, _ = issue_token(new, house.auth, subject="new", ttl_seconds=60, clock=house.clock)
    assert verifier.verify(token).subject == "new"
    assert verifier.verify(house.token()).subject == "ada"
