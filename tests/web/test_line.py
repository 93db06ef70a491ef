"""The line to the gateway: it breaks, falls silent, is refused, and nothing is lost or told twice."""

import asyncio
import random

import pytest
from playwright.async_api import Browser, expect

from tests.web.backend import NAME, PASSWORD, Backend, Script
from tests.web.chatpage import NOTHING_WAITS, ChatPage, new_page

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]

WORDS = [f"w{number} " for number in range(400)]
TEXT = "".join(WORDS).strip()


async def test_a_line_that_breaks_again_and_again(page: ChatPage, backend: Backend) -> None:
    """Closed at random moments of an answer, the line comes back by itself; each word is there once, in its place."""
    backend.script.append(Script(content=WORDS, pause=0.01))
    await page.enter(NAME, PASSWORD)
    await page.ask("Count")
    source = random.Random(1)
    for _ in range(4):
        await asyncio.sleep(source.uniform(0.1, 0.9))
        await backend.close_sockets()
    await page.answered()
    await page.says(1, TEXT)


async def test_a_silent_line_is_a_broken_one(page: ChatPage, backend: Backend) -> None:
    """After 25 s without a frame the line is made anew; as long as that fails, a banner says so."""
    await page.page.clock.install()
    hold = asyncio.Event()
    backend.script.append(Script(content=["one ", "two"], hold=hold))
    await page.enter(NAME, PASSWORD)
    await page.ask("Count")
    await page.page.clock.run_for(1000)
    await page.says(1, "one two")
    backend.muted = True  # from now on every line is open and silent
    await page.page.clock.run_for(26_000)
    await page.page.clock.run_for(28_000)
    await expect(page.page.locator(".notice")).to_contain_text("No connection")
    hold.set()
    backend.muted = False
    for _ in range(6):
        await page.page.clock.run_for(10_000)
        await asyncio.sleep(0.1)
    await page.answered()
    await page.says(1, "one two")
    await expect(page.page.locator(".notice")).to_have_count(0)


async def test_offline_and_back(page: ChatPage, backend: Backend) -> None:
    """Offline, a banner says so and messages wait; back online they go out in their order, once each."""
    await page.enter(NAME, PASSWORD)
    await page.page.context.set_offline(True)
    await expect(page.page.locator(".notice")).to_contain_text("No connection")
    await page.ask("First")
    await page.ask("Second")
    await expect(page.page.locator(".waiting")).to_contain_text("Sent once the connection is back")
    await page.page.context.set_offline(False)
    await page.answered(2)
    await expect(page.questions).to_have_text(["First", "Second"])
    await expect(page.page.locator(".notice")).to_have_count(0)
    assert [body["content"] for body in backend.requests] == ["First", "Second"]


@pytest.mark.parametrize("head", [False, True])
async def test_an_answer_lost_on_its_way_is_asked_for_again_under_the_same_name(
    page: ChatPage, backend: Backend, head: bool
) -> None:
    """When the 202 never arrives, or only its beginning does, the message is sent again with its client_id: one run, one question."""
    await page.enter(NAME, PASSWORD)
    await page.ask("First")
    await page.answered()
    seen = 0

    async def lose_the_first(route):  # type: ignore[no-untyped-def]
        nonlocal seen
        seen += 1
        if seen > 1:
            return await route.continue_()
        await route.fetch()  # the gateway gets it
        if head:
            await route.fulfill(status=202, content_type="application/json", body='{"chat": {')
        else:
            await route.abort("connectionreset")
        return None

    await page.page.route("**/runs", lose_the_first)
    await page.ask("Second")
    await page.answered(2)
    await page.until(NOTHING_WAITS)
    await expect(page.questions).to_have_text(["First", "Second"])
    assert seen == 2
    assert len(backend.requests) == 2


async def test_without_websockets_events_are_the_second_way(page: ChatPage, backend: Backend) -> None:
    """Where no upgrade gets through, answers stream as server-sent events, and a reload goes on with them."""
    backend.upgrades = False
    hold = asyncio.Event()
    backend.script.append(Script(content=["one ", "two"], hold=hold))
    await page.enter(NAME, PASSWORD)
    await page.ask("Count")
    await page.says(1, "one two")
    await page.page.reload()
    await page.says(1, "one two")
    hold.set()
    await page.answered()
    await page.says(1, "one two")


async def test_a_run_that_is_gone_is_read_as_stored(page: ChatPage, backend: Backend) -> None:
    """Frames that are no longer kept: the stored message is shown; one still unfinished is interrupted, with a retry."""
    hold = asyncio.Event()
    backend.script.append(Script(content=["The first half"], hold=hold))
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    await page.says(1, "The first half")
    [run] = backend.chats.runs.values()
    run.forgotten = True
    await page.page.reload()
    await expect(page.answers.first).to_contain_text("The answer was cut off before its end.")
    await page.says(1, "The first half")
    await expect(page.button("Another answer")).to_have_count(0)  # one button for it is enough
    await page.button("Try again").click()
    await page.says(1, "Hello there.")
    hold.set()


async def test_eight_tabs_stream_at_once(browser: Browser, backend: Backend) -> None:
    """One line for each tab: eight answers grow at the same time, and a ninth tab still loads."""
    hold = asyncio.Event()
    async with new_page(browser, backend.url) as first:
        await first.enter(NAME, PASSWORD)
        tabs = [first]
        for _ in range(7):
            tab = ChatPage(await first.page.context.new_page(), backend.url)
            await tab.open()
            tabs.append(tab)
        for number, tab in enumerate(tabs):
            backend.script.append(Script(content=[f"tab {number}"], hold=hold))
            await tab.ask("Go")
            await tab.says(1, f"tab {number}")
        ninth = ChatPage(await first.page.context.new_page(), backend.url)
        await ninth.open()
        await expect(ninth.page.locator(".entry .pulse")).to_have_count(8)
        hold.set()
        for tab in tabs:
            await tab.answered()
            await tab.check_clean()


async def test_two_tabs_are_in_step(browser: Browser, backend: Backend) -> None:
    """What one tab asks, renames and deletes, the other shows without being touched, the answer as it grows."""
    hold = asyncio.Event()
    async with new_page(browser, backend.url) as one:
        await one.enter(NAME, PASSWORD)
        other = ChatPage(await one.page.context.new_page(), backend.url)
        await other.open()
        await one.ask("First")
        await one.answered()
        await other.chats.first.locator("a").click()
        await other.says(1, "Hello there.")
        backend.script.append(Script(content=["growing"], hold=hold))
        await one.ask("Second")
        await other.says(2, "growing")
        await expect(other.questions).to_have_text(["First", "Second"])
        hold.set()
        await other.answered(2)
        await one.chats.first.hover()
        await one.chats.first.get_by_role("button").click()
        await one.button("Rename").click()
        await one.page.locator(".rename").fill("Renamed")
        await one.page.locator(".rename").press("Enter")
        await expect(other.chats.first).to_contain_text("Renamed")
        await expect(other.page.locator(".chat-title")).to_have_text("Renamed")
        await other.check_clean()
