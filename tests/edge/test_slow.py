"""Many slow clients at once: all of them are ended, everybody else is served. What it costs: `python -m bench.edge.slow`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.edge.test_connections import HELLO, raw
from tests.support.gateways import gateway
from tests.support.scripted import Script, chunked, http_answer, scripted_engine
from tests.support.slow_clients import Ended, slow_loris, stalled_reader

LORIS, STALLED = 200, 50
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 60_000 + b'"}}]}\n\n'


async def test_slow_clients_are_ended_and_nobody_else_notices(tmp_path: Path) -> None:
    """200 heads that never end and 50 answers that nobody reads: each is ended, and requests between them succeed."""
    big = chunked([EVENT] * 50, "content-type: text/event-stream", end=b"")
    small = json.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).encode()
    async with scripted_engine() as engine:
        engine.answer = lambda _head, body: (
            Script([big], hang=True)
            if b'"stream":true' in body
            else Script([http_answer(small, "content-type: application/json")])
        )
        limits = {"head_seconds": 2, "write_seconds": 2}
        async with gateway(engine.url, tmp_path, gateway=limits) as gate:
            port = int(gate.url.rpartition(":")[2])
            loris, stalled = Ended(), Ended()
            request = raw(gate, json.dumps({**HELLO, "stream": True}).encode())
            slow = asyncio.gather(
                *(slow_loris(port, i, loris) for i in range(LORIS)),
                *(stalled_reader(port, i, request, stalled) for i in range(STALLED)),
            )
            served = 0
            async with asyncio.timeout(60):
                while not slow.done():
                    assert (await gate.chat())["choices"] == []
                    served += 1
                    await asyncio.sleep(0.01)
            await slow
            assert served > 20
            assert len(loris.seconds) == LORIS
            assert len(stalled.seconds) == STALLED
            assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in loris.answers)
            assert min(loris.seconds) >= 2
            ended = await gate.metrics()
            assert ended['gatehouse_connections_ended_total{reason="head_timeout"}'] == LORIS
            assert ended['gatehouse_connections_ended_total{reason="reads_nothing"}'] == STALLED
            lines = await gate.logged(STALLED, stream=True)
            assert {line["outcome"] for line in lines} == {"client_gone"}
            async with asyncio.timeout(60):
                while (await gate.metrics())["gatehouse_connections"] > 1:
                    await asyncio.sleep(0.05)
