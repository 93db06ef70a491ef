"""The real engine dies while it answers: what its clients get, and what becomes of those who had nothing yet."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import aiohttp
import anthropic
import openai
import psutil
import pytest

from tests.support.client_suite import MESSAGES
from tests.support.client_suite.callers import async_anthropic_client, async_openai_client
from tests.support.stack import DEADLINE, Stack
from tests.support.traffic import APIS, Request, Traffic, traffic

RESTART_SECONDS = 400
ENDLESS = 1500  # tokens: ten seconds
EVENTS = 8  # of a stream; the first ones of some APIs have no text


@pytest.mark.timeout(RESTART_SECONDS, func_only=True)
async def test_engine_core_killed_in_mid_stream(stack: Stack) -> None:
    """Streams that have begun get the error event of their own API and the end of the connection, never `[DONE]`; the
    official clients raise. Requests without a byte yet are held, and served by the engine that the launcher starts.
    """
    restarts = stack.status()["restarts"]
    begun: set[str] = set()
    async with traffic(stack) as sender, asyncio.TaskGroup() as tasks:
        streams = {api: tasks.create_task(_broken_stream(sender, api, begun)) for api in APIS}
        clients = [tasks.create_task(_openai_raises(stack, begun)), tasks.create_task(_anthropic_raises(stack, begun))]
        # not streamed: nothing of the answer has been passed on when the engine dies
        waiting = [tasks.create_task(_served(sender, Request(api, False, 200, True), f"held-{api}")) for api in APIS]
        await sender.until_running(len(streams) + len(clients) + len(waiting))
        async with asyncio.timeout(DEADLINE):
            while len(begun) < len(streams) + len(clients):
                await asyncio.sleep(0.01)
        os.kill(engine_core(stack), signal.SIGKILL)
        broken = {api: await task for api, task in streams.items()}
        late = tasks.create_task(_served(sender, Request("chat", True, 20), "late"))
        answers = [await task for task in (*waiting, late)]
    assert stack.status()["restarts"] == restarts + 1
    for api, body in broken.items():
        assert b"[DONE]" not in body
        event = _last_event(body)
        assert event.get("type", "error") == "error", f"{api}: {event}"
        assert (event.get("code") or event["error"].get("code") or event["error"]["type"]) in {
            "engine_failed",
            "api_error",
        }
        line = stack.logged(f"broken-{api}")
        assert (line["outcome"], line["error_code"]) == ("engine_failed", "engine_failed")
        assert line["completion_tokens"] > 0
    for request_id, body in answers:
        assert body
        line = stack.logged(request_id)
        assert (line["outcome"], line["completion_tokens"] > 0) == ("complete", True), line


def engine_core(stack: Stack) -> int:
    """The pid of vLLM's engine process."""
    tree = psutil.Process(stack.process.pid).children(recursive=True)
    (found,) = [each.pid for each in tree if "EngineCor" in each.name() + " ".join(each.cmdline())]
    return found


async def _broken_stream(sender: Traffic, api: str, begun: set[str]) -> bytes:
    """All bytes of a stream until its connection breaks, which it must. It is among the begun when it has text."""
    received = b""
    with pytest.raises(aiohttp.ClientPayloadError):
        async with sender.post(Request(api, True, ENDLESS, True), "Go on.", f"broken-{api}") as answer:
            async for data in answer.content.iter_any():
                received += data
                if received.count(b"data: ") >= EVENTS:
                    begun.add(api)
    return received


async def _served(sender: Traffic, request: Request, request_id: str) -> tuple[str, bytes]:
    return request_id, await sender.whole(request, "Go on.", request_id)


async def _openai_raises(stack: Stack, begun: set[str]) -> None:
    async with async_openai_client(stack) as client:
        stream = await client.chat.completions.create(
            model=stack.model, messages=MESSAGES, stream=True, temperature=0, max_tokens=ENDLESS
        )
        with pytest.raises(openai.APIError, match="engine"):
            async for _ in stream:
                begun.add("the OpenAI client")
        await stream.close()


async def _anthropic_raises(stack: Stack, begun: set[str]) -> None:
    async with async_anthropic_client(stack) as client:
        how: dict[str, Any] = {"extra_body": {"temperature": 0}}
        stream = await client.messages.create(
            model=stack.model, messages=MESSAGES, stream=True, max_tokens=ENDLESS, **how
        )
        with pytest.raises(anthropic.APIStatusError, match="engine"):
            async for _ in stream:
                begun.add("the Anthropic client")
        await stream.close()


def _last_event(body: bytes) -> dict[str, Any]:
    return json.loads(body.rstrip().rpartition(b"data: ")[2])
