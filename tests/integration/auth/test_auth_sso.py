"""Signing in at a real identity provider: first login, groups, disabled users, and everything that must not work."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from yarl import URL

from gateway.auth import sign_in_choices
from gateway.auth.fetch import Fetcher
from gateway.auth.issuers import ForeignIssuers
from gateway.auth.keys import Key, KeyFileError, KeySet
from gateway.auth.sso import SIGN_IN_SECONDS, SignInFailed, SsoProvider
from gateway.config import DEFAULT_PLANS, AuthSettings
from tests.integration.auth.house import House, config_at, serve
from tests.integration.auth.idp import CLIENT_SECRET, PUBLIC_URL, browser, oidc_provider
from tests.unit.gateway.auth.house import SECRET, Clock


@pytest.fixture(scope="module")
def idp() -> Iterator[str]:
    """One provider for these tests."""
    with oidc_provider() as issuer:
        yield issuer


def auth_of(tmp_path: Path, issuer: str, sso: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Settings that know the provider."""
    tmp_path.mkdir(exist_ok=True)
    secret = tmp_path / "client.secret"
    secret.write_text(CLIENT_SECRET)
    secret.chmod(0o600)
    corp = {
        "name": "corp",
        "issuer": issuer,
        "audience": "gatehouse-api",
        "discovery": True,
        "claims": {"plan": "groups"},
        "plan_names": {"ml-team": "service", "staff": "member"},
        "sso": {"client_id": "gatehouse", "client_secret_file": secret, "title": "Corp", **(sso or {})},
        **changes,
    }
    return {"issuers": [corp], "public_url": PUBLIC_URL}


@asynccontextmanager
async def house_at(tmp_path: Path, issuer: str, **changes: Any) -> AsyncIterator[House]:
    async for house in serve(config_at(tmp_path, **auth_of(tmp_path, issuer, **changes))):
        yield house


async def who(house: House, session: str | None) -> Any:
    answer = await house.request("GET", "/auth/session", headers={"Cookie": f"__Host-session={session}"})
    return answer.json["user"] if answer.status == 200 else answer.code


async def test_the_first_sign_in_makes_the_user(idp: str, tmp_path: Path) -> None:
    """Ada signs in at the provider and is in the chat, under her issuer's name, with the plan of her group."""
    async with house_at(tmp_path, idp) as house, browser(house.base) as ada:
        assert sign_in_choices(house.config.auth) == [{"title": "Corp", "url": "/auth/sso/corp"}]
        arrived = await ada.sign_in("ada")
        assert (arrived.status, arrived.location) == (303, "/")
        assert not arrived.cookies["__Host-sso"]
        person = {"name": "corp:ada", "display_name": "Ada Lovelace", "team": None, "plan": "service", "admin": False}
        assert await who(house, arrived.session) == person
        user = await house.store.users.find("corp:ada")
        assert user.password_hash is None
        assert (await house.login("corp:ada", "any password at all")).code == "invalid_credentials"
        again = await ada.sign_in("ada")
        assert again.session not in {None, arrived.session}
        assert len(await house.store.users.list()) == 1


async def test_one_worker_begins_and_another_ends(idp: str, tmp_path: Path) -> None:
    """The browser comes back to another worker than it left from: it is signed in, on both."""
    async with house_at(tmp_path, idp) as one, house_at(tmp_path, idp) as other, browser(one.base) as ada:
        begun = await ada.gateway("/auth/sso/corp")
        back = await ada.at_provider(begun.location, "ada")
        ada.gateway_url = other.base
        arrived = await ada.gateway(back)
        assert (arrived.status, arrived.location) == (303, "/")
        assert (await who(one, arrived.session))["name"] == (await who(other, arrived.session))["name"] == "corp:ada"


async def test_groups_are_plans(idp: str, tmp_path: Path) -> None:
    """Each group's plan; no group, the users' plan; a changed group takes effect at the next sign-in."""
    async with house_at(tmp_path, idp) as house:
        for name, plan, shown in (
            ("bob", "member", "Bob"),
            ("eve", "member", "eve"),
            ("ada", "service", "Ada Lovelace"),
        ):
            async with browser(house.base) as person:
                user = await who(house, (await person.sign_in(name)).session)
                assert (user["plan"], user["display_name"]) == (plan, shown)
        await house.store.users.change("corp:ada", plan="member", team="kept")
        async with browser(house.base) as ada:
            user = await who(house, (await ada.sign_in("ada")).session)
            assert (user["plan"], user["team"]) == ("service", "kept")


async def test_without_a_map_the_house_decides_the_plan(idp: str, tmp_path: Path) -> None:
    """Where the provider says nothing of plans, an operator's change stays."""
    async with house_at(tmp_path, idp, claims={}, plan_names={}) as house, browser(house.base) as ada:
        assert (await who(house, (await ada.sign_in("ada")).session))["plan"] == "member"
        await house.store.users.change("corp:ada", plan="service")
        assert (await who(house, (await ada.sign_in("ada")).session))["plan"] == "service"


@pytest.mark.parametrize("kind", ["public client", "claims in userinfo only"])
async def test_other_providers(kind: str, tmp_path: Path) -> None:
    """A client without a secret has PKCE; names and groups that are not in the ID token come from userinfo."""
    public = kind == "public client"
    with oidc_provider(public=public, id_token_claims=public) as issuer:
        sso = {"client_secret_file": None} if public else {}
        async with house_at(tmp_path, issuer, sso=sso) as house, browser(house.base) as ada:
            user = await who(house, (await ada.sign_in("ada")).session)
            assert (user["display_name"], user["plan"]) == ("Ada Lovelace", "service")


async def test_a_disabled_user_stays_out(idp: str, tmp_path: Path) -> None:
    """Disabling ends the session; signing in again at the provider changes nothing; enabling lets in again."""
    async with house_at(tmp_path, idp) as house, browser(house.base) as ada:
        session = (await ada.sign_in("ada")).session
        assert await house.users.disable("corp:ada")
        async with asyncio.timeout(60):
            while await who(house, session) != "session_expired":
                await asyncio.sleep(0.05)
        refused = await ada.sign_in("ada")
        assert (refused.status, refused.location) == (303, "/#account_disabled")
        assert await who(house, refused.session) == "session_expired"
        await house.users.enable("corp:ada")
        assert (await ada.sign_in("ada")).location == "/"


async def test_one_namespace_when_configured(idp: str, tmp_path: Path) -> None:
    """With an empty prefix the provider's ada is the house's Ada: the account that was there."""
    async with house_at(tmp_path, idp, subject_prefix="") as house, browser(house.base) as ada:
        await house.users.add("Ada", "a password of her own", display_name=None, team="research", plan="member")
        user = await who(house, (await ada.sign_in("ada")).session)
        assert (user["name"], user["team"]) == ("ada", "research")
        assert (await house.login("ada", "a password of her own")).status == 200


async def test_a_subject_that_is_no_user_name(idp: str, tmp_path: Path) -> None:
    """Without a prefix, only what can be a user of the house signs in."""
    claims = {"plan": "groups", "subject": "name"}
    async with house_at(tmp_path, idp, subject_prefix="", claims=claims) as house, browser(house.base) as ada:
        assert (await ada.sign_in("ada")).location == "/#sso_failed"  # Ada Lovelace, with a space
        assert (await ada.sign_in("ada")).session is None


async def test_without_the_database(idp: str, tmp_path: Path) -> None:
    """While the database is away nobody is signed in, and the page says to try again."""
    async with house_at(tmp_path, idp) as house, browser(house.base) as ada:
        with closing(sqlite3.connect(tmp_path / "gatehouse.db")) as database, database:
            database.execute("ALTER TABLE users RENAME TO away")
        assert (await ada.sign_in("ada")).location == "/#sso_unavailable"


def test_a_client_secret_that_cannot_be(tmp_path: Path) -> None:
    """A client secret that is not ASCII text stops the start, with the file's name."""
    auth = auth_of(tmp_path, "https://id.example")
    (tmp_path / "client.secret").write_text("ключ-который-не-подходит-сюда")
    settings = AuthSettings.model_validate(auth)
    key = Key.from_secret(SECRET)
    with pytest.raises(KeyFileError, match=r"client\.secret: .*ASCII"):
        ForeignIssuers(settings).sso_providers(settings, DEFAULT_PLANS, key)


async def test_who_says_no_is_told_so(idp: str, tmp_path: Path) -> None:
    """Not agreeing at the provider leads back to the page, with the reason."""
    async with house_at(tmp_path, idp) as house, browser(house.base) as ada:
        begun = await ada.gateway("/auth/sso/corp")
        back = await ada.at_provider(begun.location, "ada", consent=False)
        arrived = await ada.gateway(back)
        assert (arrived.location, arrived.session) == ("/#sso_denied", None)


def changed(query: str, **values: str | None) -> str:
    url = URL(query, encoded=True)
    kept = {name: value for name, value in url.query.items() if values.get(name, "") is not None}
    return str(url.with_query({**kept, **{name: value for name, value in values.items() if value is not None}}))


ASTRAY: dict[str, tuple[Callable[[str], str], str]] = {
    "another state": (lambda back: changed(back, state="x"), "sso_state"),
    "no state": (lambda back: changed(back, state=None), "sso_state"),
    "another code": (lambda back: changed(back, code="x"), "sso_failed"),
    "no code": (lambda back: changed(back, code=None), "sso_failed"),
    "another issuer (mix-up)": (lambda back: changed(back, iss="https://evil.example"), "sso_failed"),
    "nothing": (lambda back: back.partition("?")[0], "sso_state"),
    "an error of the provider's": (lambda back: changed(back, error="server_error<script>"), "sso_failed"),
}


@pytest.mark.parametrize("case", ASTRAY)
async def test_a_return_that_was_tampered_with(idp: str, tmp_path: Path, case: str) -> None:
    """Whatever is changed on the way back, nobody is signed in."""
    change, code = ASTRAY[case]
    async with house_at(tmp_path, idp) as house, browser(house.base) as ada:
        begun = await ada.gateway("/auth/sso/corp")
        arrived = await ada.gateway(change(await ada.at_provider(begun.location, "ada")))
        assert (arrived.location, arrived.session) == (f"/#{code}", None)
        assert await house.store.users.list() == []


async def test_another_browser_cannot_finish(idp: str, tmp_path: Path) -> None:
    """An address on the way back is worth nothing without the cookie (login CSRF), with another's, and twice."""
    async with house_at(tmp_path, idp) as house, browser(house.base) as ada, browser(house.base) as eve:
        begun = await ada.gateway("/auth/sso/corp")
        back = await ada.at_provider(begun.location, "ada")
        assert (await eve.gateway(back)).location == "/#sso_state"
        await eve.gateway("/auth/sso/corp")
        assert (await eve.gateway(back)).location == "/#sso_state"
        cookie = ada.cookies["__Host-sso"]
        assert (await ada.gateway(back)).location == "/"
        ada.cookies["__Host-sso"] = cookie
        assert (await ada.gateway(back)).location == "/#sso_failed"  # the provider redeems a code once


async def test_the_cookie_alone_is_nothing(idp: str, tmp_path: Path) -> None:
    """State, nonce and verifier are derived with the house's key: who knows the cookie cannot make them."""
    async with house_at(tmp_path, idp) as one, house_at(tmp_path / "other", idp) as other, browser(one.base) as ada:
        begun = await ada.gateway("/auth/sso/corp")
        query = URL(begun.location).query
        assert query["code_challenge_method"] == "S256"
        values = [query["state"], query["nonce"], query["code_challenge"]]
        assert len({*values, ada.cookies["__Host-sso"]}) == 4
        back = await ada.at_provider(begun.location, "ada")
        ada.gateway_url = other.base  # a gateway with another key
        assert (await ada.gateway(back)).location == "/#sso_state"


async def test_too_late(idp: str, tmp_path: Path) -> None:
    """A sign-in that takes longer than ten minutes must be begun again."""
    settings = AuthSettings.model_validate(auth_of(tmp_path, idp))
    issuer, fetcher, clock = settings.issuers[0], Fetcher(), Clock()
    assert issuer.sso is not None
    keys = KeySet([Key.from_secret(SECRET)])
    provider = SsoProvider(
        issuer, issuer.sso, settings, DEFAULT_PLANS, keys=keys, fetcher=fetcher, secret=SECRET, clock=clock
    )
    url, seed = await provider.begin()
    clock.now += SIGN_IN_SECONDS + 1
    with pytest.raises(SignInFailed) as late:
        await provider.finish({"state": URL(url).query["state"], "code": "x"}, seed)
    assert late.value.code == "sso_expired"
    await fetcher.close()


async def test_a_provider_that_is_away(tmp_path: Path) -> None:
    """The page says so; the other ways in work on."""
    async with house_at(tmp_path, "http://127.0.0.1:1") as house, browser(house.base) as ada:
        assert (await ada.gateway("/auth/sso/corp")).location == "/#sso_unavailable"
        assert (await house.request("GET", "/auth/sso/other")).status == 404


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"public_url": None}, "public_url"),
        ({"public_url": "https://chat.example/path"}, "public_url"),
        ({"public_url": "chat.example"}, "public_url"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Signing in elsewhere needs to know where browsers reach this chat."""
    with pytest.raises(ValidationError, match=message):
        AuthSettings.model_validate({**auth_of(tmp_path, "https://id.example"), **changes})
    with pytest.raises(ValidationError, match="discovery"):
        AuthSettings.model_validate(auth_of(tmp_path, "https://id.example", discovery=False, jwks_url="https://x/y"))
