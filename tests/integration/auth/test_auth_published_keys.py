"""Keys fetched from a real provider: rotation, outage, hostile answers; and no request that waits for any of it."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.auth import fetch
from gateway.auth.fetch import Fetcher, JwksDocument, JwksFile
from gateway.auth.published import FetchError, PublishedKeys
from tests.integration.auth.house import House, config_at, serve
from tests.integration.auth.provider_http import Provider, provider
from tests.unit.gateway.auth.foreign import ISSUER, Town, claims, jwks, public_jwk, settings, sign
from tests.unit.gateway.auth.house import Clock

HOUR = 3600.0


@pytest.fixture
async def idp() -> AsyncIterator[Provider]:
    """A provider with one key."""
    async with provider(public_jwk("ES256")) as running:
        yield running


class Watched:
    """The keys of a provider over simulated time: `until` does what the background does, at each due moment."""

    def __init__(self, idp: Provider, fetcher: Fetcher, **changes: Any) -> None:
        self.clock = Clock(0.0)
        self.fetcher = fetcher
        self.withdrawn = 0
        issuer = settings(jwks_url=f"{idp.url}/jwks", **changes)
        self.keys = PublishedKeys(
            "corp",
            JwksDocument(fetcher, issuer).fetch,
            max_age=300,
            cooldown=30,
            stale=24 * HOUR,
            changed=self._changed,
            clock=self.clock,
        )
        self.town = Town(self.keys, issuer, Clock())

    def move(self, url: str) -> None:
        """The provider is at another address from now on."""
        self.keys._fetch = JwksDocument(self.fetcher, settings(jwks_url=url)).fetch

    def _changed(self) -> None:
        self.withdrawn += 1
        self.town.verifier.forget()

    async def until(self, moment: float) -> None:
        """Let simulated time pass."""
        while self.clock.now + self.keys.wait() <= moment:
            self.clock.now += self.keys.wait()
            await self.keys.refresh()
        self.clock.now = moment


@pytest.fixture
async def watched(idp: Provider) -> AsyncIterator[Watched]:
    """Its keys, never fetched yet."""
    fetcher = Fetcher()
    yield Watched(idp, fetcher)
    await fetcher.close()


async def test_max_age(watched: Watched, idp: Provider) -> None:
    """Keys are fetched every five minutes; sooner when the provider says so, never more often than every ten seconds."""
    await watched.until(HOUR)
    assert idp.asked == 13
    for cache_control, seconds in (
        ("public, max-age=60", 60),
        ("max-age=86400", 300),
        ("Max-Age=0", 30),
        ("max-age=x", 300),
        ("s-maxage=5", 300),
    ):
        idp.cache_control = cache_control
        await watched.keys.refresh()
        assert watched.keys.wait() == seconds, cache_control


async def test_an_unknown_key_is_fetched_after_the_cooldown(watched: Watched, idp: Provider) -> None:
    """A token under an unknown key is refused at once and hastens the next fetch, however many such tokens come."""
    await watched.until(100)
    idp.keys.append(public_jwk("ES256", 1))
    asked = idp.asked
    for _ in range(1000):
        assert watched.town.verdict(sign("ES256", number=1)) == "unknown_key"
    await watched.until(100)  # at once: the last fetch was more than thirty seconds ago
    assert idp.asked == asked + 1
    assert watched.town.verdict(sign("ES256", number=1)) is None
    for second in range(101, 161):
        assert watched.town.verdict(sign("ES256", number=2)) == "unknown_key"
        await watched.until(second)
    assert idp.asked == asked + 3


async def test_a_set_with_strangers(watched: Watched, idp: Provider, caplog: pytest.LogCaptureFixture) -> None:
    """Keys that are of no use here do not hinder those that are; the log says which."""
    idp.keys.append({"kty": "oct", "k": "secret-of-the-provider"})
    with caplog.at_level("INFO", logger="gateway.auth"):
        await watched.keys.refresh()
    assert watched.town.verdict(sign("ES256")) is None
    assert "key 2: its type is not accepted" in caplog.text
    assert "secret-of-the-provider" not in caplog.text


async def test_rotation_with_overlap(watched: Watched, idp: Provider) -> None:
    """While both keys are published the tokens of both pass; a withdrawn key's are refused, remembered ones too."""
    await watched.until(1)
    old, new = sign("ES256"), sign("ES256", number=1)
    assert watched.town.verifier.verify(old)
    idp.keys.append(public_jwk("ES256", 1))
    await watched.until(400)
    assert [watched.town.verdict(token) for token in (old, new)] == [None, None]
    assert watched.withdrawn == 0
    del idp.keys[0]
    await watched.until(800)
    assert watched.withdrawn == 1
    assert [watched.town.verdict(token) for token in (old, new)] == ["unknown_key", None]
    with pytest.raises(Exception, match="not known"):
        watched.town.verifier.verify(old)


async def test_a_key_replaced_under_its_id(watched: Watched, idp: Provider) -> None:
    """A new key under an old id takes its place at the next fetch; what the old one signed is forgotten."""
    await watched.until(1)
    token = sign("ES256")
    watched.town.verifier.verify(token)
    idp.keys[0] = public_jwk("ES256", 1, kid="ES256-0")
    await watched.until(400)
    assert watched.town.verdict(token) == "bad_signature"
    assert watched.withdrawn == 1


@pytest.mark.parametrize("trouble", ["status", "html", "empty", "connection", "redirect", "huge"])
async def test_an_hour_without_the_provider(
    watched: Watched, idp: Provider, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    """For an hour the provider is of no use: known keys count on, new ones are refused, one line is logged, not 120."""
    await watched.until(1)
    asked = idp.asked
    match trouble:
        case "status":
            idp.status = 503
        case "html":
            idp.body = b"<html>maintenance</html>"
        case "empty":
            idp.body = jwks()
        case "connection":
            watched.move("http://127.0.0.1:1/jwks")
        case "redirect":
            idp.status = 302
        case "huge":
            idp.body = jwks(public_jwk("ES256", 1), {"x": "x" * fetch.MAX_BYTES})
    for minute in range(1, 61):
        await watched.until(minute * 60.0)
        assert watched.town.verdict(sign("ES256")) is None
        assert watched.town.verdict(sign("ES256", number=1)) == "unknown_key"
    assert idp.asked - asked <= 121
    assert len([record for record in caplog.records if "cannot be fetched" in record.message]) == 1
    if trouble == "connection":
        return
    idp.status, idp.body = 200, None
    idp.keys.append(public_jwk("ES256", 1))
    await watched.until(HOUR + 60)
    assert watched.town.verdict(sign("ES256", number=1)) is None


async def test_stale_keys_end(watched: Watched, idp: Provider) -> None:
    """After a day without the provider its keys are trusted no longer: one that was withdrawn must not live for ever."""
    await watched.until(1)
    idp.status = 500
    await watched.until(23 * HOUR)
    assert watched.town.verdict(sign("ES256")) is None
    await watched.until(25 * HOUR)
    assert watched.town.verdict(sign("ES256")) == "unknown_key"


async def test_a_set_with_one_key_needs_no_kid(watched: Watched, idp: Provider) -> None:
    """A token that names no key is meant for the only one there is; with two, for none."""
    await watched.until(1)
    assert watched.town.verdict(sign("ES256", kid=...)) is None
    idp.keys.append(public_jwk("ES256", 1))
    await watched.keys.refresh()
    assert watched.town.verdict(sign("ES256", kid=...)) == "unknown_key"


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example"},
        {"jwks_uri": "http://id.example/jwks"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": None},
        {"jwks_uri": ["x"]},
        {"broken": True},
    ],
)
async def test_discovery_that_leads_astray(idp: Provider, metadata: dict[str, Any]) -> None:
    """Metadata of another issuer, or with an address that is not https, is not followed."""
    fetcher = Fetcher()
    document = JwksDocument(fetcher, settings(issuer=idp.url, jwks_url=None, discovery=True))
    found, _ = await document.fetch()
    assert [key.kid for key in found.keys] == ["ES256-0"]
    idp.discovery = metadata
    with pytest.raises(FetchError):
        await document.fetch()
    await fetcher.close()


async def test_a_key_sets_file(tmp_path: Path) -> None:
    """A key set's file is read anew; one that is missing, too large or no set is an error that names it."""
    path = tmp_path / "jwks.json"
    source = JwksFile(settings(jwks_url=None, jwks_file=path))
    with pytest.raises(FetchError, match=r"jwks\.json: No such file"):
        await source.fetch()
    for content in (b"{}", b" " * (fetch.MAX_BYTES + 1), jwks({"kty": "oct"})):
        path.write_bytes(content)
        with pytest.raises(FetchError, match=r"jwks\.json"):
            await source.fetch()
    path.write_bytes(jwks(public_jwk("EdDSA")))
    assert (await source.fetch())[0].keys[0].kid == "EdDSA-0"


@asynccontextmanager
async def house_of(tmp_path: Path, **issuer: Any) -> AsyncIterator[House]:
    """A running house that accepts one issuer's tokens, with short times between fetches."""
    auth = {"issuers": (settings(**issuer),), "jwks_cooldown_seconds": 0.05, "jwks_max_age_seconds": 0.2}
    async for running in serve(config_at(tmp_path, **auth)):
        yield running


async def who(house: House, token: str) -> int:
    return (await house.request("GET", "/v1/who", headers={"Authorization": f"Bearer {token}"})).status


def live_claims(**changes: Any) -> dict[str, Any]:
    now = time.time()
    return claims(iat=now - 5, exp=now + 600, **changes)


async def test_rotation_under_load(idp: Provider, tmp_path: Path) -> None:
    """Through three rotations, each with overlap, of all valid requests none is refused."""
    async with house_of(tmp_path, jwks_url=f"{idp.url}/jwks") as house:
        current, numbers = 0, itertools.count()
        statuses: list[int] = []
        rotated = asyncio.Event()

        async def caller() -> None:
            while not rotated.is_set():
                token = sign("ES256", live_claims(jti=str(next(numbers))), number=current)
                statuses.append(await who(house, token))

        callers = [asyncio.create_task(caller()) for _ in range(4)]
        for number in (1, 2, 3):
            idp.keys.append(public_jwk("ES256", number))  # published first,
            probe = sign("ES256", live_claims(jti=f"probe {number}"), number=number)
            async with asyncio.timeout(60):
                while await who(house, probe) != 200:
                    await asyncio.sleep(0.01)
            current = number  # then signed with,
            before = len(statuses)
            while len(statuses) < before + 50:
                await asyncio.sleep(0.01)
            del idp.keys[0]  # and the old one withdrawn when nothing of it is in use
        rotated.set()
        await asyncio.gather(*callers)
        assert set(statuses) == {200}
        assert len(statuses) > 150


async def test_no_request_waits_for_the_provider(
    idp: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the provider accepts connections and says nothing, requests are answered: known keys 200, unknown 401."""
    monkeypatch.setattr(fetch, "FETCH_SECONDS", 60)
    async with house_of(tmp_path, jwks_url=f"{idp.url}/jwks") as house:
        token = sign("ES256", live_claims())
        assert await who(house, token) == 200
        idp.silent = True
        asked = idp.asked
        async with asyncio.timeout(60):
            while idp.asked == asked:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(fetch.FETCH_SECONDS / 2):  # the fetch under way lasts longer
            assert await who(house, sign("ES256", live_claims(jti="new"))) == 200
            assert await who(house, sign("ES256", live_claims(), number=1)) == 401


async def test_a_start_without_the_provider(tmp_path: Path) -> None:
    """With the provider away the gateway starts; its tokens are refused, the house's own pass."""
    async with house_of(tmp_path, jwks_url="http://127.0.0.1:1/jwks") as house:
        assert await who(house, sign("ES256", live_claims())) == 401
        assert await who(house, house.token()) == 200


async def test_discovery_and_a_file_in_a_gateway(idp: Provider, tmp_path: Path) -> None:
    """Two issuers at once, one found by discovery, one in a file that changes while the gateway runs."""
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(public_jwk("EdDSA")))
    auth = {
        "issuers": (
            settings(issuer=idp.url, jwks_url=None, discovery=True, name="web"),
            settings(jwks_url=None, jwks_file=path, audience="files"),
        )
    }
    async for house in serve(config_at(tmp_path, **auth)):
        assert await who(house, sign("ES256", live_claims(iss=idp.url))) == 200
        assert await who(house, sign("EdDSA", live_claims(aud="files"))) == 200
        assert await who(house, sign("EdDSA", live_claims(aud="gatehouse"))) == 401
        assert await who(house, sign("ES256", live_claims(iss=ISSUER, aud="files"))) == 401
        path.write_bytes(jwks(public_jwk("EdDSA"), public_jwk("RS256")))
        async with asyncio.timeout(60):
            while await who(house, sign("RS256", live_claims(aud="files"))) != 200:
                await asyncio.sleep(0.05)
