"""What a caller may do is the same whichever worker serves them: limits, priorities, plans that change."""

import contextlib
import json
import signal

from tests.support.engines import MODEL, Simulator
from tests.support.redis_server import RedisServer
from tests.support.stack import NO_LIMITS
from tests.support.workers import CHAT, WorkersGateway, chat, eventually, workers


async def ask(gate: WorkersGateway, worker: int, subject: str) -> int:
    """The status of one request."""
    async with gate.post(CHAT, chat(), worker=worker, headers=gate.headers(subject)) as answer:
        await answer.read()
        return answer.status


async def test_limits_priorities_and_plans(engine: Simulator, redis: RedisServer) -> None:
    """A plan's places are those of all workers together; a request's priority counts what runs on the others.

    SIGHUP to the parent reaches them all.
    """
    plan = NO_LIMITS | {"concurrent_requests": 3, "priority": 10}
    async with workers(engine.url, redis.url, plans={"service": plan, "member": NO_LIMITS}) as gate:
        await engine.knobs(tps=20)
        body = chat(stream=True, ignore_eos=True, max_tokens=4000)
        async with contextlib.AsyncExitStack() as stack:
            for worker in (1, 2, 1):
                answer = await stack.enter_async_context(
                    gate.post(CHAT, body, worker=worker, headers=gate.headers("ada"))
                )
                assert answer.status == 200
                await answer.content.readany()

            async def refused() -> bool:
                return [await ask(gate, worker, "ada") for worker in (1, 2)] == [429, 429]

            bodies = [json.loads(each["body"]) for each in await engine.requests()]
            first, *others = [each["priority"] for each in bodies if each["max_tokens"] == body["max_tokens"]]
            assert others == [first + 1, first + 2]
            # at once, but where a busy machine kept Redis from answering within redis.timeout_seconds
            await eventually(refused, "no worker has a place for a fourth")

            wider = json.loads(gate.config_file.read_text("utf-8"))
            wider["plans"]["service"]["concurrent_requests"] = None
            gate.config_file.write_text(json.dumps(wider), "utf-8")
            gate.process.send_signal(signal.SIGHUP)

            async def admitted() -> bool:
                return [await ask(gate, worker, "ada") for worker in (1, 2)] == [200, 200]

            await engine.knobs(tps=2000)
            await eventually(admitted, "both workers go by the new plan")


async def test_stored_responses(engine: Simulator, redis: RedisServer) -> None:
    """A response that one worker made is its owner's on the other, to fetch and to go on with, and nobody else's."""
    async with workers(engine.url, redis.url) as gate:
        body = {"model": MODEL, "input": "hello", "max_output_tokens": 8}
        async with gate.post("/v1/responses", body, worker=1, headers=gate.headers("ada")) as answer:
            made = (await answer.json())["id"]
        for subject, expected in (("ada", 200), ("eve", 404)):
            headers = gate.headers(subject)
            async with gate.to_worker(2).get(f"http://gateway/v1/responses/{made}", headers=headers) as answer:
                assert answer.status == expected, await answer.text()
            more = body | {"previous_response_id": made}
            async with gate.post("/v1/responses", more, worker=2, headers=headers) as answer:
                assert answer.status == expected, await answer.text()
