"""What the sessions keep in memory, and what the watch does in the background."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.auth import sessions as sessions_module
from gateway.auth import setup as auth_setup
from gateway.auth.revocations import RevocationList
from gateway.auth.sessions import Sessions
from gateway.config import DEFAULT_PLANS, AuthSettings
from gateway.errors import Forbidden, Unauthorized, Unavailable
from gateway.store import Revocation, RevocationKind, Store, User
from tests.unit.gateway.auth.house import NOW, Clock

ADA = User("ada", "Ada", None, "member", NOW)
HOUR = 3600


class Browsers:
    """Sessions of one worker over a real store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.revocations = RevocationList(clock)
        self.sessions = Sessions(store, AuthSettings(), DEFAULT_PLANS, self.revocations, clock)

    async def begin(self) -> str:
        """A new session of Ada's; its cookie."""
        return await self.sessions.begin(ADA, address="10.0.0.1", user_agent="x" * 1000)

    async def alive(self, cookie: str) -> bool:
        """Whether the cookie is still a session."""
        try:
            await self.sessions.resolve(cookie)
        except Unauthorized:
            return False
        return True


@pytest.fixture
async def browsers(tmp_path: Path) -> AsyncIterator[Browsers]:
    """A worker with the user Ada and a clock that stands."""
    store = await Store.open(tmp_path / "gatehouse.db")
    await store.users.add(ADA)
    yield Browsers(store, Clock())
    await store.close()


async def test_idle_end(browsers: Browsers) -> None:
    """A session slides: used within twelve hours it goes on, unused for twelve it is over."""
    cookie = await browsers.begin()
    for _ in range(3):
        browsers.clock.now += 12 * HOUR - 1
        assert await browsers.alive(cookie)
    browsers.clock.now += 12 * HOUR
    assert not await browsers.alive(cookie)


async def test_absolute_end(browsers: Browsers) -> None:
    """However much it is used, a session ends after thirty days."""
    cookie = await browsers.begin()
    while browsers.clock.now < NOW + 30 * 24 * HOUR - 6 * HOUR:
        browsers.clock.now += 6 * HOUR
        assert await browsers.alive(cookie) == (browsers.clock.now < NOW + 30 * 24 * HOUR)
    browsers.clock.now = NOW + 30 * 24 * HOUR
    assert not await browsers.alive(cookie)


async def test_use_is_written_back(browsers: Browsers) -> None:
    """When a session was used reaches SQL in the background, so that it goes on after a restart."""
    cookie = await browsers.begin()
    await browsers.sessions.resolve(cookie)
    browsers.clock.now += 11 * HOUR
    await browsers.sessions.resolve(cookie)
    await browsers.sessions.refresh()
    assert (await browsers.store.sessions.of_user("ada", 0))[0].seen_at == browsers.clock.now
    after_restart = Browsers(browsers.store, browsers.clock)
    browsers.clock.now += 11 * HOUR
    assert await after_restart.alive(cookie)


async def test_known_sessions_do_not_ask_sql(browsers: Browsers) -> None:
    """Once known, a session is resolved from memory."""
    cookie = await browsers.begin()
    first = await browsers.sessions.resolve(cookie)
    await browsers.store.close()
    assert await browsers.sessions.resolve(cookie) is first


async def test_refresh_brings_changes(browsers: Browsers) -> None:
    """A change of plan or team, and the end of a session, arrive with the refresh."""
    cookie = await browsers.begin()
    await browsers.sessions.resolve(cookie)
    await browsers.store.users.change("ada", plan="service", team="eng")
    await browsers.sessions.refresh()
    principal = (await browsers.sessions.resolve(cookie)).principal
    assert (principal.plan, principal.team) == ("service", "eng")
    await browsers.store.users.disable("ada", now=browsers.clock.now, until=browsers.clock.now + 1)
    await browsers.sessions.refresh()
    assert not await browsers.alive(cookie)


async def test_sleeping_sessions_leave_memory(browsers: Browsers) -> None:
    """What was not used for a minute is forgotten here, not ended."""
    cookie = await browsers.begin()
    await browsers.sessions.resolve(cookie)
    browsers.clock.now += 61
    await browsers.sessions.refresh()
    assert len(browsers.sessions._known) == 0
    assert await browsers.alive(cookie)


async def test_memory_is_bounded(browsers: Browsers, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more sessions are kept in memory than the bound."""
    monkeypatch.setattr(sessions_module, "MAX_KNOWN", 3)
    cookies = [await browsers.begin() for _ in range(5)]
    for cookie in cookies:
        await browsers.sessions.resolve(cookie)
    assert len(browsers.sessions._known) == 3
    assert await browsers.alive(cookies[0])


async def test_a_plan_that_is_gone(browsers: Browsers) -> None:
    """A user whose plan was removed from the settings is told so, and never runs without limits."""
    cookie = await browsers.begin()
    await browsers.sessions.resolve(cookie)
    await browsers.store.users.change("ada", plan="gold")
    await browsers.sessions.refresh()
    with pytest.raises(Forbidden, match="plan"):
        await browsers.sessions.resolve(cookie)


async def test_a_session_read_while_it_ends(browsers: Browsers) -> None:
    """A session that another request ended between its read and its use is refused."""
    cookie = await browsers.begin()
    signed_in = await browsers.sessions.resolve(cookie)
    await browsers.sessions.end(signed_in.session.id)
    browsers.sessions._known[signed_in.session.token_hash] = signed_in  # as a late reader would put it back
    assert not await browsers.alive(cookie)
    assert len(browsers.sessions._known) == 0


async def test_shut_out_by_subject(browsers: Browsers) -> None:
    """Revoking a subject ends the sessions begun until then, from memory alone."""
    old = await browsers.begin()
    await browsers.sessions.resolve(old)
    browsers.revocations.add([Revocation(RevocationKind.SUBJECT, "ada", browsers.clock.now, NOW + 1e6)])
    assert not await browsers.alive(old)
    browsers.clock.now += 1
    assert await browsers.alive(await browsers.begin())


async def test_long_headers_are_cut(browsers: Browsers) -> None:
    """A browser's name is kept for the list of sessions, up to a length."""
    await browsers.begin()
    assert len((await browsers.store.sessions.of_user("ada", 0))[0].user_agent) == 256


async def test_sql_away(browsers: Browsers, tmp_path: Path) -> None:
    """An unknown session cannot be judged while SQL is away: 503, not 401, so that nobody is logged out by it."""
    cookie = await browsers.begin()
    with closing(sqlite3.connect(tmp_path / "gatehouse.db")) as connection, connection:
        connection.execute("ALTER TABLE sessions RENAME TO away")
    with pytest.raises(Unavailable):
        await browsers.sessions.resolve(cookie)


async def test_the_watch(
    browsers: Browsers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The watch brings revocations, refreshes, purges, and outlasts a database that goes away and comes back."""
    for name in ("WATCH_SECONDS", "REFRESH_SECONDS", "PURGE_SECONDS"):
        monkeypatch.setattr(auth_setup, name, 0.01)
    now = browsers.clock.now = time.time()
    cookie = await browsers.begin()
    signed_in = await browsers.sessions.resolve(cookie)
    ended = replace(signed_in.session, id="old", token_hash=b"old", ends_at=now - 1)
    await browsers.store.sessions.add(ended)
    database = sqlite3.connect(tmp_path / "gatehouse.db", isolation_level=None)

    def rename(before: str, after: str) -> None:
        database.execute(f"ALTER TABLE {before} RENAME TO {after}")

    watch = auth_setup._Watch(browsers.store, browsers.revocations, browsers.sessions, 12 * HOUR)
    task = asyncio.create_task(watch.run())
    try:
        async with asyncio.timeout(60):
            while database.execute("SELECT count(*) FROM sessions").fetchone() != (1,):
                await asyncio.sleep(0.01)
            rename("revocations", "away")
            while "is away" not in caplog.text:
                await asyncio.sleep(0.01)
            assert await browsers.alive(cookie)
            rename("away", "revocations")
            while "is back" not in caplog.text:
                await asyncio.sleep(0.01)
            revoked = Revocation(RevocationKind.SESSION, signed_in.session.id, now, now + 100)
            await browsers.store.revocations.add([revoked])
            while await browsers.alive(cookie):
                await asyncio.sleep(0.01)
        assert caplog.text.count("is away") == 1
    finally:
        database.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
