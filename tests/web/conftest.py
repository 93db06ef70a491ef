"""A real Chromium, pages that collect what went wrong in them, and the double they talk to.

`browser`, `page` and the helpers in `chatpage.py` work with any base URL; only `backend` is the double's.
"""

import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, async_playwright

from tests.support.needs import missing
from tests.web.backend import Backend
from tests.web.chatpage import ChatPage, new_page

PRESET = {
    "id": "translate",
    "name": {"en": "Translate", "zh-CN": "翻译"},
    "params": {"system_prompt": "Translate.", "temperature": 0.3},
}
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium_path() -> str:
    """Where Chromium is; a machine without it skips these tests, except in CI, where they must run."""
    path = os.environ.get("CHROMIUM", "chromium")
    found = shutil.which(path)
    return found or missing(f"Chromium at {path!r}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for the whole session; each page has a context of its own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path(), args=CHROMIUM_FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def backend() -> AsyncIterator[Backend]:
    """The double on a free port of loopback."""
    double = Backend()
    config: dict[str, Any] = {"title": "Gatehouse", "languages": ["en", "zh-CN"], "model": "gpt-oss-20b"}
    config |= {"defaults": {"reasoning_effort": "medium", "max_tokens": 1024}, "presets": [PRESET]}
    app = double.application(config)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    double.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield double
    await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, backend: Backend) -> AsyncIterator[ChatPage]:
    """An English desktop page, signed out; afterwards it must have met no error and no policy violation."""
    async with new_page(browser, backend.url) as chat:
        yield chat
