"""Revocation closes what is open: streams, held requests and answers in one piece, and nobody else's."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.auth import setup as auth_setup
from gateway.auth.passwords import Passwords
from gateway.auth.throttle import Throttle
from gateway.auth.users import Users
from gateway.store import RevocationKind, Store, database_address
from tests.integration.auth.house import OWN_PAGE, PASSWORD
from tests.integration.test_failures import APIS, RUNNING, body_of, read_to_end
from tests.support.engines import Simulator, simulator
from tests.support.gateways import RunningGateway, gateway
from tests.support.scripted import Script, scripted_engine
from tests.support.tokens import issued

PROMISED_SECONDS = 2.0
Clock = Callable[[], float]
CHAT = "/v1/chat/completions"


@pytest.fixture
async def engine() -> AsyncIterator[Simulator]:
    """An engine whose answers take some twenty seconds."""
    async with simulator("--sim-control", knobs={"tps": 20}) as engine:
        yield engine


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """How long the gateway has been looking for revocations: a clock that is late where this machine is too busy."""
    looks, step = 0, auth_setup._Watch._step

    async def look(watch: auth_setup._Watch) -> None:
        nonlocal looks
        looks += 1
        await step(watch)

    monkeypatch.setattr(auth_setup._Watch, "_step", look)
    return lambda: looks * auth_setup.WATCH_SECONDS


@asynccontextmanager
async def elsewhere(gate: RunningGateway) -> AsyncIterator[Users]:
    """What another process can do over the same database: the command, another worker."""
    store, passwords = await Store.open(database_address(gate.config)), Passwords()
    try:
        yield Users(store, gate.config.auth, passwords, Throttle())
    finally:
        passwords.close()
        await store.close()


@asynccontextmanager
async def streaming(gate: RunningGateway, path: str, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
    """A stream whose first bytes have come."""
    body = body_of(path, stream=True)
    async with gate.http.post(gate.url + path, json=body, headers=headers) as answer:
        assert answer.status == 200
        await answer.content.readany()
        yield answer


def bearer(gate: RunningGateway, subject: str) -> tuple[dict[str, str], str]:
    """Credentials of a fresh token, and its id."""
    token, record = issued(gate.config, subject)
    return {"Authorization": f"Bearer {token}"}, record.id


@APIS
async def test_a_revoked_tokens_stream_ends(engine: Simulator, tmp_path: Path, watched: Clock, path: str) -> None:
    """Within two seconds of the command, the stream ends with its API's error event and without its end marker.

    The engine's work stops, the tokens until then are counted, and another token's stream goes on.
    """
    async with gateway(engine.url, tmp_path) as gate, elsewhere(gate) as users:
        revoked, token_id = bearer(gate, "eve")
        other, _ = bearer(gate, "eve")
        async with streaming(gate, path, revoked) as answer, streaming(gate, path, other) as another:
            await engine.until(RUNNING, 2)
            await users.revoke(RevocationKind.TOKEN, token_id)
            at = watched()
            got, ended_well = await read_to_end(answer)
            assert watched() - at <= PROMISED_SECONDS
            assert not ended_well
            events = [event for event in got.decode().split("\n\n") if event]
            last = json.loads(events[-1].split("data: ", 1)[1])
            match path:
                case "/v1/messages":
                    assert (last["type"], last["error"]["type"]) == ("error", "authentication_error")
                case "/v1/responses":
                    before = json.loads(events[-2].split("data: ", 1)[1])
                    assert (last["type"], last["code"]) == ("error", "token_revoked")
                    assert last["sequence_number"] == before["sequence_number"] + 1
                case _:
                    assert last["error"]["code"] == "token_revoked"
            assert not any(end in got for end in (b"[DONE]", b"message_stop", b"response.completed"))
            await engine.until(RUNNING, 1)
            assert await another.content.readany()
        [line] = await gate.logged(1, error_code="token_revoked")
        assert line["outcome"] == "rejected"
        assert line["subject"] == "eve"
        assert line["completion_tokens"] > 0


async def disabled(users: Users) -> None:
    await users.disable("ada")


async def signed_out_elsewhere(users: Users) -> None:
    await users.set_password("ada", "another long password")


@pytest.mark.parametrize("act", [disabled, signed_out_elsewhere])
async def test_a_sessions_stream_ends(
    engine: Simulator, tmp_path: Path, watched: Clock, act: Callable[[Users], Awaitable[None]]
) -> None:
    """A disabled user's chat, and a chat whose session was ended by a new password, falls silent within two seconds."""
    async with gateway(engine.url, tmp_path, auth={"cookie_over_http": True}) as gate, elsewhere(gate) as users:
        await users.add("ada", PASSWORD, display_name="Ada", team=None, plan="member")
        headers = await signed_in(gate)
        async with streaming(gate, CHAT, headers) as answer:
            await act(users)
            at = watched()
            got, ended_well = await read_to_end(answer)
            assert watched() - at <= PROMISED_SECONDS
        assert not ended_well
        assert b"session_expired" in got
        await engine.until(RUNNING, 0)


async def signed_in(gate: RunningGateway) -> dict[str, str]:
    login = {"username": "ada", "password": PASSWORD}
    async with gate.http.post(gate.url + "/auth/login", json=login, headers=OWN_PAGE) as answer:
        assert answer.status == 200
        return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0], **OWN_PAGE}


async def test_logout_ends_the_sessions_stream(engine: Simulator, tmp_path: Path) -> None:
    """Logging out in one tab ends what runs in another."""
    async with gateway(engine.url, tmp_path, auth={"cookie_over_http": True}) as gate, elsewhere(gate) as users:
        await users.add("ada", PASSWORD, display_name="Ada", team=None, plan="member")
        headers = await signed_in(gate)
        async with streaming(gate, CHAT, headers) as answer:
            async with gate.http.post(gate.url + "/auth/logout", json={}, headers=headers) as left:
                assert left.status == 204
            got, ended_well = await read_to_end(answer)
        assert not ended_well
        assert b"session_expired" in got


async def test_all_of_a_subject(engine: Simulator, tmp_path: Path) -> None:
    """Revoking a subject ends every stream of it, and none of a token issued afterwards."""
    async with gateway(engine.url, tmp_path) as gate, elsewhere(gate) as users:
        first, second = bearer(gate, "eve")[0], bearer(gate, "eve")[0]
        async with streaming(gate, CHAT, first) as one, streaming(gate, CHAT, second) as two:
            # both are read while it happens: aiohttp throws away what was not read when a connection breaks
            ends = [asyncio.create_task(read_to_end(answer)) for answer in (one, two)]
            await users.revoke(RevocationKind.SUBJECT, "eve")
            fresh = bearer(gate, "eve")[0]
            async with streaming(gate, CHAT, fresh) as later, streaming(gate, CHAT, gate.headers()) as bob:
                assert all(b"token_revoked" in got for got, _ in await asyncio.gather(*ends))
                assert await later.content.readany()
                assert await bob.content.readany()


@pytest.mark.parametrize("held", ["before its answer", "before the engine"])
async def test_a_waiting_request_is_refused(tmp_path: Path, watched: Clock, held: str) -> None:
    """A request that has no answer yet gets a plain 401, whether the engine has it or is still being waited for."""
    async with scripted_engine() as engine:
        engine.answer = lambda _head, _body: Script([], hang=True)
        url = engine.url if held == "before its answer" else "http://127.0.0.1:1"
        async with gateway(url, tmp_path, wait=False) as gate, elsewhere(gate) as users:
            headers, token_id = bearer(gate, "eve")
            asked = asyncio.create_task(refused_with(gate, headers))
            async with asyncio.timeout(60):
                while not (engine.received if held == "before its answer" else gate_is_busy(await gate.metrics())):
                    await asyncio.sleep(0.01)
            await users.revoke(RevocationKind.TOKEN, token_id)
            at = watched()
            assert await asked == (401, "token_revoked")
            assert watched() - at <= PROMISED_SECONDS
            [line] = await gate.logged(1, error_code="token_revoked")
            assert (line["outcome"], line["status"]) == ("rejected", 401)
            async with asyncio.timeout(60):
                while engine.open > 1:  # the probe of /health may hold one
                    await asyncio.sleep(0.01)


def gate_is_busy(metrics: dict[str, Any]) -> bool:
    return metrics["gatehouse_in_flight"] > 0


async def refused_with(gate: RunningGateway, headers: dict[str, str]) -> tuple[int, str]:
    async with gate.http.post(gate.url + CHAT, json=body_of(CHAT, stream=False), headers=headers) as answer:
        assert answer.headers["x-request-id"]
        return answer.status, (await answer.json())["error"]["code"]


async def test_revoking_while_streams_end(engine: Simulator, tmp_path: Path) -> None:
    """A stream that ends in the moment of its revocation ends once: whole, or broken off, never both."""
    await engine.knobs(tps=5000)
    async with gateway(engine.url, tmp_path) as gate, elsewhere(gate) as users:

        async def one(number: int) -> tuple[bytes, bool]:
            headers, token_id = bearer(gate, f"s{number}")
            body = body_of(CHAT, stream=True, max_tokens=50 + number)
            async with gate.http.post(gate.url + CHAT, json=body, headers=headers) as answer:
                if answer.status == 401:
                    return b"token_revoked", False
                gone = asyncio.create_task(users.revoke(RevocationKind.TOKEN, token_id))
                result = await read_to_end(answer)
                await gone
                return result

        for _ in range(5):
            for got, ended_well in await asyncio.gather(*map(one, range(20))):
                assert ended_well == got.endswith(b"data: [DONE]\n\n")
                assert ended_well != (b"token_revoked" in got)
        await engine.until(RUNNING, 0)


async def test_a_client_that_reads_nothing(tmp_path: Path, watched: Clock) -> None:
    """A stream whose client does not read ends within two seconds, too; nothing waits for it."""
    choice = {"index": 0, "delta": {"content": "x" * 30_000}, "finish_reason": None, "token_ids": [7]}
    event = b"data: " + json.dumps({"object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        while True:
            sent += 1
            yield f"{len(event):x}\r\n".encode() + event + b"\r\n"

    async with scripted_engine() as engine:
        engine.answer = lambda _head, _body: Script(endless())
        async with gateway(engine.url, tmp_path) as gate, elsewhere(gate) as users:
            headers, token_id = bearer(gate, "eve")
            body = json.dumps(body_of(CHAT, stream=True)).encode()
            fields = {**headers, "Host": "x", "Content-Type": "application/json", "Content-Length": str(len(body))}
            head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                await asyncio.to_thread(client.connect, ("127.0.0.1", int(gate.url.rpartition(":")[2])))
                await asyncio.to_thread(client.sendall, f"POST {CHAT} HTTP/1.1\r\n{head}\r\n".encode() + body)
                async with asyncio.timeout(60):
                    before = -1
                    while not sent or sent != before:  # until every buffer on the way is full
                        before = sent
                        await asyncio.sleep(0.5)
                await users.revoke(RevocationKind.TOKEN, token_id)
                at = watched()
                await gate.logged(1, error_code="token_revoked")
                assert watched() - at <= PROMISED_SECONDS
