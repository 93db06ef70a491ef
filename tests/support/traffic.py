"""Requests on all four APIs, cut off at will, and the engine's counters beside them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.support.engines import parse_metrics
from tests.support.stack import Stack

RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
PROMPT, GENERATED = "vllm:prompt_tokens_total", "vllm:generation_tokens_total"
POLL_SECONDS = 0.002
IDLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Request:
    """A request on one API. `endless`: the answer goes on to its limit (temperature 0 is that to the tiny model)."""

    api: str
    stream: bool
    max_tokens: int = 24
    endless: bool = False
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where it goes."""
        return "/v1/chat/completions" if self.api == "chat" else f"/v1/{self.api}"

    def body(self, model: str, text: str) -> dict[str, Any]:
        """What it says."""
        limit = "max_output_tokens" if self.api == "responses" else "max_tokens"
        asked = {
            "chat": {"messages": [{"role": "user", "content": text}]},
            "messages": {"messages": [{"role": "user", "content": text}]},
            "completions": {"prompt": text},
            "responses": {"input": text},
        }[self.api]
        temperature = 0 if self.endless else 1
        how = {"stream": self.stream, "temperature": temperature, limit: self.max_tokens}
        return {"model": model, **asked, **how, **self.fields}


APIS = ("chat", "completions", "responses", "messages")


class Traffic:
    """Sends to a stack."""

    def __init__(self, stack: Stack, http: aiohttp.ClientSession) -> None:
        self.stack, self.http = stack, http
        self._engine_url = stack.engine_url
        self._headers = {"Authorization": f"Bearer {stack.token()}"}

    @contextlib.asynccontextmanager
    async def post(self, request: Request, text: str, request_id: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer as soon as its headers are here."""
        async with self.http.post(
            self.stack.url + request.path,
            json=request.body(self.stack.model, text),
            headers={**self._headers, "X-Request-Id": request_id},
        ) as answer:
            yield answer

    async def whole(self, request: Request, text: str, request_id: str) -> bytes:
        """Send it and read the answer to its end."""
        async with self.post(request, text, request_id) as answer:
            body = await answer.read()
            assert answer.status == 200, body
            return body

    async def cut(self, request: Request, text: str, request_id: str, seconds: float) -> float | None:
        """Send it and close the connection some seconds after the gateway has it: a request that its client takes back
        before it was read is none. Returns when, by the monotonic clock, None if it ended before.
        """
        task = asyncio.create_task(self.whole(request, text, request_id))
        while not task.done() and not await self._in_flight():
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            await task
            return None
        closed = time.monotonic()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return closed

    async def _in_flight(self) -> float:
        """How many requests the gateway serves now."""
        async with self.http.get(self.stack.admin_url + "/metrics") as answer:
            return parse_metrics(await answer.text())["gatehouse_in_flight"]

    async def gauges(self) -> dict[str, float]:
        """The engine's own metrics, asked for directly."""
        async with self.http.get(self._engine_url + "/metrics") as answer:
            return parse_metrics(await answer.text())

    async def until_running(self, count: int) -> None:
        """Wait until so many requests run."""
        async with asyncio.timeout(IDLE_SECONDS):
            while (await self.gauges())[RUNNING] < count:
                await asyncio.sleep(POLL_SECONDS)

    async def until_idle(self, since: float) -> float:
        """Wait until the engine has nothing to do; returns the seconds from `since` until it was asked and said so."""
        async with asyncio.timeout(IDLE_SECONDS):
            while True:
                found = await self.gauges()
                if found[RUNNING] == 0 and found[WAITING] == 0:
                    return time.monotonic() - since
                await asyncio.sleep(POLL_SECONDS)


@contextlib.asynccontextmanager
async def traffic(stack: Stack, timeout: float = 100) -> AsyncIterator[Traffic]:
    """Send to a stack, over a connection of its own for each request that is cut; no answer takes over `timeout` seconds."""
    limit = aiohttp.ClientTimeout(total=timeout)
    async with aiohttp.ClientSession(timeout=limit, connector=aiohttp.TCPConnector(limit=0)) as http:
        yield Traffic(stack, http)
