"""An engine that sends its next token only when the test says so: what waits in a buffer on the way is then never sent on.

async with engine_in_turns(tokens=5) as engine, gateway(engine.url, …) as gate:
    …ask with content "a", read one piece…
    engine.go_on("a")                  # the stream whose prompt was "a" sends one token more
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator

from aiohttp import web

from tests.support.engines import MODEL


class EngineInTurns:
    """Streams are known by the content of their last message; each sends its first token unasked."""

    def __init__(self, tokens: int) -> None:
        self.url = ""
        self.tokens = tokens
        self.begun: set[str] = set()
        self.broken: set[str] = set()
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(1))

    def go_on(self, stream: str) -> None:
        """Let a stream send its next token."""
        self._turns[stream].release()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        name = (await request.json())["messages"][-1]["content"]
        self.begun.add(name)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        try:
            for number in range(self.tokens):
                await self._turns[name].acquire()
                await answer.write(_event(f"{name}-{number} ", number + 1))
            await answer.write(b"data: [DONE]\n\n")
        except (ConnectionError, asyncio.CancelledError):
            self.broken.add(name)
            raise
        return answer


def _event(text: str, tokens: int) -> bytes:
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    return b"data: " + json.dumps({**event, "choices": [choice], "usage": usage}).encode() + b"\n\n"


@contextlib.asynccontextmanager
async def engine_in_turns(tokens: int) -> AsyncIterator[EngineInTurns]:
    """Serve one on loopback."""
    engine = EngineInTurns(tokens)

    async def well(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", engine.chat), web.get("/health", well), web.get("/metrics", well)])
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    engine.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield engine
    finally:
        await runner.cleanup()
