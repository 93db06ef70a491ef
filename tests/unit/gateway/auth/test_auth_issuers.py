"""Several issuers at once: each by its own keys and for its own audience, mapped to what the house knows."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.auth.claims import look_up
from gateway.auth.issuers import ForeignIssuers
from gateway.auth.keys import Key, KeyFileError, KeySet, load_keys
from gateway.auth.tokens import TokenVerifier, issue_token
from gateway.config import DEFAULT_PLANS, AuthSettings, Config, EngineTarget
from tests.unit.gateway.auth.foreign import (
    ALGORITHMS,
    ASYMMETRIC,
    claims,
    jwks,
    key_of,
    private_key,
    private_pem,
    public_jwk,
    public_pem,
    settings,
    sign,
    town,
)
from tests.unit.gateway.auth.house import NOW, SECRET, Clock


def private_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


async def opened(auth: AuthSettings) -> TokenVerifier:
    """A verifier as the gateway builds it, its key sets read once."""
    issuers = ForeignIssuers(auth)
    for issuer in auth.issuers:
        await issuers.fetch_for(issuer.issuer)
    await issuers.fetcher.close()
    keys = KeySet([Key.from_secret(SECRET)])
    revocations = town().revocations
    return TokenVerifier(auth, DEFAULT_PLANS, keys, revocations, issuers=issuers.by_claim, clock=Clock())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_every_source_of_keys(algorithm: str, tmp_path: Path) -> None:
    """Keys of every algorithm come from PEM files, a key set's file, or a secret's file, and verify its tokens."""
    kid = f"{algorithm}-0"
    if algorithm in ASYMMETRIC:
        (tmp_path / "key.pem").write_bytes(public_pem(algorithm))
        (tmp_path / "jwks.json").write_bytes(jwks(public_jwk(algorithm)))
        sources: list[dict[str, Any]] = [
            {"pem_files": {kid: tmp_path / "key.pem"}, "algorithm": algorithm},
            {"jwks_file": tmp_path / "jwks.json"},
        ]
    else:
        secret = private_file(tmp_path / "secret", private_key(algorithm).hex().encode())
        sources = [{"secret_files": {kid: secret}, "algorithm": algorithm}]
    for source in sources:
        auth = AuthSettings(issuers=(settings(jwks_url=None, **source),))
        verifier = await opened(auth)
        if algorithm in ASYMMETRIC:
            assert verifier.verify(sign(algorithm)).subject == "corp:ada"
        else:
            key = Key.from_secret(private_key(algorithm).hex().encode(), algorithm, kid)
            assert verifier.verify(key.sign(json.dumps(claims()).encode())).subject == "corp:ada"


def test_issuers_do_not_speak_for_each_other() -> None:
    """A key signs for its own issuer only: not for the house, and the house's not for the issuer."""
    both = town(key_of("ES256"))
    house = {"sub": "ada", "iat": NOW, "exp": NOW + 60}
    assert both.verdict(both.house_key.sign(json.dumps(house).encode())) is None
    assert both.verdict(both.house_key.sign(json.dumps(claims()).encode())) == "unknown_key"
    assert both.verdict(sign("ES256", {**house})) == "unknown_key"
    assert both.verdict(sign("ES256", claims(iss="https://id.example/"))) == "unknown_key"
    assert both.verdict(sign("ES256", claims(iss=["https://id.example"]))) == "unknown_key"


def test_a_subject_is_its_issuers() -> None:
    """The same name from two issuers is two callers, unless the configuration says that it is one."""
    assert town().verifier.verify(sign("ES256")).subject == "corp:ada"
    assert town(subject_prefix="").verifier.verify(sign("ES256")).subject == "ada"


@pytest.mark.parametrize(
    ("audience", "claim", "expected"),
    [
        ("gatehouse", "gatehouse", None),
        ("gatehouse", ["other", "gatehouse"], None),
        (["a", "b"], "b", None),
        ("gatehouse", "other", "wrong_audience"),
        ("gatehouse", ..., "wrong_audience"),
        ("gatehouse", [], "wrong_audience"),
    ],
)
def test_each_issuer_has_its_audience(audience: Any, claim: Any, expected: str | None) -> None:
    """A token for another service of the same issuer is refused."""
    assert town(audience=audience).verdict(sign("ES256", claims(aud=claim))) == expected


def test_the_claim_map() -> None:
    """Subject, team, scopes, plan and models are taken from where this issuer puts them."""
    keycloak = town(
        claims={
            "subject": "preferred_username",
            "team": "https://example.com/team",
            "scopes": "realm_access.roles",
            "plan": "groups",
            "models": "resource_access.gatehouse.models",
        },
        scope_names={"user": "api", "chatter": "chat", "boss": "admin"},
        plan_names={"ml-team": "service", "staff": "member"},
    )
    token = sign(
        "ES256",
        claims(
            sub="0b1c",
            preferred_username="ada",
            realm_access={"roles": ["offline_access", "user", "boss"]},
            groups=["staff", "ml-team"],
            resource_access={"gatehouse": {"models": ["gpt-*"]}},
            **{"https://example.com/team": "research"},
        ),
    )
    principal = keycloak.verifier.verify(token)
    assert (principal.subject, principal.team, principal.plan) == ("corp:ada", "research", "service")
    assert principal.scopes == {"api"}  # `boss` maps to a scope that this issuer may not grant
    assert principal.models == ("gpt-*",)


def test_what_an_issuer_may_grant() -> None:
    """A token's scopes count as far as its issuer may give them: a role called `admin` makes nobody one."""
    assert town().verifier.verify(sign("ES256", claims(scope="api admin usage:all"))).scopes == {"api"}
    assert town(grants=["admin"]).verifier.verify(sign("ES256", claims(scope="api admin"))).scopes == {"admin"}


def test_defaults_of_an_issuer() -> None:
    """What a token leaves out, its issuer's defaults say; without those, the house's."""
    plain = town().verifier.verify(sign("ES256"))
    assert (plain.team, plain.scopes, plain.plan, plain.models) == (None, {"api"}, "service", ())
    chosen = town(default_team="corp", default_scopes=["chat"], default_plan="member").verifier.verify(sign("ES256"))
    assert (chosen.team, chosen.scopes, chosen.plan) == ("corp", {"chat"}, "member")
    grouped = town(plan_names={"x": "member"}, claims={"plan": "groups"})
    assert grouped.verifier.verify(sign("ES256", claims(groups=["y"]))).plan == "service"
    assert grouped.verifier.verify(sign("ES256", claims(groups="x"))).plan == "member"


def test_many_groups() -> None:
    """A directory's long list of groups is no reason to refuse."""
    grouped = town(claims={"scopes": "groups"}, scope_names={"g199": "api"})
    assert grouped.verifier.verify(sign("ES256", claims(groups=[f"g{n}" for n in range(200)]))).scopes == {"api"}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a", 1),
        ("b.c", 2),
        ("b.d.e", 3),
        ("https://x.y/z", 4),
        ("n.x.y.z", 5),
        ("b", {"c": 2, "d": {"e": 3}}),
        ("b.x", None),
        ("a.b", None),
        ("", None),
        (".", None),
        ("missing.x", None),
    ],
)
def test_dotted_paths(path: str, found: Any) -> None:
    """A path leads into objects; a name that has dots itself is found too; where nothing is, nothing is found."""
    tree = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "https://x.y/z": 4, "n": {"x.y": {"z": 5}}}
    assert look_up(tree, path) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jwks_url": None}, "name one of"),
        ({"discovery": True}, "name one of"),
        ({"jwks_url": "http://id.example/jwks"}, "https"),
        ({"jwks_url": "http://127.0.0.1.evil.example/jwks"}, "https"),
        ({"issuer": "http://id.example"}, "https"),
        ({"issuer": "corp", "jwks_url": None, "discovery": True}, "URL"),
        ({"name": "Corp:"}, "name"),
        ({"audience": []}, "audience"),
        ({"algorithm": "none"}, "algorithm"),
        ({"claims": {"sub": "x"}}, "claims"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    """A wrong issuer is refused when the settings are read, with the key's name."""
    with pytest.raises(ValidationError, match=message):
        settings(**changes)


def test_issuers_that_clash() -> None:
    """Two issuers of one name, and one that calls itself the house, are refused."""
    other = settings(name="other", issuer="https://other.example")
    AuthSettings(issuers=(settings(), other))
    for clash in ((settings(), settings(name="other")), (settings(), other.model_copy(update={"name": "corp"}))):
        with pytest.raises(ValidationError, match="its own"):
            AuthSettings(issuers=clash)
    with pytest.raises(ValidationError, match="name of this house"):
        AuthSettings(issuer="https://id.example", issuers=(settings(),))


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("pem_files", private_pem("ES256"), "holds a private key"),
        ("pem_files", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a public key"),
        ("pem_files", b"", "not a public key"),
        ("pem_files", None, "cannot read"),
        ("secret_files", b"short", "at least 32"),
    ],
)
def test_key_files_that_cannot_be(source: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    """A key file that is wrong stops the start with the file's name and the reason, and none of its content."""
    path = tmp_path / "key"
    if content is not None:
        private_file(path, content)
    with pytest.raises(KeyFileError, match=message) as refused:
        ForeignIssuers(AuthSettings(issuers=(settings(jwks_url=None, **{source: {"k": path}}),)))
    assert str(path) in str(refused.value)


def test_a_secret_is_not_for_rsa(tmp_path: Path) -> None:
    """A shared secret serves HMAC only; HS512 needs 64 bytes."""
    path = private_file(tmp_path / "secret", SECRET)
    for algorithm, message in (("RS256", "not RS256"), ("HS512", "at least 64")):
        issuer = settings(jwks_url=None, secret_files={"k": path}, algorithm=algorithm)
        with pytest.raises(KeyFileError, match=message):
            ForeignIssuers(AuthSettings(issuers=(issuer,)))


def test_the_house_rotates_its_key(tmp_path: Path) -> None:
    """An earlier secret signs nothing more, and what it signed is accepted as long as it is configured."""
    engine = EngineTarget(url="http://127.0.0.1:1")
    old = Config(state_dir=tmp_path, engine=engine)
    before, _ = issue_token(load_keys(old).signing, old.auth, subject="ci", ttl_seconds=3600)
    (tmp_path / "jwt.key").rename(tmp_path / "jwt.old")
    new = Config(state_dir=tmp_path, engine=engine, auth=AuthSettings(previous_secret_files=(tmp_path / "jwt.old",)))
    revocations = town().revocations

    def refusals(config: Config) -> list[str]:
        verifier = TokenVerifier(config.auth, DEFAULT_PLANS, load_keys(config), revocations)
        return [refusal.code for refusal in verifier.explain(before).refusals]

    assert refusals(new) == []
    after, _ = issue_token(load_keys(new).signing, new.auth, subject="ci", ttl_seconds=60)
    assert refusals(old) == ["unknown_key"]  # the new key alone
    assert TokenVerifier(old.auth, DEFAULT_PLANS, load_keys(old), revocations).verify(after).subject == "ci"
