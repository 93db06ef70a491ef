"""The chat's metrics say what there is: tabs, runs by their ends, what is kept of them."""

import asyncio
from pathlib import Path

from tests.support.engines import simulator
from tests.support.gateways import RunningGateway, gateway
from tests.support.members import OVER_HTTP, member


async def until(gate: RunningGateway, **wanted: float) -> None:
    """Wait until these of the chat's metrics have these values."""
    async with asyncio.timeout(60):
        while True:
            found = await gate.metrics()
            seen = {name: found[f"gatehouse_chat_{name}"] for name in ("tabs", "runs", "replay_bytes")}
            seen |= {
                status: found[f'gatehouse_chat_runs_ended_total{{status="{status}"}}']
                for status in ("done", "stopped", "failed", "interrupted")
            }
            if wanted.items() <= seen.items():
                return
            await asyncio.sleep(0.02)


async def test_tabs_runs_and_what_is_kept(tmp_path: Path) -> None:
    """Each tab, each run that is being made, each by how it ended; frames count until they are forgotten."""
    async with (
        simulator(knobs={"tps": 0}) as engine,
        gateway(engine.url, tmp_path, auth=OVER_HTTP, chat={"replay_seconds": 1}) as gate,
    ):
        ada = await member(gate)
        await until(gate, tabs=0, runs=0, replay_bytes=0, done=0, stopped=0, failed=0, interrupted=0)
        chat = await ada.made(params={"max_tokens": 2000})
        async with ada.tab(), ada.tab():
            await ada.answered(chat)
            await until(gate, tabs=2, runs=0, done=1)
            await engine.knobs(tps=20)
            run = await ada.asked(chat)
            frames = await ada.raw_frames(run, until=lambda frame: frame["t"] == "r")
            found = await gate.metrics()
            assert found["gatehouse_chat_runs"] == 1
            assert found["gatehouse_chat_replay_bytes"] >= sum(map(len, frames))
            await ada.ok("DELETE", f"/api/runs/{run}")
            await engine.knobs(fault="error_frame")
            await ada.answered(chat)
        await until(gate, tabs=0, runs=0, replay_bytes=0, done=1, stopped=1, failed=1, interrupted=0)
