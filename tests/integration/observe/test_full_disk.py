"""A full disk under the record, as callers and ops see it."""

import asyncio
from pathlib import Path

from tests.support.engines import simulator
from tests.support.gateways import RunningGateway, gateway

KEPT = 40  # more than are answered between two turns of the writer
DROPPED = 'gatehouse_log_lines_dropped_total{sink="file"}'


async def test_requests_go_on_losses_are_counted_and_the_record_recovers(tmp_path: Path) -> None:
    """All are answered; the newest lines wait, the others are counted; with room again the record goes on by itself."""
    file = tmp_path / "requests.jsonl"
    logging = {"file": file, "queue_lines": KEPT}
    async with simulator() as engine, gateway(engine.url, tmp_path, logging=logging) as gate:
        await gate.chat("before")
        await gate.logged(1)
        file.unlink()
        file.symlink_to("/dev/full")
        for number in range(3 * KEPT):
            await ask(gate, f"during-{number}")
        lost = await until_dropped(gate, 2 * KEPT)
        assert lost == 2 * KEPT
        file.unlink()  # there is room again
        await ask(gate, "after")
        lines = await gate.logged(KEPT + 1)
        assert [line["request_id"] for line in lines] == [
            *(f"during-{number}" for number in range(2 * KEPT, 3 * KEPT)),
            "after",
        ]
        assert (await gate.metrics())[DROPPED] == lost


async def ask(gate: RunningGateway, request_id: str) -> None:
    """A request that is answered in full."""
    body = {"model": "gpt-oss-20b", "prompt": "hello", "max_tokens": 2}
    async with gate.post("/v1/completions", body, **{"X-Request-Id": request_id}) as answer:
        assert answer.status == 200, await answer.text()


async def until_dropped(gate: RunningGateway, lines: int) -> float:
    """Wait until so many lines are counted as lost."""
    async with asyncio.timeout(60):
        while (found := (await gate.metrics())[DROPPED]) < lines:
            await asyncio.sleep(0.05)
    return found
