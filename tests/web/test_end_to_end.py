"""The chat in a real Chromium, before the real gateway and the simulated engine: nothing in between is a double."""

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from gatehouse.commands.identity import ensure_demo_user
from tests.support.engines import simulator
from tests.support.gateways import RunningGateway, gateway
from tests.web.chatpage import ChatPage, new_page

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]


async def enter(chat: ChatPage, gate: RunningGateway) -> None:
    name, password = await ensure_demo_user(gate.config)
    await chat.enter(name, password)


async def test_login_ask_and_read(browser: Browser, tmp_path: Path) -> None:
    """A team member logs in, asks in Chinese, and reads the whole answer; the record holds exactly its tokens."""
    async with (
        simulator("--sim-control") as engine,
        gateway(engine.url, tmp_path) as gate,
        new_page(browser, gate.url, locale="zh-CN") as chat,
    ):
        await enter(chat, gate)
        await chat.ask("你好，请介绍一下你自己")
        answer = await chat.answered()
        assert "模拟" in await answer.inner_text()
        [line] = await gate.logged(1, route="/api/chats/{id}/runs")
        [seen] = [r for r in await engine.requests() if r["target"] == "/v1/chat/completions"]
        assert line["subject"] == "demo"
        assert line["outcome"] == "complete"
        assert line["completion_tokens"] == seen["generated"] > 50


async def test_stop_stops_the_engine(browser: Browser, tmp_path: Path) -> None:
    """Stop in the page ends the engine's work; what was read stays, and its tokens are charged."""
    async with (
        simulator("--sim-control", knobs={"tps": 20}) as engine,
        gateway(engine.url, tmp_path) as gate,
        new_page(browser, gate.url) as chat,
    ):
        await enter(chat, gate)
        await chat.ask("Tell me something long")
        await engine.until("vllm:generation_tokens_total", lambda tokens: tokens > 5)
        await chat.page.get_by_role("button", name="Stop").click()
        await engine.until("vllm:num_requests_running", 0)
        [line] = await gate.logged(1, outcome="client_gone")
        assert line["completion_tokens"] > 0
        await expect(chat.answers.first).not_to_be_empty()


async def test_an_engine_that_dies_in_mid_answer(browser: Browser, tmp_path: Path) -> None:
    """The page says what happened, with the request id, and keeps the text; asked again, the next engine answers."""
    async with (
        simulator("--sim-control", knobs={"tps": 20}) as engine,
        gateway(engine.url, tmp_path) as gate,
        new_page(browser, gate.url) as chat,
    ):
        await enter(chat, gate)
        await chat.ask("Tell me something long")
        await engine.until("vllm:generation_tokens_total", lambda tokens: tokens > 5)
        engine.kill()
        await engine.wait()
        [line] = await gate.logged(1, outcome="engine_failed")
        await expect(chat.page.get_by_text(line["request_id"])).to_be_attached()
        async with simulator("--sim-control", port=engine.port):
            await asyncio.sleep(0)
            await gate.ready()
            await chat.button("Try again").click()
            await gate.logged(1, route="/api/chats/{id}/runs", outcome="complete")
