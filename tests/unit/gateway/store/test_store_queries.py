"""The queries, on a real SQLite file and a real PostgreSQL."""

import asyncio
import traceback
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.store import IssuedToken, Revocation, RevocationKind, Session, Store, StoreError, User
from tests.support.postgresql import PASSWORD

ADA = User("ada", "Ada", "research", "member", 100.0, password_hash="$argon2id$secret", password_set_at=100.0)
BOB = User("bob", "Bob", None, "member", 100.0)
SESSION = Session("s1", b"1" * 32, "ada", 100.0, 100.0, 1000.0, "10.0.0.1", "curl")


@pytest.fixture
async def store(address: str | Path) -> AsyncIterator[Store]:
    """A store with two users."""
    opened = await Store.open(address)
    for user in (BOB, ADA):
        await opened.users.add(user)
    yield opened
    await opened.close()


async def targets(store: Store) -> list[tuple[RevocationKind, str]]:
    return [(revocation.kind, revocation.target) for revocation in await store.revocations.current(0)]


async def test_users(store: Store) -> None:
    """Users come back as they were put in; a name is taken once."""
    assert await store.users.find("ada") == ADA
    assert await store.users.find("eve") is None
    assert await store.users.list() == [ADA, BOB]
    assert await store.users.add(replace(ADA, display_name="Impostor")) is False
    assert await store.users.find("ada") == ADA


async def test_change(store: Store) -> None:
    """Columns of one user change; of nobody, nothing."""
    assert await store.users.change("ada", plan="service") is True
    assert await store.users.change("eve", plan="service") is False
    assert await store.users.find("ada") == replace(ADA, plan="service")
    assert await store.users.find("bob") == BOB


async def test_names_are_data(store: Store) -> None:
    """A name is never part of a statement."""
    name = "x'; DROP TABLE users; --"
    assert await store.users.find(name) is None
    assert await store.users.add(replace(BOB, name=name))
    assert (await store.users.find(name)).name == name


async def test_sessions(store: Store) -> None:
    """Sessions are found by the cookie's hash, with their user, until they end."""
    await store.sessions.add(SESSION)
    assert await store.sessions.find([b"1" * 32, b"2" * 32], 999.0) == {b"1" * 32: (SESSION, ADA)}
    assert await store.sessions.find([b"1" * 32], 1000.0) == {}
    assert await store.sessions.of_user("ada", 999.0) == [SESSION]
    assert await store.sessions.of_user("bob", 999.0) == []


async def test_many_sessions_at_once(store: Store) -> None:
    """More sessions than one statement takes are found together."""
    hashes = [number.to_bytes(32, "big") for number in range(1001)]
    for number in (0, 499, 500, 1000):
        await store.sessions.add(replace(SESSION, id=f"s{number}", token_hash=hashes[number]))
    assert set(await store.sessions.find(hashes, 0)) == {hashes[number] for number in (0, 499, 500, 1000)}


async def test_seen_never_goes_back(store: Store) -> None:
    """The time of last use only grows, whichever worker reports last."""
    await store.sessions.add(SESSION)
    await store.sessions.seen({"s1": 300.0, "unknown": 300.0})
    await store.sessions.seen({"s1": 200.0})
    assert (await store.sessions.of_user("ada", 0))[0].seen_at == 300.0


async def test_end_a_session(store: Store) -> None:
    """Ending removes the session and tells the other workers, in one transaction."""
    await store.sessions.add(SESSION)
    await store.sessions.end("s1", now=200.0, until=300.0)
    assert await store.sessions.of_user("ada", 0) == []
    assert await targets(store) == [(RevocationKind.SESSION, "s1")]


async def test_purge_sessions(store: Store) -> None:
    """Sessions that ended or were not used for long are forgotten, the others stay."""
    for name, seen_at, ends_at in (("ended", 900.0, 950.0), ("idle", 100.0, 2000.0), ("used", 900.0, 2000.0)):
        await store.sessions.add(replace(SESSION, id=name, token_hash=name.encode(), seen_at=seen_at, ends_at=ends_at))
    assert await store.sessions.purge(now=1000.0, idle_since=500.0) == 2
    assert [session.id for session in await store.sessions.of_user("ada", 0)] == ["used"]


async def test_a_session_needs_its_user(store: Store) -> None:
    """No session of somebody who does not exist; foreign keys are enforced."""
    with pytest.raises(StoreError, match=r"(?i)foreign key"):
        await store.sessions.add(replace(SESSION, user_name="nobody"))


async def test_disable(store: Store) -> None:
    """Disabling ends the sessions and revokes what the subject has, at once and together."""
    await store.sessions.add(SESSION)
    assert await store.users.disable("ada", now=200.0, until=300.0) is True
    assert await store.users.disable("eve", now=200.0, until=300.0) is False
    assert (await store.users.find("ada")).disabled_at == 200.0
    assert await store.sessions.find([SESSION.token_hash], 0) == {}
    assert await targets(store) == [(RevocationKind.SUBJECT, "ada")]


async def test_a_session_begun_while_disabling(store: Store) -> None:
    """A session written just after its user was disabled counts for nothing."""
    await store.users.disable("ada", now=200.0, until=300.0)
    await store.sessions.add(SESSION)
    assert await store.sessions.find([SESSION.token_hash], 0) == {}


async def test_a_new_password_ends_sessions(store: Store) -> None:
    """Setting a password ends every session of that user, on every worker, and nobody else's."""
    await store.sessions.add(SESSION)
    await store.sessions.add(replace(SESSION, id="s2", token_hash=b"2" * 32, user_name="bob"))
    assert await store.users.set_password("ada", "$new", now=200.0, until=300.0) is True
    assert await store.users.set_password("eve", "$new", now=200.0, until=300.0) is False
    changed = await store.users.find("ada")
    assert (changed.password_hash, changed.password_set_at) == ("$new", 200.0)
    assert await targets(store) == [(RevocationKind.SESSION, "s1")]
    assert len(await store.sessions.of_user("bob", 0)) == 1


async def test_end_all_sessions(store: Store) -> None:
    """All sessions of a user end; their ids come back."""
    await store.sessions.add(SESSION)
    await store.sessions.add(replace(SESSION, id="s2", token_hash=b"2" * 32))
    assert sorted(await store.users.end_sessions("ada", now=200.0, until=300.0)) == ["s1", "s2"]
    assert await store.users.end_sessions("ada", now=200.0, until=300.0) == []


async def test_tokens(store: Store) -> None:
    """Records come back as they were, newest first, all or one subject's."""
    first = IssuedToken("t1", "ada", "research", "member", ("api", "chat"), (), "k", 100.0, 200.0)
    second = replace(first, id="t2", subject="ci", team=None, models=("gpt-*",), issued_at=101.0)
    for record in (first, second):
        await store.tokens.record(record)
    assert await store.tokens.list() == [second, first]
    assert await store.tokens.list("ada") == [first]
    assert await store.tokens.find("t2") == second
    assert await store.tokens.find("t3") is None


async def test_revocations(store: Store) -> None:
    """New revocations change the version; old ones are left out, then forgotten."""
    before = await store.revocations.version()
    short = Revocation(RevocationKind.TOKEN, "t1", 100.0, 200.0)
    long = Revocation(RevocationKind.SUBJECT, "ada", 100.0, 300.0)
    await store.revocations.add([short, long])
    assert await store.revocations.version() != before
    assert await store.revocations.current(150.0) == [short, long]
    assert await store.revocations.current(200.0) == [long]
    assert await store.revocations.purge(200.0) == 1
    assert await store.revocations.current(0) == [long]


async def test_writers_wait_for_each_other(store: Store) -> None:
    """Writers at once do not fail each other."""
    await asyncio.gather(
        *(store.revocations.add([Revocation(RevocationKind.TOKEN, str(n), 1.0, 2.0)]) for n in range(50))
    )
    assert len(await store.revocations.current(0)) == 50


async def test_readers_do_not_wait_for_a_writer(store: Store) -> None:
    """While somebody writes, everybody reads what was there before."""
    async with store.database.write() as connection:
        await connection.exec_driver_sql("UPDATE users SET plan = 'x'")
        assert (await store.users.find("ada")).plan == "member"
    assert (await store.users.find("ada")).plan == "x"


async def test_errors_keep_secrets(store: Store) -> None:
    """A failing statement becomes a StoreError whose text has neither hashes nor names, nor the database's password."""
    async with store.database.write() as connection:
        await connection.exec_driver_sql("ALTER TABLE users DROP COLUMN team")
    await store.sessions.add(SESSION)
    for work in (store.users.add(replace(ADA, name="carol")), store.sessions.add(SESSION)):
        with pytest.raises(StoreError) as failed:
            await work
        text = "".join(traceback.format_exception(failed.value))
        assert not any(secret in text for secret in ("argon2id", "carol", "\\x31", "1111", PASSWORD))
        assert failed.value.__cause__ is None


def test_rows_hide_hashes() -> None:
    """Printing a user or a session shows no hash."""
    assert "argon2id" not in repr(ADA)
    assert "1111" not in repr(SESSION)


async def test_a_users_own_token(store: Store) -> None:
    """It is recorded for a user who is enabled; for one who is disabled, or nobody, nothing is."""
    token = IssuedToken("t1", "ada", None, "member", ("api",), (), "k", 100.0, 200.0)
    assert await store.tokens.record_for_user(token) is True
    assert await store.tokens.record_for_user(replace(token, id="t2", subject="eve")) is False
    await store.users.disable("ada", now=200.0, until=300.0)
    assert await store.tokens.record_for_user(replace(token, id="t3")) is False
    assert await store.tokens.list() == [token]


async def test_disabling_reaches_the_newest_token(store: Store) -> None:
    """A token recorded while its user was being disabled is older than the revocation, whatever the clocks said."""
    await store.tokens.record_for_user(IssuedToken("t1", "ada", None, "member", ("api",), (), "k", 200.5, 900.0))
    await store.users.disable("ada", now=200.0, until=300.0)
    assert [revocation.revoked_at for revocation in await store.revocations.current(0)] == [200.5]


async def test_transactions_are_told_of(store: Store) -> None:
    """Kind, seconds, and whether the database failed: not where a row was there, nor where the caller gave up."""
    told: list[tuple[str, bool]] = []
    store.database.on_transaction = lambda kind, seconds, failed: told.append((kind, failed and seconds >= 0))
    await store.users.find("nobody")
    with pytest.raises(KeyError):
        async with store.database.write():
            raise KeyError
    with pytest.raises(StoreError):
        async with store.database.read() as connection:
            await connection.execute(text("SELECT * FROM nothing"))
    assert told == [("read", False), ("write", False), ("read", True)]
