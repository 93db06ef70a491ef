"""Every token that the engine sent is counted once: the log's sums against the engine's own counters."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.engines import MODEL, Simulator, simulator
from tests.support.gateways import RunningGateway, gateway

REQUESTS = 320
CONCURRENT = 16
MOST_BYTES_READ = 3000  # by who leaves: of most streams that is less than half
PROMPTS = ["Hello", "请用中文介绍一下你自己", "def f(x):\n    return x", "word " * 200]
PROMPT_TOKENS, GENERATED = "vllm:prompt_tokens_total", "vllm:generation_tokens_total"


@dataclass
class Plan:
    """One random request, and what befalls it."""

    request_id: str
    path: str
    body: dict[str, Any]
    abort_after: int | None  # bytes read before the client leaves; None: it stays


def plan(number: int, dice: random.Random, *, aborts: bool) -> Plan:
    prompt = dice.choice(PROMPTS)
    tokens = dice.randint(1, 60)
    stream = dice.random() < 0.7
    messages = [{"role": "user", "content": prompt}]
    path, body = dice.choice(
        [
            ("/v1/chat/completions", {"messages": messages, "max_tokens": tokens, "n": dice.choice([1, 1, 1, 2, 3])}),
            ("/v1/completions", {"prompt": dice.choice([prompt, [prompt, "x"]]), "max_tokens": tokens}),
            ("/v1/responses", {"input": prompt, "max_output_tokens": tokens}),
            ("/v1/messages", {"messages": messages, "max_tokens": tokens}),
        ]
    )
    leaves = aborts and dice.random() < 0.4
    return Plan(
        f"r{number}",
        path,
        {"model": MODEL, "stream": stream, "ignore_eos": True, **body},
        dice.randint(0, MOST_BYTES_READ) if leaves else None,
    )


async def carry_out(plan: Plan, gate: RunningGateway) -> None:
    async with aiohttp.ClientSession() as http:
        answer = None
        try:
            request = http.post(
                gate.url + plan.path, json=plan.body, headers=gate.headers(**{"X-Request-Id": plan.request_id})
            )
            if plan.abort_after is not None and not plan.body["stream"]:
                async with asyncio.timeout(plan.abort_after / 20_000):
                    answer = await request
            else:
                answer = await request
            read = 0
            async for data in answer.content.iter_any():
                read += len(data)
                if plan.abort_after is not None and read >= plan.abort_after:
                    return
        except (TimeoutError, aiohttp.ClientPayloadError):
            return
        finally:
            if answer is not None:
                answer.close()


@dataclass
class Result:
    """What a run left: the log by request id, the engine's record of each request, and what its counters grew by."""

    lines: dict[str, dict[str, Any]]
    record: dict[str, dict[str, Any]]
    plans: dict[str, Plan]
    prompt: float
    generated: float


async def run(engine: Simulator, tmp_path: Path, *, aborts: bool, fault: str | None = None) -> Result:
    """Send them all, and look at both ends."""
    dice = random.Random(20261122)
    plans = [plan(number, dice, aborts=aborts) for number in range(REQUESTS)]
    async with gateway(engine.url, tmp_path) as gate:
        before = await engine.metrics()
        turn = asyncio.Semaphore(CONCURRENT)

        async def one(plan: Plan) -> None:
            async with turn:
                if fault is not None and dice.random() < 0.1:
                    await engine.knobs(fault=fault, fault_after=dice.randint(1, 20), fault_times=1)
                await carry_out(plan, gate)

        await asyncio.gather(*(one(plan) for plan in plans))
        await engine.until("vllm:num_requests_running", 0)
        lines = await gate.logged(REQUESTS) if not aborts else await settled(gate)
        after = await engine.metrics()
        counted = await gate.metrics()
        for kind, field in (("prompt", "prompt_tokens"), ("completion", "completion_tokens")):
            series = (n for n in counted if n.startswith("gatehouse_tokens_total") and f'kind="{kind}"' in n)
            assert sum(counted[n] for n in series) == sum(line[field] for line in lines), "metrics and log disagree"
        record = {{n.lower(): v for n, v in r["headers"]}.get("x-request-id"): r for r in await engine.requests()}
    return Result(
        {line["request_id"]: line for line in lines},
        record,
        {plan.request_id: plan for plan in plans},
        after[PROMPT_TOKENS] - before[PROMPT_TOKENS],
        after[GENERATED] - before[GENERATED],
    )


async def settled(gate: RunningGateway) -> list[dict[str, Any]]:
    """The log once everything has ended: nothing in flight, and metrics and log have seen the same number of requests.

    A request that was aborted before it arrived leaves no line, so the number is not known beforehand.
    """
    seen = -1
    while True:
        counted = await gate.metrics()
        ended = sum(value for name, value in counted.items() if name.startswith("gatehouse_requests_total"))
        lines = gate.log_lines()
        if counted["gatehouse_in_flight"] == 0 and len(lines) == ended == seen:
            return lines
        seen = ended
        await asyncio.sleep(0.5)


async def test_without_aborts_the_sums_are_equal(tmp_path: Path) -> None:
    """320 requests of all APIs, streaming and not: log, metrics and the engine's counters agree to the token.

    vLLM's prompt counter counts a prompt once for each of its `n` choices, its usage reports it once.
    """
    async with simulator("--sim-control", knobs={"tps": 1000}) as engine:
        result = await run(engine, tmp_path, aborts=False)
    lines = result.lines.values()
    assert {line["outcome"] for line in lines} == {"complete"}
    assert not any(line["estimated"] for line in lines)
    choices = {name: plan.body.get("n", 1) for name, plan in result.plans.items()}
    assert sum(line["prompt_tokens"] * choices[line["request_id"]] for line in lines) == result.prompt
    assert sum(line["completion_tokens"] for line in lines) == result.generated
    print(
        f"\n{len(lines)} requests: {result.prompt:.0f} prompt and {result.generated:.0f} generated tokens, all counted"
    )


async def test_with_aborts_only_the_engines_last_steps_are_missing(tmp_path: Path) -> None:
    """What differs is what the engine generated between a disconnect and its abort, and answers that were never sent.

    A non-streaming request that is aborted has no figure from the engine: it is charged its prompt, marked estimated,
    and what was generated for it only the engine knows. Streams are compared by the engine's record of each request.
    """
    async with simulator("--sim-control", knobs={"tps": 150}) as engine:
        result = await run(engine, tmp_path, aborts=True)
    for name, line in result.lines.items():
        if line["outcome"] == "complete":
            assert line["completion_tokens"] == result.record[name]["generated"]
    gone = [line for line in result.lines.values() if line["outcome"] == "client_gone"]
    streams = [line for line in gone if line["stream"] and line["completion_tokens"]]
    exact = [line for line in streams if not line["estimated"]]
    assert len(streams) > 15
    assert len(exact) > 5
    generated = {line["request_id"]: result.record[line["request_id"]]["generated"] for line in streams}
    missing = [generated[line["request_id"]] - line["completion_tokens"] for line in streams]
    print(
        f"\n{len(gone)} of {len(result.lines)} aborted, {len(streams)} of them streams with a first token, {len(exact)} with "
        f"exact figures: {sum(missing)} tokens made between disconnect and abort, {sum(missing) / len(missing):.2f} a "
        f"request, at most {max(missing)}"
    )
    assert min(generated[line["request_id"]] - line["completion_tokens"] for line in exact) >= 0


async def test_engine_errors_in_mid_stream_lose_no_token(tmp_path: Path) -> None:
    """Error frames at random moments: every token that was sent before is counted, on the APIs with token ids."""
    async with simulator("--sim-control", knobs={"tps": 1000}) as engine:
        result = await run(engine, tmp_path, aborts=False, fault="error_frame")
    failed = [
        line for line in result.lines.values() if line["outcome"] == "engine_failed" and line["completion_tokens"]
    ]
    assert len(failed) >= 5
    exact = [line for line in failed if not line["estimated"]]
    missing = [result.record[line["request_id"]]["sent"] - line["completion_tokens"] for line in exact]
    print(
        f"\n{len(failed)} streams failed, {len(exact)} with exact figures, {sum(missing)} tokens sent and not counted"
    )
    assert set(missing) == {0}


async def test_tokens_that_a_parser_shows_nothing_of_are_counted(tmp_path: Path) -> None:
    """A chat that breaks off before its first word, as Harmony's control tokens and tool calls make it: each token of it
    is charged, and none of the chunks that tell them reaches the client.
    """
    messages = [{"role": "user", "content": "Hello"}]
    async with simulator("--sim-control", knobs={"tps": 1000, "hidden_tokens": 20}) as engine:
        await engine.knobs(fault="error_frame", fault_after=10)
        async with gateway(engine.url, tmp_path) as gate, aiohttp.ClientSession() as http:
            body = {"model": MODEL, "stream": True, "messages": messages}
            async with http.post(gate.url + "/v1/chat/completions", json=body, headers=gate.headers()) as answer:
                with contextlib.suppress(aiohttp.ClientPayloadError):
                    received = await answer.content.readuntil(b"\n\n")
                    received += await answer.content.read()
            (line,) = await gate.logged(1)
    assert received.count(b'"delta"') == 1  # the first, with the role
    assert b'token_ids":[' not in received
    assert (line["outcome"], line["completion_tokens"], line["estimated"]) == ("engine_failed", 10, False)
