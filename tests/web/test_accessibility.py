"""Readable and operable by everybody: axe's rules in each part of the page, keyboard, zoom, what is spoken."""

import asyncio
from functools import cache
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from playwright.async_api import Browser, expect

from tests.web.backend import NAME, PASSWORD, Backend, Refusal, Script
from tests.web.chatpage import ChatPage, new_page

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SERIOUS = ("serious", "critical")
MARKDOWN = "# Title\n\nText with `code`, $x^2$ and [a link](https://example.com).\n\n```python\nprint('x')  # y\n```\n\n|a|b|\n|-|-|\n|1|2|\n"


@cache
def rules() -> str:
    """The source of axe-core."""
    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8")


async def findings(page: ChatPage) -> list[str]:
    """What axe finds serious or critical in the page as it is now."""
    if not await page.page.evaluate("() => 'axe' in window"):
        await page.page.evaluate(rules())
    result: dict[str, Any] = await page.page.evaluate(
        "(tags) => axe.run(document, { runOnly: tags, resultTypes: ['violations'] })", RULES
    )
    return [
        f"{found['id']} ({found['impact']}): {node['html'][:160]} – {node['failureSummary'][:200]}"
        for found in result["violations"]
        if found["impact"] in SERIOUS
        for node in found["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_serious_finding_of_axe(browser: Browser, backend: Backend, scheme: Any) -> None:
    """Login, greeting, answers of every kind, error, line of messages, menu, panel and pages over the chat."""
    backend.user = {**backend.user, "admin": True}
    async with new_page(browser, backend.url, color_scheme=scheme) as page:
        await page.open()
        await page.page.locator("input[name=password]").wait_for()
        assert await findings(page) == []
        await page.login(NAME, PASSWORD)
        await page.composer.wait_for()
        assert await findings(page) == []
        backend.script += [
            Script(reasoning=["Thoughts"], content=[MARKDOWN]),
            Script(content=["Half"], error={"code": "engine_failed", "message": "It stopped."}),
            Script(content=["Cut"], finish="length"),
            Script(before=[{"t": "queued", "ahead": 3, "eta_s": 8}], hold=asyncio.Event()),
        ]
        await page.ask("Hi")
        await expect((await page.answered()).locator(".katex")).to_be_visible()
        await page.ask("Fail")
        await page.page.get_by_role("group", name="Error").wait_for()
        await page.ask("Length")
        await page.button("Continue").wait_for()
        await page.ask("Wait")
        await page.answers.nth(3).get_by_text("3 ahead").wait_for()
        await page.ask("Next")
        assert await findings(page) == []
        await page.button("Parameters").click()
        await page.page.get_by_label("System prompt").wait_for()
        await page.page.get_by_role("button", name="Account of Lin").click()
        assert await findings(page) == []
        await page.button("Settings").click()
        await page.page.get_by_role("dialog", name="Settings").wait_for()
        assert await findings(page) == []
        await page.page.keyboard.press("Escape")
        backend.script.append(Refusal(429, "insufficient_quota", "Used up.", retry_after_ms="7200000"))
        await page.button("Stop").click()
        await page.page.locator(".hold").wait_for()
        assert await findings(page) == []


async def test_by_keyboard_alone(page: ChatPage) -> None:
    """Ask, reach the answer's actions and the entry's menu with Tab; `?` lists the shortcuts; they can be switched off."""
    await page.enter(NAME, PASSWORD)
    await page.page.keyboard.type("Hi")
    await page.page.keyboard.press("Enter")
    await page.answered()
    names = []
    for _ in range(12):
        await page.page.keyboard.press("Shift+Tab")
        names.append(
            await page.page.evaluate(
                "() => document.activeElement.ariaLabel ?? document.activeElement.textContent.trim()"
            )
        )
    assert [name for name in ("Copy", "Another answer", "Actions for “Hi”") if name not in names] == [], names
    await page.page.keyboard.press("?")
    dialog = page.page.get_by_role("dialog", name="Keyboard shortcuts")
    await expect(dialog).to_contain_text("New chat")
    await page.page.keyboard.press("Escape")
    await page.page.get_by_role("button", name="Account of Lin").click()
    await page.button("Settings").click()
    await page.page.get_by_label("Keyboard shortcuts").uncheck()
    await page.page.keyboard.press("Escape")
    await page.page.locator(".scroller").focus()
    await page.page.keyboard.press("?")
    await expect(dialog).to_have_count(0)


async def test_what_a_screen_reader_hears(page: ChatPage, backend: Backend) -> None:
    """The thread is a silent log; a polite status tells the phases and the end, never the tokens."""
    hold = asyncio.Event()
    before = [{"t": "queued", "ahead": 3, "eta_s": None}, {"t": "started"}]
    backend.script.append(Script(before=before, reasoning=["Hm."], content=["One ", "two."], pause=0.4, hold=hold))
    await page.enter(NAME, PASSWORD)
    await page.page.evaluate(
        """() => {
          window.heard = [];
          const status = [...document.querySelectorAll("[role=status][aria-live=polite]")].at(-1);
          new MutationObserver(() => window.heard.push(status.textContent.trim())).observe(status, { childList: true, characterData: true, subtree: true });
        }"""
    )
    await page.ask("Hi")
    await page.says(1, "One two.")
    hold.set()
    await page.answered()
    await expect(page.page.locator("[role=status][aria-live=polite]").last).to_have_text("Answer ready")
    heard = await page.page.evaluate("() => window.heard")
    wanted = ["Thinking", "Answering", "Answer ready"]
    assert [text for text in heard if text in wanted] == wanted, heard
    log = page.page.get_by_role("log")
    await expect(log).to_have_attribute("aria-live", "off")
    await expect(log.get_by_role("article", name="You")).to_have_count(1)
    await expect(log.get_by_role("article", name="Assistant")).to_have_count(1)


async def test_a_long_answer_is_not_silence(page: ChatPage, backend: Backend) -> None:
    """Who cannot see it grow hears every seven seconds or so that it does."""
    await page.page.clock.install()
    hold = asyncio.Event()
    backend.script.append(Script(content=["One ", "two."], hold=hold))
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    await page.page.clock.run_for(1000)
    await page.says(1, "One two.")
    status = page.page.locator("[role=status][aria-live=polite]").last
    await expect(status).to_have_text("Answering")
    await page.page.clock.run_for(7000)
    await expect(status).to_have_text("Still answering")
    hold.set()


async def test_at_320_pixels_and_twice_the_size(browser: Browser, backend: Backend) -> None:
    """WCAG 1.4.4 and 1.4.10: at 320 px, and at 640 px with text of 200 %, nothing scrolls sideways but code and tables."""
    backend.script += [Script(content=[MARKDOWN + "\n" + "longword" * 40])] * 2
    for width, size in ((320, 16), (640, 32)):
        async with new_page(browser, backend.url, viewport={"width": width, "height": 700}) as page:
            await page.enter(NAME, PASSWORD)
            await page.page.evaluate("(size) => { document.documentElement.style.fontSize = `${size}px`; }", size)
            await page.ask("Hi")
            await page.answered()
            assert await page.page.evaluate("() => document.documentElement.scrollWidth") <= width
            wide = await page.page.locator(".thread, .composer, .bar").evaluate_all(
                "(nodes) => nodes.filter((node) => node.scrollWidth > node.clientWidth + 1).map((node) => node.className)"
            )
            assert wide == []
