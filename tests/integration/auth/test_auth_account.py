"""The own account, over a real socket: password, sessions, personal tokens; nobody else's, and nothing wider."""

import asyncio
from typing import Any

import pytest

from gateway.auth import account
from tests.integration.auth.house import OWN_PAGE, PASSWORD, Answer, House

NEW_PASSWORD = "a longer and better passphrase"
CHANGES = [
    ("POST", "/api/account/password"),
    ("DELETE", "/api/account/sessions/x"),
    ("POST", "/api/account/tokens"),
    ("DELETE", "/api/account/tokens/x"),
]


async def call(house: House, method: str, path: str, browser: dict[str, str], body: Any = None) -> Answer:
    if body is None and method == "GET":
        return await house.request(method, path, headers=browser)
    return await house.request(method, path, headers=browser, json={} if body is None else body)


async def who(house: House, token: str) -> Answer:
    return await house.request("GET", "/v1/who", headers={"Authorization": f"Bearer {token}"})


async def test_the_account(house: House) -> None:
    """It says who one is and what one may use, and holds no secret."""
    answer = await call(house, "GET", "/api/account", await house.signed_in())
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    expected = {"name": "ada", "display_name": "Ada L.", "team": "research", "plan": "member", "has_password": True}
    assert expected.items() <= answer.json.items()
    assert answer.json["limits"]["requests_per_minute"] == 60
    assert answer.json["scopes"] == ["api", "chat"]
    assert b"argon2" not in answer.body


async def test_change_the_password(house: House) -> None:
    """The new password counts from now on; this browser stays signed in by a fresh session, every other one is out."""
    here, elsewhere = await house.signed_in(), await house.signed_in()
    body = {"current": PASSWORD, "new": NEW_PASSWORD}
    changed = await call(house, "POST", "/api/account/password", here, body)
    assert changed.status == 204
    fresh = {"Cookie": changed.cookie, **OWN_PAGE}
    assert fresh["Cookie"] != here["Cookie"]
    assert (await call(house, "GET", "/auth/session", fresh)).status == 200
    async with asyncio.timeout(60):
        for old in (here, elsewhere):
            while (await call(house, "GET", "/auth/session", old)).status != 401:
                await asyncio.sleep(0.05)
    assert (await house.login()).status == 401
    assert (await house.login(password=NEW_PASSWORD)).status == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"current": "not the password", "new": NEW_PASSWORD}, 401, "invalid_credentials"),
        ({"current": PASSWORD, "new": "short"}, 400, "password_length"),
        ({"current": PASSWORD, "new": "x" * 257}, 400, "password_length"),
        ({"new": NEW_PASSWORD}, 400, "invalid_request"),
        ({"current": PASSWORD, "new": NEW_PASSWORD, "name": "bob"}, 400, "invalid_request"),
        ([], 400, "invalid_request"),
    ],
)
async def test_a_password_that_stays(house: House, body: Any, status: int, code: str) -> None:
    """Without the current password, or with one of the wrong length, nothing changes."""
    refused = await call(house, "POST", "/api/account/password", await house.signed_in(), body)
    assert (refused.status, refused.code) == (status, code)
    assert (await house.login()).status == 200


async def test_guessing_the_current_password_is_slowed_down(house: House) -> None:
    """Whoever holds a session is throttled like at the login."""
    browser = await house.signed_in()
    status, guesses = 401, 0
    while status == 401:
        body = {"current": f"guess number {guesses}", "new": NEW_PASSWORD}
        status, guesses = (await call(house, "POST", "/api/account/password", browser, body)).status, guesses + 1
        assert guesses < 40
    assert status == 429


async def test_sessions(house: House) -> None:
    """The list says where one is signed in, which of them this is, and nothing that could be used as the cookie."""
    other = await house.signed_in()
    here = {**await house.signed_in(), "User-Agent": "Second Browser"}
    listed = (await call(house, "GET", "/api/account/sessions", here)).json["sessions"]
    assert sorted(session["current"] for session in listed) == [False, True]
    assert {"id", "created_at", "seen_at", "ends_at", "address", "user_agent", "current"} == listed[0].keys()
    [old] = [session["id"] for session in listed if not session["current"]]
    assert (await call(house, "DELETE", f"/api/account/sessions/{old}", here)).status == 204
    assert (await call(house, "GET", "/auth/session", other)).status == 401
    assert len((await call(house, "GET", "/api/account/sessions", here)).json["sessions"]) == 1
    assert (await call(house, "DELETE", f"/api/account/sessions/{old}", here)).code == "session_not_found"


async def test_ending_the_own_session(house: House) -> None:
    """Ending the session one is in takes the cookie back, as logging out does."""
    here = await house.signed_in()
    [session] = (await call(house, "GET", "/api/account/sessions", here)).json["sessions"]
    ended = await call(house, "DELETE", f"/api/account/sessions/{session['id']}", here)
    assert ended.cookie.endswith("=") or ended.cookie.endswith('=""')
    assert (await call(house, "GET", "/auth/session", here)).status == 401


async def test_a_personal_token(house: House) -> None:
    """It is shown once, works as its member with the member's plan and team, is listed with its limits, and revoked."""
    browser = await house.signed_in()
    made = await call(house, "POST", "/api/account/tokens", browser, {"days": 7})
    assert made.status == 201
    token = made.json["token"]
    answer = await who(house, token)
    assert (answer.status, answer.json["subject"], answer.json["plan"]) == (200, "ada", "member")
    listing = await call(house, "GET", "/api/account/tokens", browser)
    [listed] = listing.json["tokens"]
    assert token.encode() not in listing.body
    assert (listed["id"], listed["state"], listed["scopes"]) == (made.json["id"], "active", ["api"])
    assert listed["limits"]["tokens_per_day"] == 1_000_000
    assert listed["expires_at"] - listed["issued_at"] == pytest.approx(7 * 86_400, abs=2)
    assert (await call(house, "DELETE", f"/api/account/tokens/{listed['id']}", browser)).status == 204
    assert (await who(house, token)).code == "token_revoked"
    assert (await call(house, "GET", "/api/account/tokens", browser)).json["tokens"][0]["state"] == "revoked"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"scopes": ["admin"]}, 403, "insufficient_scope"),
        ({"scopes": ["api", "usage:all"]}, 403, "insufficient_scope"),
        ({"scopes": ["*"]}, 403, "insufficient_scope"),
        ({"days": 0}, 400, "value_out_of_range"),
        ({"days": 367}, 400, "value_out_of_range"),
        ({"days": "7"}, 400, "invalid_request"),
        ({"models": [""]}, 400, "invalid_request"),
        ({"models": ["x"] * 3 + [str(n) for n in range(65)]}, 400, "invalid_request"),
        ({"plan": "service"}, 400, "invalid_request"),
        ({"subject": "bob"}, 400, "invalid_request"),
    ],
)
async def test_no_wider_than_the_member(house: House, body: Any, status: int, code: str) -> None:
    """No scope that the member lacks, no other subject or plan, no longer life than tokens have; nothing is recorded."""
    browser = await house.signed_in()
    refused = await call(house, "POST", "/api/account/tokens", browser, body)
    assert (refused.status, refused.code) == (status, code)
    assert (await call(house, "GET", "/api/account/tokens", browser)).json["tokens"] == []


async def test_narrower_than_the_member(house: House) -> None:
    """A token may be for fewer models and scopes."""
    browser = await house.signed_in()
    made = await call(house, "POST", "/api/account/tokens", browser, {"models": ["gpt-*"], "scopes": ["chat"]})
    assert (made.json["models"], made.json["scopes"]) == (["gpt-*"], ["chat"])
    assert (await who(house, made.json["token"])).code == "insufficient_scope"


async def test_other_peoples_things(house: House) -> None:
    """Sessions and tokens of another user are not there, whatever their ids."""
    await house.users.add("bob", PASSWORD, display_name=None, team=None, plan="member")
    bob = {"Cookie": (await house.login("bob")).cookie, **OWN_PAGE}
    token = (await call(house, "POST", "/api/account/tokens", bob)).json
    [session] = (await call(house, "GET", "/api/account/sessions", bob)).json["sessions"]
    ada = await house.signed_in()
    assert (await call(house, "GET", "/api/account/tokens", ada)).json["tokens"] == []
    assert (await call(house, "DELETE", f"/api/account/tokens/{token['id']}", ada)).code == "token_not_found"
    assert (await call(house, "DELETE", f"/api/account/sessions/{session['id']}", ada)).code == "session_not_found"
    assert (await who(house, token["token"])).status == 200
    assert (await call(house, "GET", "/auth/session", bob)).status == 200


async def test_tokens_are_counted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member has so many valid tokens and no more; a revoked one makes room."""
    monkeypatch.setattr(account, "MAX_TOKENS", 2)
    browser = await house.signed_in()
    first, _ = [(await call(house, "POST", "/api/account/tokens", browser)).json["id"] for _ in range(2)]
    assert (await call(house, "POST", "/api/account/tokens", browser)).code == "too_many_tokens"
    await call(house, "DELETE", f"/api/account/tokens/{first}", browser)
    assert (await call(house, "POST", "/api/account/tokens", browser)).status == 201


async def test_a_disabled_member_makes_none(house: House) -> None:
    """Between being disabled and the worker's knowing it, no token comes into being; earlier ones are dead."""
    browser = await house.signed_in()
    token = (await call(house, "POST", "/api/account/tokens", browser)).json["token"]
    await house.store.users.change("ada", disabled_at=1.0)  # as another worker's disable looks before it is known here
    assert (await call(house, "POST", "/api/account/tokens", browser)).code == "account_disabled"
    await house.users.disable("ada")
    async with asyncio.timeout(60):
        while (await who(house, token)).status != 401:
            await asyncio.sleep(0.05)
    assert len(await house.store.tokens.list("ada")) == 1


@pytest.mark.parametrize("path", ["", "/sessions", "/tokens"])
async def test_only_a_session_may_look(house: House, path: str) -> None:
    """Without a session nothing is shown; a token, even the member's own, is no session."""
    for headers in ({}, {"Authorization": f"Bearer {house.token(subject='ada')}"}):
        assert (await call(house, "GET", f"/api/account{path}", headers)).code == "session_expired"


@pytest.mark.parametrize(("method", "path"), CHANGES)
async def test_only_the_own_page_may_change(house: House, method: str, path: str) -> None:
    """A request of another site, or one that a form could send, changes nothing; neither does a token."""
    cookie = (await house.signed_in())["Cookie"]
    foreign = {"Cookie": cookie, "Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    assert (await house.request(method, path, headers=foreign, json={})).code == "cross_site_request"
    assert (await house.request(method, path, headers={"Cookie": cookie}, json={})).code == "cross_site_request"
    form = {"Cookie": cookie, **OWN_PAGE, "Content-Type": "application/x-www-form-urlencoded"}
    assert (await house.request(method, path, headers=form, data="a=b")).status == 415
    bearer = {"Authorization": f"Bearer {house.token(subject='ada')}", **OWN_PAGE}
    assert (await house.request(method, path, headers=bearer, json={})).code == "session_expired"
