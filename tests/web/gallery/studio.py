"""One language, theme and size: a signed-in page, and what brings the engine and the browser into a state."""

import io
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser, BrowserContext

from tests.support.members import PASSWORD
from tests.support.stack import Stack
from tests.web.chatpage import ChatPage
from tests.web.gallery.past import WORDS

QUALITY = 55
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


class Studio:
    """One language, theme and size: a signed-in page, and what brings it into a state."""

    def __init__(self, stack: Stack, browser: Browser, folder: Path, language: str, theme: str, size: str) -> None:
        self.stack, self.browser, self.folder = stack, browser, folder
        self.language, self.theme, self.size = language, theme, size
        self.words = WORDS[language]

    @asynccontextmanager
    async def page(self, user: str | None) -> AsyncIterator[ChatPage]:
        """A page in this language, theme and size; signed in as `user`, or on the login page."""
        is_phone = self.size == "phone"
        context: BrowserContext = await self.browser.new_context(
            viewport=PHONE if is_phone else DESKTOP,  # type: ignore[arg-type]
            locale=self.language,
            color_scheme=self.theme,  # type: ignore[arg-type]
            has_touch=is_phone,
            is_mobile=is_phone,
            reduced_motion="reduce",
        )
        chat = ChatPage(await context.new_page(), self.stack.url)
        await chat.open()
        if user is not None:
            await chat.login(f"{user}-{self.language.lower()}", PASSWORD)
            await chat.composer.wait_for()
        yield chat
        await context.close()

    async def shoot(self, chat: ChatPage, name: str) -> None:
        """Take the picture of a state."""
        await chat.page.wait_for_timeout(400)  # fonts, colours of code
        png = await chat.page.screenshot(animations="disabled")
        file = self.folder / f"{name}.{self.language}.{self.theme}.{self.size}.webp"
        with Image.open(io.BytesIO(png)) as picture:
            picture.convert("RGB").save(file, quality=QUALITY, method=6)

    async def send(self, chat: ChatPage, text: str) -> None:
        """Ask, with the key or the button that there is."""
        await chat.composer.fill(text)
        await chat.page.locator(".send:not(.stop)").click()

    def key(self, number: int) -> str:
        """A name for what is sent once in this studio."""
        return f"{self.language}-{self.theme}-{self.size}-{number}"

    def knobs(self, **values: Any) -> None:
        """Turn the engine's knobs."""
        post(f"{self.stack.engine_url}/sim/knobs", values, self.stack.engine_key)


def post(url: str, body: Any, token: str | None = None) -> bytes:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        body_bytes: bytes = answer.read()
    return body_bytes
