"""The list of chats: found again, renamed, pinned, deleted and brought back; drafts; a long conversation."""

import asyncio
import time

import pytest
from playwright.async_api import Browser, Route, expect

from tests.web.backend import NAME, PASSWORD, Backend
from tests.web.chatpage import ChatPage, new_page
from tests.web.chats import Chat
from tests.web.measure import document, processor_time

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]

LONG = 500
MAX_JUMP_PX = 40
WHEEL_PX = 500
MAX_OPENING_MS = 300
PARAGRAPH = "A sentence of **average** length, with `code` and 中文。 " * 4


SCROLL_UP = """async (box, most) => {
  const jumps = [];
  for (let step = 0; step < 600 && (box.scrollTop > 0 || box.querySelector(".older")); step += 1) {
    const at = (y) => document.elementFromPoint(innerWidth / 2, y)?.closest(".part > *, .bubble");
    const seen = [0, 20, 40, 60, 80].map((y) => at(innerHeight / 2 + y)).find(Boolean);
    const before = seen?.getBoundingClientRect().top;
    const by = Math.min(most, box.scrollTop);
    box.scrollBy(0, -by);
    for (let frame = 0; frame < 3; frame += 1) await new Promise(requestAnimationFrame);
    if (seen) jumps.push(Math.abs(seen.getBoundingClientRect().top - before - by));
  }
  return jumps;
}"""
"""Scrolls up by so many px at a time; how far what was in the middle is from where it should be then, for each step."""

READ = """(box) => {
  const at = (y) => document.elementFromPoint(innerWidth / 2, y)?.closest(".part > *, .bubble");
  window.seen = [0, 20, 40, 60, 80].map((y) => at(innerHeight / 2 + y)).find(Boolean);
  return [window.seen?.getBoundingClientRect().top, box.scrollTop];
}"""
"""Chooses what is read, in the middle: where it is, and how much is above the view."""


def fill(chat: Chat, count: int) -> None:
    """Add questions and answers, `count` messages in all."""
    parent = None
    for number in range(count // 2):
        parent = chat.add("user", parent, content=f"Question {number}")["id"]
        parent = chat.add("assistant", parent, content=f"Answer {number}. {PARAGRAPH}\n\n- one\n- two", finish="stop")[
            "id"
        ]


async def test_chats_are_grouped_and_found_again(page: ChatPage, backend: Backend) -> None:
    """Pinned, today, yesterday and earlier; a chat opens with a click, by its address, and by the way back."""
    now = time.time()
    for title, age, pinned in (("Alpha", 0, False), ("Beta", 1, False), ("Gamma", 9, False), ("Delta", 9, True)):
        chat = backend.chats.new(title, pinned=pinned)
        fill(chat, 2)
        chat.row["updated_at"] = now - age * 86_400
    await page.enter(NAME, PASSWORD)
    sections = page.page.locator(".chat-list section")
    await expect(sections).to_have_text(["PinnedDelta", "TodayAlpha", "YesterdayBeta", "EarlierGamma"])
    await page.page.get_by_role("link", name="Gamma").click()
    await expect(page.questions).to_have_text(["Question 0"])
    await expect(page.page).to_have_title("Gamma · Gatehouse")
    await page.page.get_by_role("link", name="Beta").click()
    await expect(page.page.locator(".chat-title")).to_have_text("Beta")
    await page.page.go_back()
    await expect(page.page.locator(".chat-title")).to_have_text("Gamma")
    await page.page.reload()
    await expect(page.page.locator(".chat-title")).to_have_text("Gamma")


async def test_rename_pin_delete_and_undo(page: ChatPage, backend: Backend) -> None:
    """Each from the entry's menu; a deleted chat can be brought back at once."""
    chat = backend.chats.new("First name")
    fill(chat, 2)
    await page.enter(NAME, PASSWORD)

    async def choose(name: str) -> None:
        await page.chats.first.hover()
        await page.chats.first.get_by_role("button").click()
        await page.button(name).click()

    await choose("Rename")
    await page.page.locator(".rename").fill("Second name")
    await page.page.locator(".rename").press("Enter")
    await expect(page.chats).to_have_text(["Second name"])
    await choose("Pin")
    await expect(page.page.locator(".chat-list section")).to_have_text(["PinnedSecond name"])
    await choose("Delete")
    await expect(page.chats).to_have_count(0)
    assert chat.row["deleted"]
    await page.button("Undo").click()
    await expect(page.chats).to_have_text(["Second name"])
    async with page.page.expect_download() as download:
        await choose("Save as Markdown")
    assert "format=markdown" in (await download.value).url


async def test_search_leads_to_the_message(page: ChatPage, backend: Backend) -> None:
    """A hit shows where the words stand; a click opens the chat at that message, however far up it is."""
    chat = backend.chats.new("Long one")
    fill(chat, 200)
    chat.messages[7]["content"] = "The needle. " + chat.messages[7]["content"]
    fill(backend.chats.new("Other"), 2)
    await page.enter(NAME, PASSWORD)
    await page.page.keyboard.press("Escape")
    await page.page.locator(".scroller").focus()
    await page.page.keyboard.press("/")
    await page.page.keyboard.type("answer needle")
    hit = page.page.locator(".hits .entry")
    await expect(hit).to_have_count(1)
    await expect(hit.locator("mark")).to_have_text(["needle", "Answer"])
    await hit.locator("a").click()
    found = page.page.locator("article", has_text="needle")
    await expect(found).to_be_in_viewport()


async def test_each_chat_keeps_its_draft(page: ChatPage, backend: Backend) -> None:
    """What was begun in one chat is there when one comes back, after a reload and in a new chat, too."""
    fill(backend.chats.new("One"), 2)
    fill(backend.chats.new("Two"), 2)
    await page.enter(NAME, PASSWORD)
    await page.composer.fill("for a new one")
    await page.page.get_by_role("link", name="One").click()
    await expect(page.composer).to_have_value("")
    await page.composer.fill("for one")
    await page.page.get_by_role("link", name="Two").click()
    await expect(page.composer).to_have_value("")
    await page.page.reload()
    await page.page.get_by_role("link", name="One").click()
    await expect(page.composer).to_have_value("for one")
    await page.button("New chat").click()
    await expect(page.composer).to_have_value("for a new one")


async def test_nothing_of_a_user_stays_for_the_next(page: ChatPage) -> None:
    """Signing out deletes drafts and waiting messages from the browser."""
    await page.enter(NAME, PASSWORD)
    await page.composer.fill("private")
    await page.page.get_by_role("button", name="Account of Lin").click()
    await page.button("Sign out").click()
    await page.page.locator("input[name=password]").wait_for()
    kept = await page.page.evaluate("() => Object.keys(localStorage).filter((key) => key !== 'gatehouse.settings')")
    assert kept == []
    await page.login(NAME, PASSWORD)
    await expect(page.composer).to_have_value("")


@pytest.mark.parametrize("late", [0, 0.3])
async def test_a_long_conversation_opens_at_its_end(page: ChatPage, backend: Backend, late: float) -> None:
    """500 messages: the newest page is drawn within 300 ms of the page's work; scrolling up brings the rest, without jumps.

    Also when the older ones come `late` (seconds), to a reader who waits for them at the top.
    """
    chat = backend.chats.new("Long")
    fill(chat, LONG)

    async def come_late(route: Route) -> None:
        await asyncio.sleep(late)
        await route.continue_()

    await page.page.route("**/api/chats/*before=*", come_late)
    await page.enter(NAME, PASSWORD)
    work = await processor_time(page)
    before = await work()
    took = await page.page.evaluate(
        """async (last) => {
          const start = performance.now();
          document.querySelector(".chat-list .entry a").click();
          for (;;) {
            await new Promise(requestAnimationFrame);
            if (document.getElementById(last)) break;
          }
          await new Promise(requestAnimationFrame); // the frame with it is painted
          return performance.now() - start;
        }""",
        chat.messages[-1]["id"],
    )
    worked = await work() - before
    print(f"a conversation of {LONG} messages is on screen after {took:.0f} ms, {worked:.0f} ms of them at work")
    assert worked <= MAX_OPENING_MS
    await expect(page.answers.last).to_be_in_viewport()
    jumps = await page.page.locator(".scroller").evaluate(SCROLL_UP, 400)
    print(f"scrolled up in {len(jumps)} steps; the largest jump of what was read: {max(jumps):.0f} px")
    await expect(page.page.locator("article.message")).to_have_count(LONG, timeout=30_000)
    assert max(jumps) <= MAX_JUMP_PX


async def test_long_answers_do_not_jump(page: ChatPage, backend: Backend) -> None:
    """The wheel, turned up over answers of 5 KB of code and tables that were never on screen, moves what is read as far as it says."""
    chat = backend.chats.new("Long")
    fill(chat, 12)
    for message in chat.messages[1::2]:
        message["content"] = document(5000)
    await page.enter(NAME, PASSWORD)
    await page.page.locator(".chat-list .entry a").first.click()
    await page.answered(6)
    await expect(page.page.locator(".markdown[aria-busy]")).to_have_count(0)
    scroller = page.page.locator(".scroller")
    await scroller.hover()
    jumps = []
    while True:
        before, above = await scroller.evaluate(READ)
        if above < WHEEL_PX:
            break
        await page.page.mouse.wheel(0, -WHEEL_PX)
        await page.until(f"() => document.querySelector('.scroller').scrollTop !== {above}")
        await page.still()
        if before is not None:
            jumps.append(
                abs(await page.page.evaluate("() => window.seen.getBoundingClientRect().top") - before - WHEEL_PX)
            )
    print(f"turned the wheel {len(jumps)} times; the largest jump of what was read: {max(jumps):.0f} px")
    assert len(jumps) > 10
    assert max(jumps) <= MAX_JUMP_PX


async def test_long_answers_are_drawn_from_the_newest_on(page: ChatPage, backend: Backend) -> None:
    """When a chat is opened what is in sight is drawn first; a chat that is left meanwhile holds nothing up."""
    chats = [backend.chats.new("One"), backend.chats.new("Two")]
    for chat in chats:
        fill(chat, 12)
        for message in chat.messages[1::2]:
            message["content"] = document(6000)
    await page.enter(NAME, PASSWORD)
    await page.page.evaluate(
        """() => {
          window.drawn = [];
          const take = (changes) => window.drawn.push(...changes.map(({ target }) => target).filter((node) => node.ariaBusy === null));
          new MutationObserver(take).observe(document.body, { subtree: true, attributeFilter: ["aria-busy"] });
        }"""
    )
    await page.page.get_by_role("link", name="One").click()
    await expect(page.page.locator(".markdown[aria-busy]").first).to_be_attached()
    await page.page.get_by_role("link", name="Two").click()
    await page.answered(6)
    await expect(page.page.locator(".markdown[aria-busy]")).to_have_count(0)
    drawn = await page.page.evaluate(
        "() => window.drawn.filter((node) => node.isConnected).map((node) => node.closest('article').id)"
    )
    assert drawn == [message["id"] for message in reversed(chats[1].messages[1::2])]


async def test_drawers_on_a_phone(browser: Browser, backend: Backend) -> None:
    """Below 768 px chats and parameters are drawers; nothing is wider than the screen; targets are 44 px."""
    fill(backend.chats.new("One"), 2)
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    async with new_page(browser, backend.url, **phone) as page:
        await page.enter(NAME, PASSWORD)
        await page.button("Show the chats").tap()
        drawer = page.page.get_by_role("dialog", name="Chats")
        await drawer.get_by_role("link", name="One").tap()
        await expect(drawer).to_have_count(0)
        await expect(page.questions).to_have_text(["Question 0"])
        await page.button("Parameters").tap()
        await expect(page.page.get_by_label("System prompt")).to_be_visible()
        await page.page.keyboard.press("Escape")
        await expect(page.page.get_by_label("System prompt")).to_have_count(0)
        small = await page.page.evaluate(
            """() => [...document.querySelectorAll("button, select, summary, .composer textarea")]
              .filter((node) => node.checkVisibility())
              .map((node) => [node.ariaLabel ?? node.textContent, node.getBoundingClientRect()])
              .filter(([, { width, height }]) => width < 44 || height < 40)
              .map(([name, { width, height }]) => `${name}: ${width} x ${height}`)"""
        )
        assert small == []
        assert await page.page.evaluate("() => document.documentElement.scrollWidth") == 390
