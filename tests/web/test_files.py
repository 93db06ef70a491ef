"""Chats as files, from the page: saved, deleted, read back; what is no such file is refused with a reason."""

import json
from pathlib import Path

import pytest
from playwright.async_api import Browser, Download, expect

from gateway.store import database_address
from tests.support.engines import FAST, simulator
from tests.support.gateways import gateway
from tests.support.members import OVER_HTTP, PASSWORD, add_user
from tests.web.chatpage import ChatPage, new_page

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]

QUESTION = "你好 & hello"


async def text_of(download: Download) -> str:
    return Path(await download.path()).read_text("utf-8")


async def choose(page: ChatPage, name: str) -> None:
    """A command of the first chat's menu."""
    await page.chats.first.hover()
    await page.chats.first.get_by_role("button").click()
    await page.button(name).click()


async def test_saved_and_read_back(browser: Browser, tmp_path: Path) -> None:
    """All chats go into a file and come back from it, the same to the letter; one chat goes out as JSON and as Markdown."""
    async with (
        simulator(knobs=FAST) as engine,
        gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate,
        new_page(browser, gate.url) as page,
    ):
        await add_user(database_address(gate.config), "ada")
        await page.enter("ada", PASSWORD)
        await page.ask(QUESTION)
        answer = await (await page.answered()).locator(".markdown").inner_text()
        async with page.page.expect_download() as one:
            await choose(page, "Save as Markdown")
        assert QUESTION in await text_of(await one.value)
        async with page.page.expect_download() as one:
            await choose(page, "Save as JSON")
        assert len(json.loads(await text_of(await one.value))["chats"]) == 1

        await page.page.locator(".who").click()
        await page.button("Settings").click()
        dialog = page.page.get_by_role("dialog", name="Settings")
        async with page.page.expect_download() as everything:
            await dialog.get_by_role("link", name="Save all chats").click()
        saved = await text_of(await everything.value)
        assert (await everything.value).suggested_filename.endswith(".json")
        [chat] = json.loads(saved)["chats"]
        assert [message["role"] for message in chat["messages"]] == ["user", "assistant"]
        await page.page.keyboard.press("Escape")
        await choose(page, "Delete")
        await expect(page.chats).to_have_count(0)

        await page.page.locator(".who").click()
        await page.button("Settings").click()
        field = dialog.get_by_label("Read chats from a file")

        async def read(content: str) -> None:
            await field.set_input_files(
                [{"name": "f.json", "mimeType": "application/json", "buffer": content.encode()}]
            )

        said = dialog.get_by_role("status")
        await read("not JSON at all")
        await expect(said).to_contain_text("This file could not be taken: it is not JSON.")
        await read('{"some": "thing else"}')
        await expect(said).to_contain_text("format")
        await read(saved.replace('"role": "user"', '"role": "king"').replace('"role":"user"', '"role":"king"'))
        await expect(said).to_contain_text("role")
        await read(saved)
        await expect(said).to_have_text("1 chat was added.")
        await page.page.keyboard.press("Escape")
        await expect(page.chats).to_have_count(1)
        await page.chats.first.locator("a").click()
        await expect(page.questions).to_have_text([QUESTION])
        assert await (await page.answered()).locator(".markdown").inner_text() == answer
