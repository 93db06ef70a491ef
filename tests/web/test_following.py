"""The view follows a growing answer until the reader turns back, however little, and again when they return to its end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, expect

from tests.web.backend import NAME, PASSWORD, Backend, Script
from tests.web.chatpage import ChatPage, new_page
from tests.web.conftest import CHROMIUM_FLAGS, chromium_path

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
LINES = 60  # more than a screen
STEP = 20  # px: how a wheel or a trackpad begins, and less than what counts as near the end
SLOP = 15  # px
TOP = "(box) => box.scrollTop"
LEFT = "(box) => box.scrollHeight - box.scrollTop - box.clientHeight"

Move = Callable[[ChatPage, int], Awaitable[None]]
"""Moves the view as a person does, about so many pixels, upwards when they are negative."""


async def wheel(page: ChatPage, by: int) -> None:
    """The wheel over the thread."""
    await page.page.locator(".scroller").hover()
    await page.page.mouse.wheel(0, by)


async def point_at(page: ChatPage, what: Locator) -> None:
    """Move the mouse to its corner. `hover` would bring it into view if it could not be reached at once."""
    box = await what.bounding_box()
    assert box is not None
    await page.page.mouse.move(box["x"] + 10, box["y"] + 10)


async def key(page: ChatPage, by: int) -> None:
    """An arrow a little way, or as far as it goes."""
    await page.page.locator(".scroller").press("ArrowUp" if by < 0 else "End")


async def finger(page: ChatPage, by: int) -> None:
    """A finger drags the page the other way, over and over if it is far; the first pixels of a touch move nothing."""
    cdp = await page.page.context.new_cdp_session(page.page)
    for distance in [300] * (abs(by) // 300) + [abs(by) % 300 + SLOP]:
        start = 600 if by > 0 else 200
        for moved in range(0, distance + 1, 5):
            at = {"x": 200, "y": start - moved if by > 0 else start + moved}
            await cdp.send(
                "Input.dispatchTouchEvent", {"type": "touchMove" if moved else "touchStart", "touchPoints": [at]}
            )
        await cdp.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


async def scroll_bar(page: ChatPage, by: int) -> None:
    """The bar at the side is dragged by a few pixels, which are more of the thread, or down as far as it goes."""
    box = await page.page.locator(".scroller").bounding_box()
    assert box is not None
    middle = await place(page, "(box) => (box.scrollTop + box.clientHeight / 2) / box.scrollHeight")
    x, y = box["x"] + box["width"] - 5, box["y"] + box["height"] * middle
    await page.page.mouse.move(x, y)
    await page.page.mouse.down()
    await page.page.mouse.move(x, y - 4 if by < 0 else y + 400, steps=4)
    await page.page.mouse.up()


@asynccontextmanager
async def with_scroll_bars(browser: Browser) -> AsyncIterator[Browser]:
    """A browser that shows them, as people's do."""
    shown = await browser.browser_type.launch(
        executable_path=chromium_path(), args=CHROMIUM_FLAGS, ignore_default_args=["--hide-scrollbars"]
    )
    yield shown
    await shown.close()


async def place(page: ChatPage, expression: str) -> float:
    """A number about the scroller."""
    return float(await page.page.locator(".scroller").evaluate(expression))


async def grow(page: ChatPage, backend: Backend) -> None:
    """The answer gets some more lines, which are then on screen."""
    [run] = backend.chats.runs.values()
    text = "And a line\n\n" * 5
    run.message["content"] += text
    shown = page.answers.last.locator(".markdown p")
    before = await shown.count()
    await run.say(t="c", text=text)
    await expect(shown).to_have_count(before + 5)
    await page.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


async def turns_back_and_returns(page: ChatPage, backend: Backend, move: Move) -> None:
    """The whole way: the end is followed, left by a step, found where it was left, and followed again."""
    hold = asyncio.Event()
    backend.script.append(Script(content=["A line\n\n"] * LINES, hold=hold))
    await page.enter(NAME, PASSWORD)
    await page.composer.fill("Count")
    await page.button("Send").click()
    await expect(page.answers.last.locator(".markdown p")).to_have_count(LINES)
    await grow(page, backend)
    assert await place(page, LEFT) < 2

    end = await place(page, TOP)
    await move(page, -STEP)
    to_end = page.page.locator(".to-end")
    await expect(to_end).to_be_visible()
    await page.until(f"() => document.querySelector('.scroller').scrollTop < {end}")
    await page.still()
    read = await place(page, TOP)
    for _ in range(3):
        await grow(page, backend)
    assert await place(page, TOP) == read
    await expect(to_end).to_be_visible()

    await move(page, 1200)
    await expect(to_end).to_have_count(0)
    await grow(page, backend)
    assert await place(page, LEFT) < 2
    hold.set()
    await page.answered()


@pytest.mark.parametrize("move", [wheel, key])
async def test_a_few_pixels_up_leave_the_end(page: ChatPage, backend: Backend, move: Move) -> None:
    """Who turns the wheel by a notch of a trackpad, or presses an arrow once, is not brought back while the answer grows."""
    await turns_back_and_returns(page, backend, move)


async def test_a_finger_leaves_the_end(browser: Browser, backend: Backend) -> None:
    """A small drag is enough on a phone, too."""
    async with new_page(browser, backend.url, **PHONE) as page:
        await turns_back_and_returns(page, backend, finger)


async def test_the_scroll_bar_leaves_the_end(browser: Browser, backend: Backend) -> None:
    """So does the scroll bar, by which one comes back to the end as well."""
    async with with_scroll_bars(browser) as shown, new_page(shown, backend.url) as page:
        await turns_back_and_returns(page, backend, scroll_bar)


async def test_the_button_leads_back_to_the_end(page: ChatPage, backend: Backend) -> None:
    """A press on the arrow shows the end, which is followed from then on; what is read does not move by the arrow itself."""
    hold = asyncio.Event()
    backend.script.append(Script(content=["A line\n\n"] * LINES, hold=hold))
    await page.enter(NAME, PASSWORD)
    await page.ask("Count")
    await expect(page.answers.last.locator(".markdown p")).to_have_count(LINES)
    height = await place(page, "(box) => box.scrollHeight")
    await wheel(page, -300)
    to_end = page.page.locator(".to-end")
    await expect(to_end).to_be_visible()
    assert await place(page, "(box) => box.scrollHeight") == height
    await to_end.click()
    await expect(to_end).to_have_count(0)
    await page.still()
    assert await place(page, LEFT) < 2
    await grow(page, backend)
    assert await place(page, LEFT) < 2
    hold.set()


async def test_a_thread_that_fits_has_no_end_to_leave(page: ChatPage) -> None:
    """Where nothing can be scrolled, the wheel leaves nothing, and no way back is offered."""
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    await page.answered()
    await wheel(page, -STEP)
    await key(page, -STEP)
    await expect(page.page.locator(".to-end")).to_have_count(0)


async def test_what_scrolls_inside_a_message_is_not_the_thread(page: ChatPage, backend: Backend) -> None:
    """A wheel that moves the text of an attached file leaves the end of the thread alone, and so does one that goes sideways."""
    await page.enter(NAME, PASSWORD)
    file = {"name": "long.txt", "mimeType": "text/plain", "buffer": b"a line\n" * 200}
    await page.page.locator("input[type=file]").set_input_files([file])
    backend.script.append(Script(content=["A line\n\n"] * LINES))
    await page.ask("First")
    await page.answered()
    await page.page.locator("input[type=file]").set_input_files([file])
    await page.ask("Second")
    await page.answered(2)
    text = page.page.locator(".attachment").last
    await page.still()
    await text.locator("summary").click()
    await text.locator("pre").evaluate("(pre) => pre.scrollTo(0, 200)")
    await page.still()
    await point_at(page, text.locator("pre"))
    await page.page.mouse.wheel(0, -STEP)
    await page.until(f"() => [...document.querySelectorAll('.attachment pre')].at(-1).scrollTop === 200 - {STEP}")
    await expect(page.page.locator(".to-end")).to_have_count(0)
    await point_at(page, page.page.locator(".scroller"))  # beside the messages
    await page.page.mouse.wheel(-100, -5)
    await page.still()
    await expect(page.page.locator(".to-end")).to_have_count(0)


GROW_BEFORE_THE_SCROLL_IS_SEEN = """async (pixels) => {
  const list = document.querySelector(".thread");
  const add = (height) => {
    const more = document.createElement("div");
    more.style.height = height + "px";
    list.append(more);
  };
  const frame = () => new Promise(requestAnimationFrame);
  add(pixels);
  await new Promise((resized) => {
    const observer = new ResizeObserver(() => {  // after the page's own, which has led to the end
      observer.disconnect();
      add(300);
      resized();
    });
    requestAnimationFrame(() => (observer.observe(list), add(10)));
  });
  for (let frames = 0; frames < 4; frames += 1) await frame();
}"""


async def test_what_grows_in_leaps_is_followed(page: ChatPage, backend: Backend) -> None:
    """Half a screen more, before the browser has told of the last step to the end, is no move of the reader's.

    The end may lie between two pixels, where no view can be set to exactly.
    """
    backend.script.append(Script(content=["A line\n\n"] * LINES))
    await page.enter(NAME, PASSWORD)
    await page.ask("Count")
    await page.answered()
    for tenths in range(10):
        await page.page.evaluate(GROW_BEFORE_THE_SCROLL_IS_SEEN, 10 + tenths / 10)
        await expect(page.page.locator(".to-end")).to_have_count(0)
        assert await place(page, LEFT) < 2
