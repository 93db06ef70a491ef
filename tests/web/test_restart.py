"""Workers that are replaced and killed in mid-answer, before a real Chromium: the answer on screen is the engine's.

GATEHOUSE_RESTARTS=50 is the full run; CI takes fewer.
"""

import asyncio
import json
import os
import random
import sqlite3
from contextlib import closing
from itertools import cycle, islice

import pytest
from playwright.async_api import Browser, expect

from tests.support.engines import MODEL, Simulator, simulator
from tests.support.members import PASSWORD, add_user
from tests.support.redis_server import running_redis
from tests.support.workers import WorkersGateway, workers
from tests.web.chatpage import ChatPage, new_page

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(3600)]

RESTARTS = int(os.environ.get("GATEHOUSE_RESTARTS", "2"))
KILLED, REPLACED, OTHER_KILLED = "the one that makes it is killed", "all are replaced", "another one is killed"
ENDED = ("done", "interrupted")
STORED = """async () => {
  const id = location.hash.split("/").at(-1);
  const { messages } = await (await fetch(`/api/chats/${id}`)).json();
  return messages.at(-1);
}"""


async def test_workers_restart_at_random_moments(browser: Browser) -> None:
    """Whatever happens to the workers, at random moments and with reloads: what is drawn is what a fresh page draws of the
    stored answer, which is the engine's own, or with its worker dead its beginning; asked again it is whole.
    """
    dice = random.Random(8)
    ends = dict.fromkeys(ENDED, 0)
    async with simulator("--sim-control", knobs={"ttft": 0.2, "tps": 40}) as engine:
        with running_redis() as redis:
            async with (
                workers(engine.url, redis.url, gateway={"drain_seconds": 1}, chat={"defaults": {"seed": 7}}) as gate,
                new_page(browser, gate.url) as chat,
            ):
                await add_user(gate.state_dir / "gatehouse.db", "ada")
                await chat.enter("ada", PASSWORD)
                for number, way in enumerate(islice(cycle((KILLED, REPLACED, OTHER_KILLED)), RESTARTS), 1):
                    await chat.button("New chat").click()
                    await expect(chat.answers).to_have_count(0)
                    await chat.ask(f"Tell me something, number {number}")
                    await expect(chat.answers).to_have_count(1)
                    await engine.until("vllm:num_requests_running", 1)
                    await asyncio.sleep(dice.uniform(0.0, 2.0))
                    await restart(gate, way)
                    if dice.random() < 0.5:
                        await chat.page.reload()
                    status = await ended(chat, engine)
                    ends[status] += 1
                    if status == "interrupted":
                        await chat.button("Try again").click()
                        await expect(chat.answers).to_have_attribute("data-status", "running")
                        assert await ended(chat, engine) == "done"
                await engine.until("vllm:num_requests_running", 0)
    print(f"{RESTARTS} restarts in mid-answer: {ends}")
    assert ends["done"] > 0


async def restart(gate: WorkersGateway, way: str) -> None:
    """Do so to the workers under the newest answer."""
    pids = await gate.pids()
    if way == REPLACED:
        assert (await asyncio.to_thread(gate.command, "gateway", "restart")).returncode == 0
        for number, pid in pids.items():
            await gate.followed(number, pid)
        return
    with closing(sqlite3.connect(gate.state_dir / "gatehouse.db")) as database:
        (worker,) = database.execute("SELECT worker FROM messages ORDER BY number DESC LIMIT 1").fetchone()
    maker = int(worker.split(":")[-2])
    chosen = [number for number, pid in pids.items() if (pid == maker) == (way == KILLED)]
    await gate.kill(chosen[0])


async def ended(chat: ChatPage, engine: Simulator) -> str:
    """Wait until the answer has ended, and examine it; its status."""
    shown = chat.answers
    await expect(shown).not_to_have_attribute("data-status", "running", timeout=60_000)
    drawn = await shown.locator(".markdown").all_inner_texts()
    stored = await chat.page.evaluate(STORED)
    assert stored["status"] == await shown.get_attribute("data-status") in ENDED
    wanted = await of_the_engine(engine)
    if stored["status"] == "done":
        assert (stored["reasoning"], stored["content"]) == wanted
    else:
        assert wanted[0].startswith(stored["reasoning"])
        assert wanted[1].startswith(stored["content"])
    await chat.page.reload()
    await expect(shown).to_have_attribute("data-status", stored["status"])
    assert await shown.locator(".markdown").all_inner_texts() == drawn
    return str(stored["status"])


async def of_the_engine(engine: Simulator) -> tuple[str, str]:
    """Reasoning and text of what the engine was asked last, asked again; it answers the same in the same way."""
    body = json.loads((await engine.requests())[-1]["body"])
    ours = ("stream", "stream_options", "priority", "cache_salt", "model")
    asked = {name: value for name, value in body.items() if name not in ours}
    await engine.knobs(tps=0)
    async with engine.http.post(engine.url + "/v1/chat/completions", json={"model": MODEL, **asked}) as answered:
        message = (await answered.json())["choices"][0]["message"]
    await engine.knobs(tps=40)
    return message["reasoning"] or "", message["content"] or ""
