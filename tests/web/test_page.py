"""The page itself: size, themes, parameters, presets, how its files are served."""

import asyncio
import re

import pytest
from aiohttp import ClientSession
from playwright.async_api import Browser, expect

from gateway.chat.pages import CONTENT_SECURITY_POLICY
from tests.web.backend import NAME, PASSWORD, Backend
from tests.web.chatpage import ChatPage, new_page

MAX_FIRST_LOAD_BYTES = 120 * 1024
MAX_FIRST_LOAD_REQUESTS = 30

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]


async def test_first_load_is_small(browser: Browser, backend: Backend) -> None:
    """A signed-in first load takes at most 120 KiB over the wire and 30 requests."""
    async with new_page(browser, backend.url) as before:
        await before.enter(NAME, PASSWORD)
        signed_in = await before.page.context.storage_state()
    # in a browser with nothing in its cache, that goes nowhere else: then a body cannot be read any more
    async with new_page(browser, backend.url, storage_state=signed_in) as page:
        async with page.page.expect_response("**/api/engine"):
            await page.open()
        await page.composer.wait_for()
        await page.page.wait_for_load_state("networkidle")
        responses = list(page.responses)
        wire = 0
        for response in responses:
            size = len(await response.body())
            wire += int((await response.all_headers()).get("content-length", size))
    print(f"first load: {len(responses)} requests, {wire / 1024:.1f} KiB over the wire")
    assert wire <= MAX_FIRST_LOAD_BYTES
    assert len(responses) <= MAX_FIRST_LOAD_REQUESTS


async def test_dark_and_light_follow_the_system_and_the_choice(browser: Browser, backend: Backend) -> None:
    """A dark system gets a dark page; choosing light overrides it and survives a reload."""
    theme = "() => document.documentElement.dataset.theme"
    async with new_page(browser, backend.url, color_scheme="dark") as page:
        await page.enter(NAME, PASSWORD)
        assert await page.page.evaluate(theme) == "dark"
        await page.page.get_by_role("button", name="Account of Lin").click()
        await page.page.get_by_text("Light", exact=True).click()
        assert await page.page.evaluate(theme) == "light"
        await page.page.reload()
        await page.composer.wait_for()
        assert await page.page.evaluate(theme) == "light"


async def test_parameters_go_into_the_chat(page: ChatPage, backend: Backend) -> None:
    """What is set in the panel is the chat's, clamped to its range; made one's own, it goes along in every chat."""
    await page.enter(NAME, PASSWORD)
    await page.button("Parameters").click()
    await page.page.locator(".panel").get_by_text("High", exact=True).click()
    await page.page.get_by_label("Longest answer").fill("100")
    await page.page.get_by_label("System prompt").fill("Be brief.")
    await page.ask("Hi")
    await page.answered()
    [chat] = backend.chats.chats.values()
    assert chat.row["params"] == {"reasoning_effort": "high", "max_tokens": 100, "system_prompt": "Be brief."}
    await page.button("Use these for all my chats").click()
    await page.button("New chat").click()
    await expect(page.page.get_by_label("System prompt")).to_have_value("Be brief.")
    await page.ask("Hi again")
    await page.answered()
    assert backend.requests[-1]["params"] == {
        "reasoning_effort": "high",
        "max_tokens": 100,
        "system_prompt": "Be brief.",
    }


async def test_a_preset_is_one_click(page: ChatPage, backend: Backend) -> None:
    """A preset of the greeting sets the new chat's parameters; how hard the model thinks is chosen beside the message."""
    await page.enter(NAME, PASSWORD)
    await page.button("Translate").click()
    await page.page.get_by_label("Thinking").select_option("low")
    await page.ask("Hi")
    await page.answered()
    [chat] = backend.chats.chats.values()
    assert chat.row["params"] == {"system_prompt": "Translate.", "temperature": 0.3, "reasoning_effort": "low"}
    await page.page.get_by_label("Thinking").select_option("high")
    async with asyncio.timeout(30):
        while chat.row["params"]["reasoning_effort"] != "high":
            await asyncio.sleep(0.02)


async def test_static_files_are_revalidated_and_nothing_else_is_served(backend: Backend) -> None:
    """ETag and no-cache on the page, 304 when unchanged, 404 for every way out of the folder."""
    async with ClientSession() as session:
        async with session.get(backend.url) as index:
            assert index.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
            assert index.headers["Cache-Control"] == "no-cache"
            etag = index.headers["ETag"]
        async with session.get(backend.url, headers={"If-None-Match": etag}) as again:
            assert again.status == 304
        for path in ("../pyproject.toml", "%2e%2e/pyproject.toml", "..%2fpyproject.toml", "js", "js/", "nothing.js"):
            async with session.get(f"{backend.url}/static/{path}") as missing:
                assert missing.status == 404, path


async def test_a_builds_files_are_never_asked_for_again(page: ChatPage, backend: Backend) -> None:
    """All the page's files come from below its build's id, immutable; an id of another build has no files."""
    async with ClientSession(backend.url) as session:
        async with session.get("/static/config.json") as config:
            build = (await config.json())["build"]
        async with session.get(f"/static/{build}/js/main.js") as file:
            assert file.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        async with session.get("/static/js/main.js") as plain:
            assert plain.headers["Cache-Control"] == "no-cache"
        async with session.get(f"/static/{build[::-1]}/js/main.js") as other:
            assert other.status == 404
    await page.open()
    names = await page.page.evaluate(
        "performance.getEntriesByType('resource').map((entry) => new URL(entry.name).pathname)"
    )
    files = [name for name in names if name.startswith("/static/") and name != "/static/config.json"]
    assert len(files) > 10
    assert [name for name in files if not name.startswith(f"/static/{build}/")] == []


async def test_config_names_the_build(backend: Backend) -> None:
    """config.json carries what it is told, and a build id."""
    async with ClientSession() as session, session.get(f"{backend.url}/static/config.json") as response:
        config = await response.json()
    assert config["title"] == "Gatehouse"
    assert re.fullmatch(r"[0-9a-f]{16}", config["build"])
