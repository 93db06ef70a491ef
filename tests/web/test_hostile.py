"""Hostile texts, wherever one can stand: no script runs, nothing is fetched, the policy is not even violated."""

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.web.backend import NAME, PASSWORD, Backend, Refusal, Script
from tests.web.chatpage import ChatPage, new_page
from tests.web.hostile import AWAY, PAYLOADS

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]

MIN_PAYLOADS = 150
DANGEROUS = (
    "script:not([src]), iframe, img, object, embed, video, audio, form:not([class]), base, meta[http-equiv], style"
)
MARKS = """() => [...document.querySelectorAll("article *, .entry *, .chat-title, .card *")].flatMap((node) =>
  [...node.attributes].filter(({ name }) => name.startsWith("on")).map(({ name }) => `${node.tagName} ${name}`))"""


@pytest_asyncio.fixture(loop_scope="session")
async def watched(page: ChatPage, backend: Backend) -> AsyncIterator[ChatPage]:
    """A page whose every request is noted; afterwards nothing has run, and nothing left the origin."""
    asked: list[str] = []
    page.page.on("request", lambda request: asked.append(request.url))
    await page.enter(NAME, PASSWORD)
    yield page
    assert await page.page.evaluate("() => window.pwned") is None
    assert await page.page.evaluate(MARKS) == []
    assert await page.page.locator(DANGEROUS).count() == 0
    for link in await page.page.locator("article a[href]").all():
        assert re.match(r"https?://|mailto:", await link.get_attribute("href") or ""), await link.evaluate(
            "a => a.outerHTML"
        )
    assert [url for url in asked if not url.startswith((backend.url, "blob:"))] == []
    assert {url for url in asked if AWAY in url} == set()


async def test_in_everything_that_is_stored(watched: ChatPage, backend: Backend) -> None:
    """Over 150 payloads as question, answer, reasoning, error, title and model name, all drawn at once."""
    assert len(set(PAYLOADS)) >= MIN_PAYLOADS
    print(f"{len(set(PAYLOADS))} payloads")
    for start in range(0, len(PAYLOADS), 25):
        chat = backend.chats.new(PAYLOADS[start][:200])
        parent = None
        for payload in PAYLOADS[start : start + 25]:
            parent = chat.add("user", parent, content=payload)["id"]
            error = {"code": payload, "message": payload, "request_id": payload, "details": None}
            fields = {"content": payload, "reasoning": payload, "error": error, "status": "failed", "model": payload}
            parent = chat.add("assistant", parent, **fields)["id"]
    backend.engine = {
        **backend.engine,
        "model": PAYLOADS[0],
        "state": "failed",
        "reason": PAYLOADS[1],
        "phase": PAYLOADS[2],
    }
    await watched.page.reload()
    for chat in backend.chats.chats.values():
        await watched.page.locator(f'a[href="#/c/{chat.row["id"]}"]').click()
        await expect(watched.answers.last).to_contain_text("window.pwned")
        await expect(watched.page.locator("article.answer .reasoning")).to_have_count(len(chat.messages) // 2)


async def test_while_it_streams(watched: ChatPage, backend: Backend) -> None:
    """The same texts in pieces, in one answer, with formulas drawn and code coloured on the way."""
    text = "\n\n".join(PAYLOADS)
    pieces = [text[at : at + 97] for at in range(0, len(text), 97)]
    backend.script.append(Script(reasoning=pieces[:40], content=pieces, pause=0.002))
    await watched.ask("Go")
    await watched.answered()


async def test_in_what_the_user_writes_searches_and_attaches(watched: ChatPage, backend: Backend) -> None:
    """Questions, waiting messages, names of files, renamed chats, search and refusals are text."""
    evil = PAYLOADS[27]
    file = {"name": "<img src=x onerror=window.pwned=1>.txt", "mimeType": "text/plain", "buffer": evil.encode()}
    await watched.page.locator("input[type=file]").set_input_files([file])
    await watched.ask(evil)
    await watched.answered()
    await watched.page.locator(".attachment summary").click()
    await watched.page.locator("#search").fill("window.pwned")
    await expect(watched.page.locator(".hits mark").first).to_be_visible()
    await watched.page.locator("#search").fill("<img src=x")
    await watched.page.locator("#search").fill("")
    await watched.chats.first.hover()
    await watched.chats.first.get_by_role("button").click()
    await watched.button("Rename").click()
    await watched.page.locator(".rename").fill(evil)
    await watched.page.locator(".rename").press("Enter")
    await expect(watched.page.locator(".chat-title")).to_have_text(evil)
    backend.script.append(Refusal(400, evil, evil))
    await watched.ask(evil)
    await expect(watched.page.get_by_role("group", name="Error")).to_contain_text(evil)


async def test_policy_is_in_force(browser: Browser, backend: Backend) -> None:
    """An inline script and a string given to innerHTML are both refused by the browser."""
    async with new_page(browser, backend.url) as page:
        await page.open()
        refused = await page.page.evaluate(
            """() => {
              const script = document.createElement("script");
              script.append("window.pwned = 1");
              document.body.append(script);
              try { document.body.innerHTML = "<p>x</p>"; } catch (error) { return error.name; }
            }"""
        )
        assert refused == "TypeError"
        assert await page.page.evaluate("() => window.pwned") is None
        await page.page.evaluate("() => { window.violations.length = 0; }")
        page.problems.clear()  # those two were meant
