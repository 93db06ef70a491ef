"""Who may do what is the same on every worker: revocations, sessions, back-off on login."""

import asyncio
import time

import aiohttp

from gateway.auth.throttle import PAIR
from tests.support.engines import Simulator
from tests.support.redis_server import RedisServer
from tests.support.workers import CHAT, WorkersGateway, chat, eventually, workers

PAGE = {"Sec-Fetch-Site": "same-origin", "Origin": "http://gateway"}
PASSWORD = "correct horse battery staple"


async def status(gate: WorkersGateway, worker: int, **headers: str) -> int:
    """What a worker answers to a request with these headers."""
    async with gate.post(CHAT, chat(), worker=worker, headers=headers) as answer:
        return answer.status


async def login(gate: WorkersGateway, worker: int, password: str, address: str = "198.51.100.7") -> tuple[int, str]:
    """Sign ada in on a worker: the status and the session's cookie."""
    headers = PAGE | {"X-Forwarded-For": address}
    body = {"username": "ada", "password": password}
    async with gate.post("/auth/login", body, worker=worker, headers=headers) as answer:
        return answer.status, answer.headers.get("Set-Cookie", "").partition(";")[0]


async def test_revocation_reaches_every_worker(engine: Simulator, redis: RedisServer) -> None:
    """A token that is revoked, and a session that is ended on one worker, are soon refused by all, used before or not."""
    async with workers(engine.url, redis.url, 3, auth={"cookie_over_http": True}) as gate:
        token, token_id = gate.token("eve")
        bearer = {"Authorization": f"Bearer {token}"}
        assert [await status(gate, number, **bearer) for number in (1, 2)] == [200, 200]  # the third never saw it
        assert (await asyncio.to_thread(gate.command, "token", "revoke", "--id", token_id)).returncode == 0
        at = time.monotonic()

        async def refused() -> bool:
            return [await status(gate, number, **bearer) for number in (1, 2, 3)] == [401, 401, 401]

        await eventually(refused, "all workers refuse the token")
        print(f"refused by 3 workers {time.monotonic() - at:.2f} s after the command")

        await _add_ada(gate)
        signed_in, cookie = await login(gate, 1, PASSWORD)
        assert signed_in == 200
        session = PAGE | {"Cookie": cookie}
        assert [await _who(gate, number, session) for number in (1, 2, 3)] == [200, 200, 200]
        async with gate.post("/auth/logout", {}, worker=2, headers=session) as answer:
            assert answer.status == 204

        async def signed_out() -> bool:
            return [await _who(gate, number, session) for number in (1, 2, 3)] == [401, 401, 401]

        await eventually(signed_out, "all workers have ended the session")


async def test_guesses_count_on_every_worker(engine: Simulator, redis: RedisServer) -> None:
    """Wrong passwords on one worker make the other wait as well; other addresses do not."""
    async with workers(engine.url, redis.url) as gate:
        await _add_ada(gate)
        answers = [(await login(gate, 1 + number % 2, "wrong"))[0] for number in range(PAIR.free + 1)]
        assert answers == [401] * (PAIR.free + 1)
        for number in (1, 2):  # who comes after the wait has made it twice as long for the next: 1 s, 2 s, 4 s, …
            answers = [(await login(gate, number, "wrong"))[0] for _ in range(4)]
            assert 429 in answers
        assert (await login(gate, 2, PASSWORD, "203.0.113.9"))[0] == 200


async def _add_ada(gate: WorkersGateway) -> None:
    done = await asyncio.to_thread(gate.command, "user", "add", "ada", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert done.returncode == 0, done.stderr


async def _who(gate: WorkersGateway, worker: int, headers: dict[str, str]) -> int:
    http: aiohttp.ClientSession = gate.to_worker(worker)
    async with http.get("http://gateway/auth/session", headers=headers) as answer:
        return answer.status
