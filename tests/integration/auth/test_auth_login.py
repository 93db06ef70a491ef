"""Login, session and logout over a real socket."""

import asyncio
import ipaddress
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from http.cookies import SimpleCookie
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from gateway.auth import passwords as passwords_module
from gateway.auth import setup as auth_setup
from gateway.auth.throttle import PAIR, Throttle
from tests.integration.auth.house import OWN_PAGE, PASSWORD, House, config_at, serve

PERSON = {"name": "ada", "display_name": "Ada L.", "team": "research", "plan": "member", "admin": False}


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_login(house: House) -> None:
    """Name and password give the person and a cookie; the cookie gives the session."""
    answer = await house.login()
    assert (answer.status, answer.json) == (200, {"user": PERSON})
    assert answer.headers["Cache-Control"] == "no-store"
    session = await house.request("GET", "/auth/session", headers={"Cookie": answer.cookie})
    assert session.status == 200
    assert session.json["user"] == PERSON
    assert abs(session.json["expires_at"] - time.time() - 12 * 3600) < 120
    who = await house.request("GET", "/v1/who", headers={"Cookie": answer.cookie})
    assert who.json == {"subject": "ada", "plan": "member", "via": "session"}


async def test_cookie_attributes(house: House) -> None:
    """The cookie is __Host-, HttpOnly, Secure, SameSite=Lax, for the whole site, for thirty days, and long."""
    cookies = SimpleCookie((await house.login()).headers["Set-Cookie"])
    cookie = cookies["__Host-session"]
    assert (cookie["httponly"], cookie["secure"], cookie["samesite"]) == (True, True, "Lax")
    assert (cookie["path"], cookie["domain"], cookie["max-age"]) == ("/", "", str(30 * 86_400))
    assert len(cookie.value) == 43


async def test_cookie_over_http(tmp_path: Path) -> None:
    """Where the setting allows plain HTTP the cookie is called `session` and is not Secure; the rest stays."""
    async for house in serve(config_at(tmp_path, cookie_over_http=True)):
        await house.users.add("ada", PASSWORD, display_name=None, team=None, plan="member")
        answer = await house.login()
        cookie = SimpleCookie(answer.headers["Set-Cookie"])["session"]
        assert (cookie["httponly"], cookie["secure"], cookie["samesite"]) == (True, "", "Lax")
        assert (await house.request("GET", "/auth/session", headers={"Cookie": answer.cookie})).status == 200


@pytest.mark.parametrize("name", ["ada", "ADA", " Ada ", "Ａｄａ"])
async def test_one_name_however_it_is_typed(house: House, name: str) -> None:
    """Case, width and spaces around a name do not matter."""
    assert (await house.login(name)).json["user"]["name"] == "ada"


async def test_one_error_for_everything_wrong(house: House) -> None:
    """Wrong password, unknown, impossible and disabled names get the same answer to the byte."""
    await house.users.add("bob", PASSWORD, display_name=None, team=None, plan="member")
    await house.users.disable("bob")
    attempts = [("ada", "wrong password"), ("nobody", PASSWORD), ("", PASSWORD), ("a b\n", PASSWORD), ("bob", PASSWORD)]
    answers = [await house.login(name, password) for name, password in attempts]
    assert {answer.status for answer in answers} == {401}
    assert len({answer.body for answer in answers}) == 1
    assert answers[0].code == "invalid_credentials"
    assert all("Set-Cookie" not in answer.headers for answer in answers)


async def test_too_many_guesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some wrong passwords the next try has to wait, with Retry-After in both forms; others are not concerned."""
    now = 1000.0
    monkeypatch.setattr(auth_setup, "Throttle", lambda: Throttle(lambda: now))
    async for house in serve(config_at(tmp_path)):
        for name in ("ada", "bob"):
            await house.users.add(name, PASSWORD, display_name=None, team=None, plan="member")
        for _ in range(PAIR.free + 1):
            assert (await house.login(password="wrong password")).status == 401
        answer = await house.login()
        assert (answer.status, answer.code) == (429, "login_throttled")
        assert (answer.headers["Retry-After"], answer.headers["retry-after-ms"]) == ("1", "1000")
        assert (await house.login("bob")).status == 200
        now += 1
        assert (await house.login()).status == 200


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"username=ada&password=x", "application/x-www-form-urlencoded", 415),
        (b'{"username": "ada", "password": "x"}', "text/plain", 415),
        (b'{"username": "ada"}', "application/json", 400),
        (b'{"username": "ada", "password": 7}', "application/json", 400),
        (b'{"username": "ada", "password": "x", "admin": true}', "application/json", 400),
        (b"[]", "application/json", 400),
        (b"", "application/json", 400),
        (b'{"username": "\xff", "password": "x"}', "application/json", 400),
        (b'{"username": "ada", "password": "' + b"x" * 5000 + b'"}', "application/json", 413),
    ],
)
async def test_malformed_logins(house: House, body: bytes, content_type: str, status: int) -> None:
    """What is not a small JSON object of two texts is refused without being repeated."""
    answer = await house.request("POST", "/auth/login", data=body, headers={"Content-Type": content_type})
    assert answer.status == status
    assert b"xxxx" not in answer.body


async def test_a_login_that_never_comes(tmp_path: Path) -> None:
    """A body that does not arrive in time is answered 408."""
    config = config_at(tmp_path)
    config = config.model_copy(update={"gateway": config.gateway.model_copy(update={"body_seconds": 0.1})})
    async for house in serve(config):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(house.base.rpartition(":")[2]))
        writer.write(
            b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()
        await writer.wait_closed()


async def test_logout(house: House) -> None:
    """Logging out ends the session at once, clears the cookie, and leaves the user's other sessions."""
    here, elsewhere = await house.signed_in(), await house.signed_in()
    for browser in (here, elsewhere):
        assert (await house.request("GET", "/v1/who", headers=browser)).status == 200
    answer = await house.request("POST", "/auth/logout", json={}, headers=here)
    assert answer.status == 204
    assert answer.cookie == '__Host-session=""'
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    refused = await house.request("GET", "/v1/who", headers=here)
    assert (refused.status, refused.code) == (401, "session_expired")
    assert (await house.request("GET", "/auth/session", headers=here)).status == 401
    assert (await house.request("GET", "/v1/who", headers=elsewhere)).status == 200
    assert (await house.request("POST", "/auth/logout", json={}, headers=here)).status == 204


async def test_logout_everywhere(house: House) -> None:
    """Every session of the user ends at once, and nobody else's."""
    await house.users.add("bob", PASSWORD, display_name=None, team=None, plan="member")
    bob = {"Cookie": (await house.login("bob")).cookie, **OWN_PAGE}
    browsers = [await house.signed_in() for _ in range(3)]
    for browser in browsers:
        await house.request("GET", "/v1/who", headers=browser)
    assert (await house.request("POST", "/auth/logout-everywhere", json={}, headers=browsers[0])).status == 204
    for browser in browsers:
        assert (await house.request("GET", "/v1/who", headers=browser)).status == 401
    assert (await house.request("POST", "/auth/logout-everywhere", json={}, headers=browsers[0])).status == 401
    assert (await house.request("GET", "/v1/who", headers=bob)).status == 200


@pytest.mark.parametrize("cookie", ["", "x", "x" * 43, "é" * 43, "../" * 15, "a" * 5000])
async def test_invented_cookies(house: House, cookie: str) -> None:
    """A cookie that nobody gave out is no session."""
    answer = await house.request("GET", "/auth/session", headers={"Cookie": f"__Host-session={cookie}"})
    assert (answer.status, answer.code) == (401, "session_expired")


async def test_no_cookie(house: House) -> None:
    """Without credentials there is no session and no access, and the challenge names the scheme."""
    assert (await house.request("GET", "/auth/session")).status == 401
    answer = await house.request("GET", "/v1/who")
    assert (answer.status, answer.code, answer.headers["WWW-Authenticate"]) == (401, "token_missing", "Bearer")


async def test_the_cookie_is_stored_as_a_hash_only(house: House) -> None:
    """Neither cookie nor password stands anywhere in the state directory."""
    browser = await house.signed_in()
    await house.request("GET", "/v1/who", headers=browser)
    value = browser["Cookie"].partition("=")[2].encode()
    for path in house.config.state_dir.iterdir():
        content = path.read_bytes()
        assert value not in content
        assert PASSWORD.encode() not in content


async def test_disabling_reaches_a_running_gateway(house: House) -> None:
    """A user disabled by another process is out within a second or so: session, tokens and login."""
    browser, token = await house.signed_in(), house.token(subject="ada")
    bearer = {"Authorization": f"Bearer {token}"}
    for headers in (browser, bearer):
        assert (await house.request("GET", "/v1/who", headers=headers)).status == 200
    await house.users.disable("ada")  # writes SQL only, as the command does

    async def out() -> bool:
        answers = [await house.request("GET", "/v1/who", headers=headers) for headers in (browser, bearer)]
        return [answer.status for answer in answers] == [401, 401]

    await until(out)
    assert (await house.login()).status == 401
    await house.users.enable("ada")
    assert (await house.login()).status == 200
    assert (await house.request("GET", "/v1/who", headers=bearer)).code == "token_revoked"


async def test_a_new_password_ends_sessions(house: House) -> None:
    """Setting a password ends the sessions that were begun with the old one."""
    browser = await house.signed_in()
    await house.request("GET", "/v1/who", headers=browser)
    await house.users.set_password("ada", "another good password")

    async def out() -> bool:
        return (await house.request("GET", "/v1/who", headers=browser)).status == 401

    await until(out)
    assert (await house.login()).status == 401
    assert (await house.login(password="another good password")).status == 200


async def test_sessions_survive_a_restart(tmp_path: Path) -> None:
    """A session outlives the process that began it; a revoked token does not come back with the next one."""
    config = config_at(tmp_path)
    async for house in serve(config):
        await house.users.add("ada", PASSWORD, display_name=None, team=None, plan="member")
        browser, bearer = await house.signed_in(), {"Authorization": f"Bearer {house.token(subject='eve')}"}
        await house.users.disable("eve")
        await house.users.add("eve", PASSWORD, display_name=None, team=None, plan="member")
        await house.users.disable("eve")
    async for house in serve(config):
        assert (await house.request("GET", "/v1/who", headers=browser)).status == 200
        assert (await house.request("GET", "/v1/who", headers=bearer)).code == "token_revoked"


async def test_without_a_database(house: House) -> None:
    """While SQL fails, known sessions and every token go on; what needs SQL says 503, and nothing hangs."""
    browser = await house.signed_in()
    bearer = {"Authorization": f"Bearer {house.token()}"}
    assert (await house.request("GET", "/v1/who", headers=browser)).status == 200
    with closing(sqlite3.connect(house.config.state_dir / "gatehouse.db")) as connection, connection:
        for table in ("sessions", "users", "revocations"):
            connection.execute(f"ALTER TABLE {table} RENAME TO {table}_away")
    for headers in (browser, bearer):
        assert (await house.request("GET", "/v1/who", headers=headers)).status == 200
    assert (await house.login()).status == 503
    unknown = {"Cookie": "__Host-session=" + "x" * 43}
    answer = await house.request("GET", "/auth/session", headers=unknown)
    assert (answer.status, answer.code) == (503, "sessions_unavailable")
    assert (await house.request("POST", "/auth/logout", json={}, headers=browser)).status == 503


@pytest.mark.usefixtures("costly_passwords")
async def test_a_flood_of_logins_waits_in_a_bounded_line(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """More logins at once than the line holds are told to come again; the others are served."""
    monkeypatch.setattr(passwords_module, "MAX_WAITING", 3)
    names = [f"user{n}" for n in range(8)]
    answers = await asyncio.gather(*(house.login(name) for name in names))
    statuses = sorted(answer.status for answer in answers)
    assert set(statuses) == {401, 503}
    assert all(answer.code == "login_busy" for answer in answers if answer.status == 503)


async def test_rehash_on_login(house: House) -> None:
    """A hash made with weaker parameters is replaced at the next login."""
    weak = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    await house.store.users.change("ada", password_hash=weak)
    assert (await house.login()).status == 200
    assert (await house.store.users.find("ada")).password_hash != weak
    assert (await house.login()).status == 200


async def test_logs_have_no_secret(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """At the most talkative level, no log line has a password, cookie, token or hash."""
    caplog.set_level(logging.DEBUG)
    browser = await house.signed_in()
    token = house.token()
    await house.login(password="wrong password")
    await house.request("GET", "/v1/who", headers=browser)
    await house.request("GET", "/v1/who", headers={"Authorization": f"Bearer {token}"})
    await house.request("GET", "/v1/who", headers={"Authorization": f"Bearer {token[:-8]}AAAAAAAA"})
    await house.request("POST", "/auth/logout", json={}, headers=browser)
    for secret in (PASSWORD, "wrong password", browser["Cookie"].partition("=")[2], token.split(".")[2], "argon2id"):
        assert secret not in caplog.text


async def test_back_off_behind_a_proxy(tmp_path: Path) -> None:
    """Behind a trusted proxy each caller has a back-off of their own; what a caller adds to the header changes nothing."""
    config = config_at(tmp_path)
    proxied = config.gateway.model_copy(update={"trusted_proxies": (ipaddress.ip_network("127.0.0.1"),)})
    async for house in serve(config.model_copy(update={"gateway": proxied})):
        await house.users.add("Ada", PASSWORD, display_name=None, team=None, plan="member")
        number, status = 0, 0
        while status != 429:  # sooner or later: the delay doubles
            number += 1
            forged = {"X-Forwarded-For": f"198.51.100.{number}, 203.0.113.7"}
            status = (await house.login(password="a wrong password", **forged)).status
            assert number < 40
        assert (await house.login(**{"X-Forwarded-For": "203.0.113.8"})).status == 200
