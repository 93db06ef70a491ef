"""The scheduler and its counters, seen over HTTP."""

import asyncio
import json
import random
from typing import Any

import aiohttp
import pytest

from launcher.simulator.prefix_cache import BLOCK
from tests.support.engines import MODEL, Simulator, simulator

CHAT = "/v1/chat/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3000},
    "/v1/completions": {"prompt": "hi", "max_tokens": 3000},
    "/v1/responses": {"input": "hi", "max_output_tokens": 3000},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3000},
}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


async def frames(engine: Simulator, path: str, **body: Any) -> list[Any]:
    """The decoded `data:` frames of a stream, [DONE] as a text."""
    async with engine.http.post(engine.url + path, json={**body, "stream": True}) as answer:
        assert answer.status == 200, await answer.text()
        text = await answer.text()
    found = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [frame if frame == "[DONE]" else json.loads(frame) for frame in found]


def chat(content: str = "hi", **fields: Any) -> dict[str, Any]:
    """A chat body."""
    return {"messages": [{"role": "user", "content": content}], **fields}


async def tokenized(engine: Simulator, text: str) -> int:
    """The engine's own count of a text."""
    async with engine.http.post(engine.url + "/tokenize", json={"prompt": text}) as answer:
        return int((await answer.json())["count"])


async def post(engine: Simulator, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A plain answer."""
    async with engine.http.post(engine.url + path, json=body) as answer:
        assert answer.status == 200, await answer.text()
        return dict(await answer.json())


@pytest.mark.parametrize("question", ["hello", "你好，请介绍一下"])
async def test_usage_is_the_tokens_of_the_text_sent(question: str) -> None:
    """completion_tokens = /tokenize of reasoning + /tokenize of content = the engine's own counter."""
    async with simulator() as engine:
        chunks = await frames(engine, CHAT, **chat(question), stream_options={"include_usage": True})
        deltas = [choice["delta"] for chunk in chunks[:-1] for choice in chunk["choices"]]
        reasoning = "".join(delta.get("reasoning", "") for delta in deltas)
        content = "".join(delta.get("content", "") for delta in deltas)
        usage = chunks[-2]["usage"]
        assert reasoning
        assert content
        counted = await tokenized(engine, reasoning) + await tokenized(engine, content)
        assert usage["completion_tokens"] == counted
        metrics = await engine.metrics()
        assert metrics["vllm:generation_tokens_total"] == counted
        assert metrics["vllm:prompt_tokens_total"] == usage["prompt_tokens"]
        assert metrics["vllm:iteration_tokens_total_sum"] == usage["total_tokens"]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
async def test_token_ids_are_the_tokens_that_usage_counts(path: str) -> None:
    """Of prompt and answer; in a chat the tokens without text are chunks of their own, which nobody gets without ids."""
    body = {**BODIES[path], "n": 2, "max_tokens": 60, "temperature": 0, "stream_options": {"include_usage": True}}
    async with simulator(knobs={"hidden_tokens": 3}) as engine:
        told = (await frames(engine, path, **body, return_token_ids=True))[:-1]
        plain = (await frames(engine, path, **body))[:-1]
    choices = [choice for chunk in told for choice in chunk["choices"]]
    usage = told[-1]["usage"]
    assert sum(len(choice.get("token_ids", [])) for choice in choices) == usage["completion_tokens"] == 120
    prompts = [each["prompt_token_ids"] for each in (told if path == CHAT else choices) if each.get("prompt_token_ids")]
    assert [len(prompt) for prompt in prompts] == [usage["prompt_tokens"]] * 2
    nothing = sum(choice.get("delta") == {} for choice in choices)
    assert nothing == (6 if path == CHAT else 0)
    assert len(plain) == len(told) - nothing


async def test_everything_sent_is_counted_under_random_aborts() -> None:
    """Over many requests on four APIs with random disconnects, generated tokens = the counter, sent = generated."""
    choose = random.Random(7)
    async with simulator("--max-num-seqs", "8", knobs={"tps": 400}) as engine:

        async def one() -> None:
            path = choose.choice(list(BODIES))
            stream = choose.random() < 0.7
            body = {**BODIES[path], "stream": stream}
            limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
            body[limit] = choose.randint(1, 60)
            patience = choose.choice([None, choose.random() * 0.2])
            try:
                async with asyncio.timeout(patience):
                    async with engine.http.post(engine.url + path, json=body) as answer:
                        await answer.read()
            except TimeoutError:
                pass

        await asyncio.gather(*(one() for _ in range(120)))
        await engine.until("vllm:num_requests_running", 0)
        await engine.until("vllm:num_requests_waiting", 0)
        records = await engine.requests()
        metrics = await engine.metrics()
    assert len(records) <= 120
    assert any(record["aborted"] for record in records)
    assert metrics["vllm:generation_tokens_total"] == sum(record["generated"] for record in records)
    for record in records:
        streamed = '"stream": true' in record["body"]
        if streamed or not record["aborted"]:
            assert record["sent"] == record["generated"], record


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [True, False])
async def test_disconnect_frees_the_slot(path: str, stream: bool) -> None:
    """A client that leaves frees the slot; no counter of finished requests moves."""
    async with simulator(knobs={"tps": 20}) as engine:
        async with aiohttp.ClientSession() as http:
            going = asyncio.ensure_future(http.post(engine.url + path, json={**BODIES[path], "stream": stream}))
            await engine.until("vllm:generation_tokens_total", lambda seen: seen >= 2)
            assert (await engine.metrics())["vllm:num_requests_running"] == 1
            going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        if not going.cancelled():
            going.result().close()
        await engine.until("vllm:num_requests_running", 0)
        metrics = await engine.metrics()
        assert all(value == 0 for name, value in metrics.items() if name.startswith("vllm:request_success_total"))
        assert [record["aborted"] for record in await engine.requests()] == [True]


async def test_priority_starts_lower_numbers_first() -> None:
    """With --scheduling-policy priority the waiting line is ordered by priority, then by arrival."""
    order = await _finishing_order("--scheduling-policy", "priority")
    assert order == [-100, -1, 0, 1, 5, 10]


async def test_fcfs_ignores_priority() -> None:
    """Without the policy the field is accepted and changes nothing."""
    assert await _finishing_order() == [10, 5, 0, -1, 1, -100]


async def _finishing_order(*flags: str) -> list[int]:
    finished: list[int] = []
    async with simulator("--max-num-seqs", "1", *flags) as engine:
        await engine.knobs(fault="hang", fault_after=1, fault_times=1)
        first = asyncio.create_task(post(engine, CHAT, chat(max_tokens=5)))
        await engine.until("vllm:num_requests_running", 1)

        async def waiting(priority: int) -> None:
            await post(engine, CHAT, chat(max_tokens=30, priority=priority))
            finished.append(priority)

        tasks = []
        for place, priority in enumerate([10, 5, 0, -1, 1, -100], start=1):
            tasks.append(asyncio.create_task(waiting(priority)))
            await engine.until("vllm:num_requests_waiting", place)
        await engine.knobs(fault="none")
        await asyncio.gather(first, *tasks)
    return finished


async def test_waiting_stream_has_headers_and_comments_before_its_first_token() -> None:
    """A queued stream answers at once and is kept alive by comments; /load counts it."""
    async with simulator("--max-num-seqs", "1") as engine:
        await engine.knobs(fault="hang", fault_after=1, fault_times=1)
        first = asyncio.create_task(post(engine, CHAT, chat(max_tokens=5)))
        await engine.until("vllm:num_requests_running", 1)
        async with engine.http.post(engine.url + CHAT, json=chat(max_tokens=2, stream=True)) as answer:
            assert answer.status == 200
            assert await answer.content.readline() == b": keep-alive\n"
            async with engine.http.get(engine.url + "/load") as load:
                assert await load.json() == {"server_load": 2}
            await engine.knobs(fault="none")
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        await first


async def test_prefix_cache() -> None:
    """A repeated prompt hits its whole blocks unless salted or reset; details only with the flag."""
    prompt = {"prompt": "os " * 200, "max_tokens": 1}
    async with simulator("--enable-prompt-tokens-details", env={"VLLM_SERVER_DEV_MODE": "1"}) as engine:

        async def cached(**fields: Any) -> int:
            usage = (await post(engine, "/v1/completions", {**prompt, **fields}))["usage"]
            return int(usage["prompt_tokens_details"]["cached_tokens"])

        assert await cached() == 0
        hits = await cached()
        assert hits > 0
        assert hits % BLOCK == 0
        assert await cached(cache_salt="mine") == 0
        assert (await engine.metrics())["vllm:prefix_cache_hits_total"] == hits
        async with engine.http.post(engine.url + "/reset_prefix_cache") as answer:
            assert await answer.json() == {"success": True}
        assert await cached() == 0
    async with simulator() as engine:
        assert (await post(engine, "/v1/completions", prompt))["usage"]["prompt_tokens_details"] is None


async def test_n_sequences() -> None:
    """Each of n sequences takes a slot; usage names the prompt once and the engine counts it n times, as vLLM does."""
    async with simulator() as engine:
        answer = await engine.chat(n=3, max_tokens=7, temperature=1)
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
        assert answer["usage"]["completion_tokens"] == 21
        metrics = await engine.metrics()
        assert metrics["vllm:prompt_tokens_total"] == 3 * answer["usage"]["prompt_tokens"]
        assert metrics["vllm:request_params_n_sum"] == 3
        assert metrics['vllm:request_success_total{finished_reason="length"}'] == 3
        several = await post(engine, "/v1/completions", {"prompt": ["a b", "c d"], "n": 2, "max_tokens": 2})
        assert [choice["index"] for choice in several["choices"]] == [0, 1, 2, 3]
        assert several["usage"]["prompt_tokens"] == 4


async def test_length_controls() -> None:
    """max_tokens cuts, ignore_eos gives exactly so many, min_tokens at least so many."""
    async with simulator(knobs={"tps": 0}) as engine:
        cut = await engine.chat(max_tokens=9)
        assert (cut["usage"]["completion_tokens"], cut["choices"][0]["finish_reason"]) == (9, "length")
        exact = await engine.chat(max_tokens=2500, ignore_eos=True)
        assert (exact["usage"]["completion_tokens"], exact["choices"][0]["finish_reason"]) == (2500, "length")
        least = await engine.chat(max_tokens=6000, min_tokens=1500)
        assert least["usage"]["completion_tokens"] >= 1500
        assert least["choices"][0]["finish_reason"] == "stop"
        await engine.knobs(hidden_tokens=4)
        hidden = await engine.chat("hi", temperature=0, max_tokens=6000)
        await engine.knobs(hidden_tokens=0)
        plain = await engine.chat("hi", temperature=0, max_tokens=6000)
        assert hidden["choices"][0]["message"] == plain["choices"][0]["message"]
        assert hidden["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"] + 4


async def test_determinism() -> None:
    """Temperature 0, or a seed, gives the same answer twice; n sequences of one seed differ from another's."""
    async with simulator(knobs={"tps": 0}) as engine:
        greedy = [(await engine.chat("tell me", temperature=0))["choices"][0]["message"] for _ in range(2)]
        seeded = [(await engine.chat("tell me", seed=5))["choices"][0]["message"] for _ in range(2)]
        assert greedy[0] == greedy[1]
        assert seeded[0] == seeded[1]
        others = {(await engine.chat("tell me", seed=seed))["choices"][0]["message"]["content"] for seed in range(12)}
        assert len(others) > 3


async def test_stop_strings() -> None:
    """A stop string ends the answer before itself and is named; streamed and whole agree."""
    async with simulator("--sim-reasoning", "false", knobs={"tps": 0}) as engine:
        body = chat("hi", stop=["engine"], temperature=0)
        whole = (await post(engine, CHAT, body))["choices"][0]
        assert (whole["finish_reason"], whole["stop_reason"]) == ("stop", "engine")
        assert whole["message"]["content"]
        assert "engine" not in whole["message"]["content"]
        chunks = await frames(engine, CHAT, **body)
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
        assert text == whole["message"]["content"]
        kept = await post(engine, CHAT, {**body, "include_stop_str_in_output": True})
        assert kept["choices"][0]["message"]["content"].endswith("engine")


async def test_background_response() -> None:
    """A background response is queued, can be read, and cancelling it frees its slot."""
    async with simulator(knobs={"tps": 20}) as engine:
        body = {"input": "hi", "background": True, "max_output_tokens": 500}
        queued = await post(engine, "/v1/responses", body)
        assert queued["status"] == "queued"
        await engine.until("vllm:num_requests_running", 1)
        cancelled = await post(engine, f"/v1/responses/{queued['id']}/cancel", {})
        assert cancelled["status"] == "cancelled"
        await engine.until("vllm:num_requests_running", 0)
        done = await post(engine, "/v1/responses", {"input": "hi", "max_output_tokens": 3})
        async with engine.http.get(f"{engine.url}/v1/responses/{done['id']}") as answer:
            assert await answer.json() == done
        async with engine.http.get(engine.url + "/v1/responses/resp_none") as answer:
            assert answer.status == 404


async def test_requests_are_recorded() -> None:
    """What reached the engine can be read back: target, headers, body, tokens."""
    async with simulator() as engine:
        headers = {"X-Request-Id": "abc"}
        body = {"model": MODEL, "prompt": "hi", "max_tokens": 2}
        async with engine.http.post(engine.url + "/v1/completions?a=b", json=body, headers=headers) as answer:
            assert (await answer.json())["id"] == "cmpl-abc"
        [record] = await engine.requests()
        assert (record["method"], record["target"], record["status"]) == ("POST", "/v1/completions?a=b", 200)
        assert ["x-request-id", "abc"] in record["headers"]
        assert json.loads(record["body"]) == body
        assert (record["generated"], record["sent"], record["finish"]) == (2, 2, ["length"])
        await engine.reset()
        assert await engine.requests() == []
