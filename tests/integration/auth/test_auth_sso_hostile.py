"""A provider, or somebody in its place, that sends the wrong things: nobody is signed in by any of them."""

import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from gateway.auth.fetch import Fetcher, JwksDocument
from gateway.auth.published import PublishedKeys
from gateway.auth.sso import SignInFailed, SsoProvider
from gateway.auth.users import Person
from gateway.config import DEFAULT_PLANS, AuthSettings
from tests.integration.auth.idp import CLIENT_SECRET
from tests.integration.auth.provider_http import Provider, provider
from tests.integration.auth.test_auth_sso import auth_of
from tests.unit.gateway.auth.foreign import claims, public_jwk, sign
from tests.unit.gateway.auth.house import SECRET, Clock


@dataclass
class SignIn:
    """One sign-in under way at a provider whose answers the test writes."""

    idp: Provider
    provider: SsoProvider
    clock: Clock
    url: str = ""
    seed: str = ""

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Those of the ID token that would be right."""
        nonce = URL(self.url).query["nonce"]
        return claims(iss=self.idp.url, aud="gatehouse", nonce=nonce, **changes)

    async def finish(self, answer: Any) -> Person:
        """Come back, and let the provider answer that to the code."""
        self.idp.token = answer
        return await self.provider.finish({"state": URL(self.url).query["state"], "code": "c0de"}, self.seed)


@pytest.fixture
async def sign_in(tmp_path: Path) -> AsyncIterator[SignIn]:
    """Begun at a provider with one key."""
    async with provider(public_jwk("ES256")) as idp:
        idp.discovery = {
            "authorization_endpoint": f"{idp.url}/auth?tenant=1",
            "token_endpoint": f"{idp.url}/token",
            "userinfo_endpoint": f"{idp.url}/userinfo",
        }
        settings = AuthSettings.model_validate(auth_of(tmp_path, idp.url))
        issuer, fetcher, clock = settings.issuers[0], Fetcher(), Clock()
        assert issuer.sso is not None
        document = JwksDocument(fetcher, issuer)
        keys = PublishedKeys("corp", document.fetch, max_age=300, cooldown=30, stale=3600, clock=clock)
        await keys.refresh()
        under_way = SignIn(
            idp,
            SsoProvider(
                issuer, issuer.sso, settings, DEFAULT_PLANS, keys=keys, fetcher=fetcher, secret=SECRET, clock=clock
            ),
            clock,
        )
        under_way.url, under_way.seed = await under_way.provider.begin()
        yield under_way
        await fetcher.close()


async def test_the_right_answer(sign_in: SignIn) -> None:
    """The code goes with the verifier of the challenge, and the client's secret in a header, never in an address."""
    assert sign_in.url.startswith(f"{sign_in.idp.url}/auth?tenant=1&")
    person = await sign_in.finish({"id_token": sign("ES256", sign_in.claims(groups=["staff"]))})
    assert (person.name, person.plan) == ("corp:ada", "member")
    [form] = sign_in.idp.forms
    assert base64.b64decode(form["authorization"].removeprefix("Basic ")).decode() == f"gatehouse:{CLIENT_SECRET}"
    assert (form["grant_type"], form["code"], len(form["code_verifier"])) == ("authorization_code", "c0de", 43)
    assert CLIENT_SECRET not in sign_in.url + sign_in.seed


ANSWERS: dict[str, Callable[[SignIn], Any]] = {
    "no ID token": lambda _: {"access_token": "x"},
    "an ID token that is no text": lambda _: {"id_token": {"sub": "ada"}},
    "an error": lambda _: "invalid_grant",
    "unsigned": lambda s: {"id_token": sign("ES256", s.claims()).rpartition(".")[0] + "."},
    "another key": lambda s: {"id_token": sign("ES256", s.claims(), number=1)},
    "another key under the right name": lambda s: {"id_token": sign("ES256", s.claims(), number=1, kid="ES256-0")},
    "the client's secret as the key": lambda s: {"id_token": sign("HS256", s.claims(), kid="ES256-0")},
    "a key that it brings along": lambda s: {
        "id_token": sign("ES256", s.claims(), number=1, jwk=public_jwk("ES256", 1))
    },
    "another sign-in's": lambda s: {"id_token": sign("ES256", s.claims() | {"nonce": "x"})},
    "no nonce": lambda s: {"id_token": sign("ES256", {k: v for k, v in s.claims().items() if k != "nonce"})},
    "another client's": lambda s: {"id_token": sign("ES256", s.claims() | {"aud": "other"})},
    "an API token": lambda s: {"id_token": sign("ES256", s.claims() | {"aud": "gatehouse-api"})},
    "two clients, meant for the other": lambda s: {
        "id_token": sign("ES256", s.claims(azp="other") | {"aud": ["gatehouse", "other"]})
    },
    "another issuer's": lambda s: {"id_token": sign("ES256", s.claims() | {"iss": "https://evil.example"})},
    "expired": lambda s: {"id_token": sign("ES256", s.claims() | {"iat": 1_700_000_000, "exp": 1_700_000_060})},
    "no subject": lambda s: {"id_token": sign("ES256", {k: v for k, v in s.claims().items() if k != "sub"})},
    "a subject of two lines": lambda s: {"id_token": sign("ES256", s.claims() | {"sub": "ada\nroot"})},
    "userinfo of somebody else": lambda s: {"id_token": sign("ES256", s.claims()), "access_token": "else"},
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_wrong_answers(sign_in: SignIn, case: str) -> None:
    """None of these proves anybody; the reason for the log holds no token."""
    sign_in.idp.userinfo = {"sub": "root", "groups": ["ml-team"]}
    answer = ANSWERS[case](sign_in)
    with pytest.raises(SignInFailed) as failed:
        await sign_in.finish(answer)
    assert failed.value.code == "sso_failed"
    assert not isinstance(answer, dict) or str(answer.get("id_token", "-" * 99)) not in str(failed.value)


@pytest.mark.parametrize(("where", "code"), [("token", "sso_failed"), ("gone", "sso_unavailable")])
async def test_endpoints_that_answer_nonsense(sign_in: SignIn, where: str, code: str) -> None:
    """What is not JSON proves nobody; an endpoint that is away is said to be."""
    if where == "token":
        sign_in.idp.discovery["token_endpoint"] = f"{sign_in.idp.url}/page"
    else:
        sign_in.idp.discovery["token_endpoint"] = "http://127.0.0.1:1/token"
    sign_in.clock.now += 301  # the metadata is read again
    with pytest.raises(SignInFailed) as failed:
        await sign_in.finish({"id_token": sign("ES256", sign_in.claims())})
    assert failed.value.code == code


async def test_userinfo_adds_and_does_not_replace(sign_in: SignIn) -> None:
    """What the ID token says stands; userinfo adds what it leaves out."""
    sign_in.idp.userinfo = {"sub": "ada", "name": "Ada", "groups": ["ml-team"], "aud": "x", "exp": 1}
    answer = {"id_token": sign("ES256", sign_in.claims(groups=["staff"])), "access_token": "x"}
    person = await sign_in.finish(answer)
    assert (person.display_name, person.plan) == ("Ada", "member")


async def test_a_key_of_this_minute(sign_in: SignIn) -> None:
    """An ID token under a key published since the last fetch is accepted: the person waits for it, no program does."""
    sign_in.idp.keys.append(public_jwk("ES256", 1))
    sign_in.clock.now += 31
    assert (await sign_in.finish({"id_token": sign("ES256", sign_in.claims(), number=1)})).name == "corp:ada"


@pytest.mark.parametrize("endpoint", ["authorization_endpoint", "token_endpoint", "userinfo_endpoint"])
async def test_metadata_that_leads_to_plain_http(sign_in: SignIn, endpoint: str) -> None:
    """An endpoint that is not https is not used, neither for the browser nor for the code."""
    sign_in.idp.discovery[endpoint] = "http://id.example/x"
    sign_in.clock.now += 301
    with pytest.raises(SignInFailed) as failed:
        url, seed = await sign_in.provider.begin()
        sign_in.url, sign_in.seed = url, seed
        await sign_in.finish({"id_token": sign("ES256", sign_in.claims()), "access_token": "x"})
    assert failed.value.code == "sso_unavailable"
