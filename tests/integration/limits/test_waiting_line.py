"""Fair share and admission, over HTTP, before a simulated engine that serves two requests at a time."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.admission import Admission
from gateway.engine import Engine
from tests.support.engines import DEADLINE, MODEL, Simulator, simulator
from tests.support.gateways import RunningGateway, configure, gateway
from tests.support.members import OVER_HTTP, OWN_PAGE, member
from tests.unit.gateway.exchanges import finished

SERVICE_SECONDS = 0.4
TOKENS = 20
PLACES = 2
SLOTS = ("--max-num-seqs", str(PLACES), "--scheduling-policy", "priority")
NUMBERS = itertools.count()
WAITING = "vllm:num_requests_waiting"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": TOKENS, "ignore_eos": True}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's answer is waited for, however late a busy machine makes it."""
    monkeypatch.setattr("gateway.admission.ANSWER_SECONDS", 60.0)


@pytest.fixture
async def engine() -> AsyncIterator[Simulator]:
    """One that stands almost still: nobody's turn comes within 40 s, unless a test lets it serve."""
    async with simulator(*SLOTS) as engine:
        await stand_still(engine)
        yield engine


async def stand_still(engine: Simulator) -> None:
    await engine.knobs(tps=TOKENS / 40)


async def in_engine(engine: Simulator) -> float:
    """How many requests it has."""
    told = await engine.metrics()
    return told["vllm:num_requests_running"] + told[WAITING]


async def serve(engine: Simulator, seconds: float = SERVICE_SECONDS) -> None:
    """Let it serve, each request in so many seconds."""
    await engine.knobs(tps=TOKENS / seconds)


async def ask(gate: RunningGateway, subject: str, plan: str, **fields: Any) -> tuple[int, Any, bytes]:
    """Status, headers, body of one chat request. Its id, which the engine sees, begins with the subject."""
    return await post(gate, {"Authorization": f"Bearer {gate.token(subject, plan=plan)}"}, subject, **fields)


async def post(gate: RunningGateway, credentials: dict[str, str], name: str, **fields: Any) -> tuple[int, Any, bytes]:
    headers = {**credentials, "X-Request-Id": f"{name}:{next(NUMBERS)}"}
    async with gate.http.post(gate.url + "/v1/chat/completions", json=BODY | fields, headers=headers) as answer:
        return answer.status, answer.headers, await answer.read()


async def before(engine: Simulator, name: str) -> list[str]:
    """Who ended between the arrival and the first token of that one request, by the engine's own record."""
    found = {dict(map(_lower, record["headers"]))["x-request-id"]: record for record in await engine.requests()}
    (mine,) = (record for request_id, record in found.items() if request_id.partition(":")[0] == name)
    return [
        request_id.partition(":")[0]
        for request_id, record in found.items()
        if record["ended_at"] is not None and mine["at"] <= record["ended_at"] <= mine["began_at"]
    ]


def _lower(field: list[str]) -> tuple[str, str]:
    return field[0].lower(), field[1]


async def test_who_has_one_request_does_not_wait_behind_200(engine: Simulator, tmp_path: Path) -> None:
    """One user has 200 requests in the line, another sends one: it is the next to start.

    So it waits at most until those end that ran when it came, one in each of the two places: one service time.
    """
    async with gateway(engine.url, tmp_path) as gate:
        flood = [asyncio.create_task(ask(gate, "greedy", "member")) for _ in range(200)]
        await engine.until(WAITING, 200 - PLACES)
        modest = asyncio.create_task(ask(gate, "modest", "member"))
        await engine.until(WAITING, 201 - PLACES)
        await serve(engine)
        assert (await modest)[0] == 200
        ended = await before(engine, "modest")
        await leave(flood)
    assert set(ended) == {"greedy"}
    assert len(ended) <= PLACES


async def test_chat_goes_before_batch(engine: Simulator, tmp_path: Path) -> None:
    """Thirty programs of one plan wait with one request each: who sits before the chat, on the same plan, is next; a
    program of a plan with a lower number comes after that, and before them.
    """
    async with gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada = await member(gate, "ada", plan="service")
        flood = [asyncio.create_task(ask(gate, f"batch-{number}", "service")) for number in range(30)]
        await engine.until(WAITING, 30 - PLACES)
        last = asyncio.create_task(ask(gate, "program", "member"))
        await engine.until(WAITING, 31 - PLACES)
        first = asyncio.create_task(post(gate, {"Cookie": ada.cookie, **OWN_PAGE}, "ada"))
        await engine.until(WAITING, 32 - PLACES)
        await serve(engine)
        assert (await first)[0] == (await last)[0] == 200
        ended = await before(engine, "ada"), await before(engine, "program")
        await leave(flood)
    for name, others in zip(("ada", "program"), ended, strict=True):
        assert len([other for other in others if other.startswith("batch")]) <= PLACES, name


async def leave(flood: list[asyncio.Task[Any]]) -> None:
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_beyond_max_waiting_batch_is_refused_before_chat(engine: Simulator, tmp_path: Path) -> None:
    """With room for 20, batch services get in while fewer than 10 wait, chat while fewer than 20; then 503, honestly."""
    async with gateway(engine.url, tmp_path, gateway={"max_waiting": 20}) as gate:
        flood = [asyncio.create_task(ask(gate, f"s{n}", "service")) for n in range(60)]
        async with asyncio.timeout(DEADLINE):  # until each is refused or has reached the engine
            while sum(task.done() for task in flood) + await in_engine(engine) < len(flood):
                await asyncio.sleep(0.01)
        refused = [task for task in flood if task.done()]
        assert 30 <= len(refused) < 60
        assert {task.result()[0] for task in refused} == {503}
        await serve(engine)
        assert [status for status, _, _ in await asyncio.gather(*flood)].count(200) == 60 - len(refused)

        await stand_still(engine)
        running = [asyncio.create_task(ask(gate, f"m{n}", "member")) for n in range(14)]
        await engine.until(WAITING, 14 - PLACES)
        batch = await ask(gate, "s", "service")
        asking = asyncio.create_task(ask(gate, "m", "member"))
        await engine.until(WAITING, 15 - PLACES)
        await serve(engine)
        chat = await asking
        assert (batch[0], chat[0]) == (503, 200)
        assert 1 <= int(batch[1]["retry-after"]) <= 60
        assert int(chat[1]["x-gatehouse-queue-position"]) >= 1
        assert int(chat[1]["x-gatehouse-queue-length"]) >= 10
        assert [status for status, _, _ in await asyncio.gather(*running)] == [200] * 14

        async with asyncio.timeout(DEADLINE):  # the line's length is known as of half a second ago
            while "x-gatehouse-queue-position" in (last := await ask(gate, "m", "member"))[1]:
                assert last[0] == 200
        assert last[0] == 200
        lines = await gate.logged(len(refused) + 1, error_code="engine_overloaded")
        assert {line["outcome"] for line in lines} == {"rejected"}


async def test_the_line_is_never_longer_than_allowed(engine: Simulator, tmp_path: Path) -> None:
    """Under a flood of 120 the engine's own figure stays near the bound, and who is refused comes back and is served."""
    async with gateway(engine.url, tmp_path, gateway={"max_waiting": 30}) as gate:
        longest = 0.0

        async def watch() -> None:
            nonlocal longest
            while True:
                longest = max(longest, (await engine.metrics())[WAITING])
                await asyncio.sleep(0.02)

        watching = asyncio.create_task(watch())

        async def persistent(number: int) -> None:
            while (got := await ask(gate, f"u{number}", "member"))[0] == 503:
                await asyncio.sleep(int(got[1]["retry-after"]))
            assert got[0] == 200

        first = [asyncio.create_task(persistent(number)) for number in range(40)]
        await engine.until(WAITING, lambda waiting: waiting >= 10)
        await serve(engine, 0.05)
        await asyncio.gather(*first, *(persistent(number) for number in range(40, 120)))
        watching.cancel()
    assert longest <= 60


async def test_a_request_knows_its_place_and_when_its_turn_comes(engine: Simulator, tmp_path: Path) -> None:
    """Of all requests two are served and the others wait in the order of their priorities: each knows how many go before
    it and, since the line has moved, in how many seconds its turn comes; who is served or has ended has no place.
    """
    served = Engine(configure(engine.url, tmp_path))
    admission = Admission(served, None, [0])
    async with served.watching(), asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(admission.watch())
        admission.enter(finished(), 0)
        for _ in range(60):
            tasks.create_task(engine.chat(max_tokens=TOKENS, ignore_eos=True))
        await engine.until(WAITING, 60 - PLACES)
        await serve(engine)
        async with asyncio.timeout(DEADLINE):
            while admission._speed.seconds(1) is None:
                await asyncio.sleep(0.01)
        await stand_still(engine)
        waiting = int((await engine.metrics())[WAITING])
        assert waiting >= 3
        exchanges = [finished(number, first_token_at=None) for number in range(PLACES + waiting)]
        for number, exchange in enumerate(exchanges):
            admission.enter(exchange, -number)
        async with asyncio.timeout(DEADLINE):
            while admission.waiting != waiting:
                await asyncio.sleep(0.01)
        places = [admission.place(exchange) for exchange in reversed(exchanges)]
        assert [place and place.ahead for place in places] == [*[None] * PLACES, *range(waiting)]
        etas = [place.eta_seconds for place in places if place]
        assert etas == pytest.approx([(number + 1) * etas[0] for number in range(waiting)])
        exchanges[0].first_token_at = 1.0
        assert admission.place(exchanges[0]) is None
        admission.leave(exchanges[1])
        assert admission.place(exchanges[1]) is None
        watching.cancel()
        await engine.knobs(tps=2000)


async def test_the_chat_is_told_how_long_the_line_is(engine: Simulator, tmp_path: Path) -> None:
    """`/api/engine` has the length of the line while people wait."""
    async with gateway(engine.url, tmp_path) as gate:
        flood = [asyncio.create_task(ask(gate, "greedy", "member")) for _ in range(30)]
        headers = {"Authorization": f"Bearer {gate.token('reader', scopes=('chat',))}"}
        async with asyncio.timeout(DEADLINE):
            waiting = 0
            while waiting < 30 - PLACES:
                async with gate.http.get(gate.url + "/api/engine", headers=headers) as answer:
                    waiting = (await answer.json())["waiting"]
                await asyncio.sleep(0.05)
        assert waiting == 30 - PLACES
        await leave(flood)
