"""A page that is reloaded while its chat begins: whatever the gateway has by then, the chat is on screen, once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Route, expect

from tests.web.backend import NAME, PASSWORD, Backend, Script
from tests.web.chatpage import NOTHING_WAITS, ChatPage

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]

CHAT, RUN = "**/api/chats", "**/api/chats/*/runs"


@asynccontextmanager
async def held(page: ChatPage, pattern: str, *, arrives: bool, times: int = 1) -> AsyncIterator[asyncio.Semaphore]:
    """The first POSTs to `pattern`, so many `times`, are never answered; the semaphore is released as each is sent.

    `arrives` says whether the gateway gets them nevertheless. Later ones go through: they may come at any moment.
    """
    sent, left = asyncio.Semaphore(0), times

    async def hold(route: Route) -> None:
        nonlocal left
        if route.request.method != "POST" or left == 0:
            return await route.fallback()
        left -= 1
        if arrives:
            await route.fetch()
        sent.release()
        return None

    await page.page.route(pattern, hold)
    yield sent
    await page.page.unroute(pattern, hold)


async def is_asked_once(page: ChatPage, backend: Backend) -> None:
    """The question and its answer are on screen and at the gateway, each once, and the address names their chat."""
    await page.answered()
    await page.says(1, "Hello there.")
    await expect(page.questions).to_have_text(["First"])
    await expect(page.page.locator(".waiting")).to_have_count(0)
    [chat] = backend.chats.chats.values()
    assert page.page.url == f"{backend.url}/#/c/{chat.row['id']}"
    assert [message["content"] for message in chat.messages] == ["First", "Hello there."]
    assert len(backend.requests) == 1


@pytest.mark.parametrize("pattern", [CHAT, RUN])
@pytest.mark.parametrize("arrives", [False, True])
async def test_reloaded_before_the_gateway_answers(
    page: ChatPage, backend: Backend, pattern: str, arrives: bool
) -> None:
    """Whether the chat's or the run's POST arrived or not, after the reload the chat is on screen and is asked once."""
    await page.enter(NAME, PASSWORD)
    async with held(page, pattern, arrives=arrives) as sent:
        await page.ask("First")
        await sent.acquire()
        await page.page.reload(wait_until="commit")
    await is_asked_once(page, backend)


@pytest.mark.parametrize("pattern", [CHAT, RUN])
async def test_reloaded_twice(page: ChatPage, backend: Backend, pattern: str) -> None:
    """The page that takes over is reloaded, too, before anything was answered."""
    await page.enter(NAME, PASSWORD)
    async with held(page, pattern, arrives=False, times=2) as sent:
        await page.ask("First")
        for _ in range(2):
            await sent.acquire()
            await page.page.reload(wait_until="commit")
    await is_asked_once(page, backend)


async def test_reloaded_before_the_first_word(page: ChatPage, backend: Backend) -> None:
    """The run has begun and has said nothing: after the reload its answer grows on screen."""
    hold = asyncio.Event()
    backend.script.append(Script(before=(), content=(), hold=hold))
    await page.enter(NAME, PASSWORD)
    await page.ask("First")
    await expect(page.answers).to_have_attribute("data-status", "running")
    await page.page.reload()
    await expect(page.answers).to_have_attribute("data-status", "running")
    hold.set()
    await page.answered()


async def test_question_whose_taking_was_not_heard_is_not_shown_twice(page: ChatPage, backend: Backend) -> None:
    """While the answer runs, the question is in the thread and not in the line of next messages, too."""
    hold = asyncio.Event()
    backend.script.append(Script(content=["Hello ", "there."], hold=hold))
    await page.enter(NAME, PASSWORD)
    async with held(page, RUN, arrives=True) as sent:
        await page.ask("First")
        await sent.acquire()
        await page.page.reload(wait_until="commit")
    await page.says(1, "Hello there.")
    await page.until(NOTHING_WAITS)
    await expect(page.page.locator(".waiting")).to_have_count(0)
    hold.set()
    await is_asked_once(page, backend)


async def test_question_is_not_shown_twice_when_only_its_answer_is_heard(page: ChatPage, backend: Backend) -> None:
    """The gateway has taken the question and answered it, and the POST that brought it is still open."""
    await page.enter(NAME, PASSWORD)
    await page.ask("Zero")
    await page.answered()
    async with held(page, RUN, arrives=True) as sent:
        await page.ask("First")
        await sent.acquire()
        await page.answered(2)
        await expect(page.questions).to_have_text(["Zero", "First"])
        await page.page.reload(wait_until="commit")
    await page.until(NOTHING_WAITS)
    await expect(page.questions).to_have_text(["Zero", "First"])


async def test_message_that_another_tab_has_delivered_does_not_come_back(page: ChatPage, backend: Backend) -> None:
    """One tab hears that its own attempt failed after the other's has brought the message to the gateway."""
    await page.enter(NAME, PASSWORD)
    await page.ask("Zero")
    await page.answered()
    other = ChatPage(await page.page.context.new_page(), backend.url)
    await other.open()
    await other.composer.wait_for()
    attempts: asyncio.Queue[Route] = asyncio.Queue()

    async def keep(route: Route) -> None:
        attempts.put_nowait(route)

    await page.page.route(RUN, keep)
    await page.ask("First")
    attempt = await attempts.get()
    await backend.chats.ended(2)
    await page.until(NOTHING_WAITS)
    await page.answered(2)
    async with page.page.expect_event("requestfailed"):
        await attempt.abort("connectionreset")
    assert await page.page.evaluate(f"() => new Promise(requestAnimationFrame).then({NOTHING_WAITS})")
    await expect(page.questions).to_have_text(["Zero", "First"])
    await other.check_clean()


async def test_answers_that_a_leaving_page_hears(page: ChatPage, backend: Backend) -> None:
    """The next page is on its way, the old one still gets its answers: its address is no longer heard, the chat is."""
    await page.enter(NAME, PASSWORD)
    leaving, told = asyncio.Event(), asyncio.Event()
    page.page.on("framenavigated", lambda frame: told.set() if "#/c/" in frame.url else None)

    async def late(route: Route) -> None:
        leaving.set()
        await told.wait()
        await route.continue_()

    async def wait(route: Route) -> None:
        if route.request.method == "POST":
            await leaving.wait()
        await route.continue_()

    await page.page.route(CHAT, wait)
    await page.page.route(f"{backend.url}/", late)
    await page.ask("First")
    await page.page.evaluate("() => void setTimeout(() => location.reload())")
    await leaving.wait()
    await is_asked_once(page, backend)


async def test_new_chat_stays_new(page: ChatPage, backend: Backend) -> None:
    """Who leaves the chat for a new one finds that after a reload, and no chat is made for it."""
    await page.enter(NAME, PASSWORD)
    await page.ask("First")
    await page.answered()
    await page.button("New chat").click()
    await page.page.reload()
    await expect(page.chats).to_have_count(1)
    await expect(page.page.locator(".greeting")).to_be_visible()
    assert len(backend.chats.chats) == 1


async def test_another_tab_sends_it_meanwhile(page: ChatPage, backend: Backend) -> None:
    """Every tab of a browser sends what waits: the one that was reloaded shows the chat that the other has made."""
    await page.enter(NAME, PASSWORD)
    other = ChatPage(await page.page.context.new_page(), backend.url)
    await other.open()
    await other.composer.wait_for()
    loads = asyncio.Event()

    async def late(route: Route) -> None:
        await loads.wait()
        await route.continue_()

    async with held(page, CHAT, arrives=False) as sent:
        await page.ask("First")
        await sent.acquire()
        await page.page.route("**/auth/session", late)
        await page.page.reload(wait_until="commit")
    await backend.chats.ended(1)
    await other.until(NOTHING_WAITS)
    loads.set()
    await is_asked_once(page, backend)
    await expect(other.page.locator(".greeting")).to_be_visible()
    await other.check_clean()


async def test_reload_while_the_gateway_is_away_deletes_nothing(page: ChatPage) -> None:
    """A page that cannot learn who is signed in keeps what was written; signing out does not."""
    await page.enter(NAME, PASSWORD)
    await page.composer.fill("A long thought")
    await page.page.route("**/auth/session", lambda route: route.fulfill(status=502, body="Bad gateway"))
    await page.page.reload()
    await page.button("Try again").wait_for()
    await page.page.unroute("**/auth/session")
    await page.button("Try again").click()
    await expect(page.composer).to_have_value("A long thought")


async def test_reload_after_the_session_has_ended_keeps_the_draft(page: ChatPage, backend: Backend) -> None:
    """Who has to sign in again finds what they wrote."""
    await page.enter(NAME, PASSWORD)
    await page.composer.fill("A long thought")
    await backend.expire_sessions()
    await page.page.reload()
    await page.login(NAME, PASSWORD)
    await expect(page.composer).to_have_value("A long thought")


async def test_reload_while_a_waiting_message_is_edited(page: ChatPage, backend: Backend) -> None:
    """A message in the line that was being edited leaves it nevertheless when it is its turn."""
    hold = asyncio.Event()
    backend.script.append(Script(content=["Hello ", "there."], hold=hold))
    await page.enter(NAME, PASSWORD)
    await page.ask("First")
    await page.says(1, "Hello there.")
    await page.ask("Second")
    await page.button("Edit the waiting message").click()
    await page.page.reload()
    await page.says(1, "Hello there.")
    hold.set()
    await page.answered(2)
    await expect(page.questions).to_have_text(["First", "Second"])
