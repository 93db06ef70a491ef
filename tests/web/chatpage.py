"""The chat as a person uses it: sign in, ask, wait. Works with any base URL, the double's or a real gateway's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, Locator, Page, Response, expect

# What the browser itself reports as console errors for answers that the page expects and handles.
EXPECTED_STATUS = ("400", "401", "403", "404", "410", "413", "429", "502", "503", "504")

BOOKED = """async () => (await (await fetch("/v1/usage?days=1")).json()).total.requests > 0"""
"""Usage reaches the database a moment after the answer."""

AT_REST = """async () => {
  const box = document.querySelector(".scroller");
  for (let [frames, at] = [0, -1]; frames < 6; frames = box.scrollTop === at ? frames + 1 : 0) {
    at = box.scrollTop;
    await new Promise(requestAnimationFrame);
  }
}"""

DRAWN = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
"""What is drawn by an effect comes by a timer after the frame that showed its place: it is there when ours has come."""

NOTHING_WAITS = "() => Object.keys(localStorage).every((key) => !key.startsWith('gatehouse.outbox.'))"
"""No message is on its way, in any tab of the browser."""

WATCH_VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.effectiveDirective}: ${event.blockedURI} ${event.sample}`);
});
"""


class ChatPage:
    """One browser page with the chat in it; `problems` collects console errors, exceptions and CSP violations."""

    def __init__(self, page: Page, base_url: str) -> None:
        self.page = page
        self.base_url = base_url
        self.problems: list[str] = []
        self.responses: list[Response] = []
        page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        page.on("console", self._on_console)
        page.on("response", self._on_response)

    def _on_response(self, response: Response) -> None:
        self.responses.append(response)

    def _on_console(self, message: Any) -> None:
        if message.type not in ("error", "warning"):
            return
        refused = any(f"status of {status}" in message.text for status in EXPECTED_STATUS)
        cut = (
            "net::ERR_INCOMPLETE_CHUNKED_ENCODING" in message.text
            or "net::ERR_INTERNET" in message.text
            or "net::ERR_CONNECTION_RESET" in message.text
        )
        cut = cut or "WebSocket connection to" in message.text
        if not (refused or cut):
            self.problems.append(f"{message.type}: {message.text} ({message.location.get('url')})")

    async def open(self) -> None:
        """Load the chat and wait until it is drawn."""
        await self.page.goto(self.base_url)
        await self.page.locator("main").wait_for(timeout=30_000)

    async def login(self, username: str, password: str) -> None:
        """Fill in and send the login form, whichever of the two places it stands in."""
        await self.page.locator("input[name=username]").fill(username)
        await self.page.locator("input[name=password]").fill(password)
        await self.page.locator("form.login button").click()

    async def enter(self, username: str, password: str) -> None:
        """Open the chat and sign in."""
        await self.open()
        await self.login(username, password)
        await self.composer.wait_for()

    async def ask(self, text: str) -> None:
        """Write `text` into the composer and send it with Enter."""
        await self.composer.fill(text)
        await self.composer.press("Enter")

    async def until(self, answers: str) -> None:
        """Wait until an expression, which may be a promise, is true in the page."""
        async with asyncio.timeout(30):
            while not await self.page.evaluate(answers):
                await asyncio.sleep(0.1)

    async def still(self) -> None:
        """Wait until the thread has come to rest: a scrolling that the browser draws out is over."""
        await self.page.evaluate(AT_REST)

    async def answered(self, count: int = 1) -> Locator:
        """Wait until the `count`-th answer on screen is complete and drawn; returns it."""
        answer = self.answers.nth(count - 1)
        await expect(answer).to_have_attribute("data-status", "done", timeout=30_000)
        await self.page.evaluate(DRAWN)
        await expect(answer.locator(".markdown[aria-busy]")).to_have_count(
            0, timeout=30_000
        )  # a long one is drawn in slices
        return answer

    async def says(self, count: int, text: str) -> None:
        """Wait until the `count`-th answer reads exactly `text`."""
        await expect(self.answers.nth(count - 1).locator(".markdown")).to_have_text(text, timeout=30_000)

    @property
    def composer(self) -> Locator:
        """The field where messages are written."""
        return self.page.locator("#composer-input")

    @property
    def answers(self) -> Locator:
        """The answers on screen, complete or not."""
        return self.page.locator("article.answer")

    @property
    def chats(self) -> Locator:
        """The entries of the list of chats."""
        return self.page.locator(".chat-list .entry")

    def button(self, name: str, **how: Any) -> Locator:
        """A button by its exact name."""
        return self.page.get_by_role("button", name=name, exact=True, **how)

    @property
    def questions(self) -> Locator:
        """The user's own messages on screen."""
        return self.page.locator("article.question .bubble")

    async def check_clean(self) -> None:
        """Raise AssertionError when the page met an error or broke its own content security policy."""
        violations = await self.page.evaluate("() => window.violations")
        assert self.problems == [], self.problems
        assert violations == [], violations


@asynccontextmanager
async def new_page(browser: Browser, base_url: str, **context: Any) -> AsyncIterator[ChatPage]:
    """A page in a fresh context; `context` takes Playwright's options (locale, viewport, color_scheme, …)."""
    options = {"locale": "en-GB", "viewport": {"width": 1280, "height": 800}} | context
    browser_context = await browser.new_context(**options)
    await browser_context.add_init_script(WATCH_VIOLATIONS)
    chat = ChatPage(await browser_context.new_page(), base_url)
    chat.page.set_default_timeout(30_000)
    yield chat
    await chat.check_clean()
    await browser_context.close()
