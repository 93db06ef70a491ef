"""A gateway on PostgreSQL: everything of the identity works, and the database's death fails nothing on /v1."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.store import RevocationKind
from tests.integration.auth.house import OWN_PAGE, PASSWORD
from tests.integration.auth.test_auth_revocation import bearer, elsewhere, signed_in
from tests.support.engines import FAST, MODEL, simulator
from tests.support.gateways import RunningGateway, gateway
from tests.support.postgresql import PostgresqlServer, running_postgresql

CHAT = "/v1/chat/completions"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    """A server of these tests' own: they kill it."""
    with running_postgresql() as running:
        yield running


@contextlib.asynccontextmanager
async def gateway_on(server: PostgresqlServer, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """A gateway with a database of its own and the user ada."""
    sections: dict[str, Any] = {"auth": {"cookie_over_http": True}, "database": {"url": server.new_database()}}
    async with simulator(knobs=FAST) as engine, gateway(engine.url, tmp_path, **sections) as gate:
        async with elsewhere(gate) as users:
            await users.add("ada", PASSWORD, display_name=None, team=None, plan="member")
        yield gate


async def status_of(gate: RunningGateway, method: str, path: str, headers: dict[str, str], body: Any = None) -> int:
    async with gate.http.request(method, gate.url + path, headers=headers, json=body) as answer:
        await answer.read()
        return answer.status


async def eventually(gate: RunningGateway, wanted: int, *call: Any) -> None:
    async with asyncio.timeout(60):
        while await status_of(gate, *call) != wanted:
            await asyncio.sleep(0.05)


async def test_identity_on_postgresql(server: PostgresqlServer, tmp_path: Path) -> None:
    """Login, sessions, personal tokens, revocation by another process: as on SQLite."""
    async with gateway_on(server, tmp_path) as gate, elsewhere(gate) as users:
        browser = await signed_in(gate)
        assert await status_of(gate, "POST", CHAT, browser, HELLO) == 200
        async with gate.http.post(gate.url + "/api/account/tokens", json={}, headers=browser) as made:
            token = (await made.json())["token"]
        personal = {"Authorization": f"Bearer {token}"}
        assert await status_of(gate, "POST", CHAT, personal, HELLO) == 200
        await users.disable("ada")
        for headers in (browser, personal):
            await eventually(gate, 401, "POST", CHAT, headers, HELLO)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_the_database_goes_in_mid_use(server: PostgresqlServer, tmp_path: Path, how: str) -> None:
    """While it is gone, tokens and known sessions go on without one failure; signing in says 503; then all is as before."""
    async with gateway_on(server, tmp_path) as gate:
        browser, (token, token_id) = await signed_in(gate), bearer(gate, "ci")
        statuses: list[int] = []
        over = asyncio.Event()

        async def caller(headers: dict[str, str]) -> None:
            while not over.is_set():
                statuses.append(await status_of(gate, "POST", CHAT, headers, HELLO))

        callers = [asyncio.create_task(caller(headers)) for headers in (browser, token, token)]
        await served(statuses, 20)
        (server.kill if how == "killed" else server.pause)()
        try:
            await served(statuses, 100)
            if how == "killed":
                login = {"username": "ada", "password": PASSWORD}
                assert await status_of(gate, "POST", "/auth/login", OWN_PAGE, login) == 503
        finally:
            (server.start if how == "killed" else server.resume)()
        await served(statuses, 20)
        over.set()
        await asyncio.gather(*callers)
        assert set(statuses) == {200}
        async with elsewhere(gate) as users:
            await users.revoke(RevocationKind.TOKEN, token_id)
        await eventually(gate, 401, "POST", CHAT, token, HELLO)
        assert (await signed_in(gate))["Cookie"] != browser["Cookie"]


async def served(statuses: list[int], more: int) -> None:
    before = len(statuses)
    async with asyncio.timeout(60):
        while len(statuses) < before + more:
            await asyncio.sleep(0.01)
