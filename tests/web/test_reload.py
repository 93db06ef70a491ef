"""Reloads in mid-answer before the real gateway: the answer on screen is the engine's, whole and once.

GATEHOUSE_RELOADS=50 is the full run; CI takes fewer.
"""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from gatehouse.commands.identity import ensure_demo_user
from tests.support.engines import simulator
from tests.support.gateways import DEADLINE, gateway
from tests.web.chatpage import ChatPage, new_page

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

RELOADS = int(os.environ.get("GATEHOUSE_RELOADS", "6"))
IN_ONE_ANSWER = 3
TEXT = """() => [...document.querySelectorAll("article.answer")].at(-1).querySelector(".markdown").innerText"""


async def until(chat: ChatPage, is_right: Callable[[str], bool]) -> str:
    """Wait until the last answer's text is right; returns it."""
    deadline = asyncio.get_running_loop().time() + DEADLINE
    while not is_right(drawn := await chat.page.evaluate(TEXT)):
        assert asyncio.get_running_loop().time() < deadline, drawn
        await asyncio.sleep(0.05)
    return drawn


async def test_reloads_at_random_moments(browser: Browser, tmp_path: Path) -> None:
    """After reloads at random moments what is drawn is what a fresh page draws of the stored answer: no doubles, no holes."""
    source = random.Random(7)
    async with (
        simulator("--sim-control", knobs={"ttft": 0.2, "tps": 100}) as engine,
        gateway(engine.url, tmp_path) as gate,
        new_page(browser, gate.url) as chat,
    ):
        await chat.enter(*await ensure_demo_user(gate.config))
        for answer in range(1, RELOADS // IN_ONE_ANSWER + 1):
            await chat.ask(f"Tell me something, number {answer}")
            for _ in range(IN_ONE_ANSWER):
                await asyncio.sleep(source.uniform(0.05, 1.2))
                await chat.page.reload()
            await expect(chat.answers).to_have_count(answer, timeout=30_000)
            await chat.answered(answer)
            stored = await chat.page.evaluate(
                """async () => {
                  const id = location.hash.split("/").at(-1);
                  const { messages } = await (await fetch(`/api/chats/${id}`)).json();
                  return messages.at(-1).content;
                }"""
            )
            words = [word for word in stored.split() if word.isalpha()]
            # what is done may still have to be drawn
            drawn = await until(chat, lambda drawn, words=words: all(word in drawn for word in words))
            await chat.page.reload()
            await chat.answered(answer)
            await until(chat, lambda again, drawn=drawn: again == drawn)
        await engine.until("vllm:num_requests_running", 0)
        # what a reload cut off is sent again: that request leaves a line, and asks the engine nothing
        runs = [line for line in await gate.logged(RELOADS // IN_ONE_ANSWER) if line["completion_tokens"]]
        assert [line["outcome"] for line in runs] == ["complete"] * (RELOADS // IN_ONE_ANSWER)
        assert len(await engine.requests()) == len(runs)
        print(f"{RELOADS} reloads in {len(runs)} answers")
