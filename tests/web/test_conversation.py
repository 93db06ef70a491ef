"""A conversation: streaming, Stop, reload, thinking, what Enter means, and the other language."""

import asyncio

import pytest
from playwright.async_api import Browser, Route, expect

from tests.web.backend import NAME, PASSWORD, Backend, Script
from tests.web.chatpage import ChatPage, new_page

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]


async def test_streams_an_answer_with_its_numbers(page: ChatPage, backend: Backend) -> None:
    """The text appears while the stream is open; afterwards TTFT, speed and tokens stand below it."""
    hold = asyncio.Event()
    backend.script.append(Script(content=["One ", "two ", "three."], pause=0.01, hold=hold))
    await page.enter(NAME, PASSWORD)
    await page.ask("Count")
    await expect(page.answers.first.locator(".markdown")).to_have_text("One two three.")
    await expect(page.answers.first).to_have_attribute("aria-busy", "true")
    hold.set()
    answer = await page.answered()
    await expect(answer.locator(".stats")).to_contain_text("first token after")
    await expect(answer.locator(".stats")).to_contain_text("12 in, 34 out")
    await expect(page.page.get_by_role("status")).to_have_text("Answer ready")
    [request] = backend.requests
    assert (request["parent"], request["content"]) == (None, "Count")


async def test_a_question_follows_the_answer_before_it(page: ChatPage, backend: Backend) -> None:
    """The second question is asked in the same chat, with the first answer as its parent."""
    await page.enter(NAME, PASSWORD)
    await page.ask("2 + 2?")
    await page.answered()
    await page.ask("And 3 + 3?")
    await page.answered(2)
    [chat] = backend.chats.chats.values()
    assert [(m["role"], m["parent"]) for m in chat.messages[2:]] == [
        ("user", chat.messages[1]["id"]),
        ("assistant", chat.messages[2]["id"]),
    ]


async def test_stop_keeps_the_text_and_ends_the_run(page: ChatPage, backend: Backend) -> None:
    """Stop ends the run, and what had arrived stays."""
    answer = Script(content=["Once upon ", "a time"], hold=asyncio.Event())
    backend.script.append(answer)
    await page.enter(NAME, PASSWORD)
    await page.ask("Tell a story")
    await expect(page.answers.first.locator(".markdown")).to_have_text("Once upon a time")
    await page.button("Stop").click()
    await asyncio.wait_for(answer.stopped.wait(), 30)
    await expect(page.answers.first).to_have_attribute("data-status", "stopped")
    await expect(page.answers.first.locator(".markdown")).to_have_text("Once upon a time")
    await expect(page.page.get_by_role("button", name="Send")).to_be_visible()


async def test_thinking_is_shown_then_folded(page: ChatPage, backend: Backend) -> None:
    """A block is open while the model thinks; it folds when the answer begins, with its time."""
    hold = asyncio.Event()
    backend.script += [
        Script(reasoning=["First\nsecond"], hold=hold),
        Script(reasoning=["First\nsecond"], content=["Done."]),
    ]
    await page.enter(NAME, PASSWORD)
    await page.ask("Think")
    lines = page.answers.first.locator(".reasoning-lines > div")
    await expect(lines).to_have_text(["First", "second"])
    await expect(lines.first).to_be_visible()
    hold.set()
    await page.answered()
    await page.ask("Think again")
    answer = await page.answered(2)
    await expect(answer.locator("summary")).to_contain_text("Thought for")
    await expect(answer.locator(".reasoning-lines > div").first).to_be_hidden()
    await answer.locator("summary").click()
    await expect(answer.locator(".reasoning-lines > div").first).to_be_visible()


async def test_thinking_that_uses_the_whole_limit_is_explained(page: ChatPage, backend: Backend) -> None:
    """finish_reason length without content offers a larger limit, which the next request then asks for."""
    backend.script.append(Script(reasoning=["Long thoughts"], finish="length"))
    await page.enter(NAME, PASSWORD)
    await page.ask("Hard question")
    await expect(page.answers.first).to_contain_text("The thinking used up the whole length limit")
    await page.page.get_by_role("button", name="Again with 2,048 tokens").click()
    await page.answered()
    assert backend.requests[1]["params"]["max_tokens"] == 2048
    await expect(page.answers.first).to_contain_text("2/2")


async def test_reload_keeps_transcript_and_draft(page: ChatPage) -> None:
    """After a reload the messages, the thinking and the unsent draft are there again."""
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    answer = await page.answered()
    before = await answer.locator(".markdown").inner_html()
    await page.composer.fill("half a though")
    await page.page.reload()
    await expect(page.questions).to_have_text(["Hi"])
    assert await page.answers.first.locator(".markdown").inner_html() == before
    await expect(page.composer).to_have_value("half a though")


async def test_reload_in_mid_answer_goes_on(page: ChatPage, backend: Backend) -> None:
    """An answer that is on its way is still on its way after a reload: no text twice, none missing."""
    hold = asyncio.Event()
    backend.script.append(Script(content=["one ", "two ", "three "], hold=hold))
    await page.enter(NAME, PASSWORD)
    await page.ask("Count")
    await page.says(1, "one two three")
    await page.page.reload()
    await page.says(1, "one two three")
    await expect(page.button("Stop")).to_be_visible()
    hold.set()
    await page.answered()
    await page.says(1, "one two three")
    await expect(page.questions).to_have_text(["Count"])


async def test_continue_goes_on_in_the_same_text(page: ChatPage, backend: Backend) -> None:
    """An answer that the limit cut in the middle of a fence is continued inside that fence."""
    backend.script += [
        Script(content=["```js\nlet a = 1;\n"], finish="length"),
        Script(content=["let b = 2;\n```\nDone."]),
    ]
    await page.enter(NAME, PASSWORD)
    await page.ask("Code")
    await page.button("Continue").click()
    answer = page.answers.first
    await expect(answer.locator("pre")).to_have_text("let a = 1;\nlet b = 2;\n")
    await expect(answer.locator(".part > p")).to_have_text("Done.")
    await expect(page.answers).to_have_count(1)
    assert backend.requests[1]["parent"] == backend.chats.runs[backend.requests[1]["parent"]].message["id"]
    assert "content" not in backend.requests[1]


async def test_an_edited_question_is_a_branch(page: ChatPage, backend: Backend) -> None:
    """Editing asks beside the first wording; ‹2/2› leads back to it, and the choice is told to the server."""
    await page.enter(NAME, PASSWORD)
    await page.ask("Frist")
    await page.answered()
    await page.questions.first.hover()
    await page.button("Edit").click()
    field = page.page.get_by_role("textbox", name="Edit")
    await expect(field).to_be_focused()  # by which its cursor is put at the end
    await field.fill("First")
    backend.script.append(Script(content=["Second answer."]))
    await field.press("Enter")
    await expect(page.composer).to_be_focused()
    await page.says(1, "Second answer.")
    await expect(page.questions).to_have_text(["First"])
    await page.answered()
    await page.button("Previous wording").click()
    await expect(page.questions).to_have_text(["Frist"])
    await page.says(1, "Hello there.")
    [chat] = backend.chats.chats.values()
    async with asyncio.timeout(30):
        while chat.row["head"] != chat.messages[1]["id"]:
            await asyncio.sleep(0.02)


async def test_messages_wait_for_their_turn(page: ChatPage, backend: Backend) -> None:
    """During an answer Enter puts messages in a line: edited, taken out, and sent one at a time."""
    hold = asyncio.Event()
    backend.script += [Script(content=["One."], hold=hold), Script(content=["Two."]), Script(content=["Three."])]
    await page.enter(NAME, PASSWORD)
    await page.ask("First")
    await page.says(1, "One.")
    for text in ("Secnod", "never", "Third"):
        await page.ask(text)
    waiting = page.page.locator(".waiting li")
    await expect(waiting).to_have_count(3)
    await waiting.nth(1).get_by_role("button", name="Remove").click()
    await waiting.nth(0).get_by_role("button", name="Edit").click()
    await waiting.nth(0).get_by_role("textbox").fill("Second")
    await page.page.reload()  # what waits survives
    await page.says(1, "One.")  # by which the page knows that the first has to wait
    await expect(waiting).to_have_count(2)
    await waiting.nth(0).get_by_role("button", name="Edit").click()
    await waiting.nth(0).get_by_role("textbox").fill("Second")
    await waiting.nth(0).get_by_role("textbox").press("Enter")
    assert len(backend.requests) == 1
    hold.set()
    await page.says(3, "Three.")
    await expect(page.questions).to_have_text(["First", "Second", "Third"])
    await expect(waiting).to_have_count(0)


async def test_what_was_read_before_and_arrives_after_is_old(page: ChatPage, backend: Backend) -> None:
    """Of the state of a chat the newest counts, whichever way it came: what waits goes on from the answer before it."""
    one, two, arrives, read = (asyncio.Event() for _ in range(4))
    backend.script += [
        Script(content=["One."], hold=one),
        Script(content=["Two."], hold=two),
        Script(content=["Three."]),
    ]
    await page.enter(NAME, PASSWORD)
    await page.ask("First")
    await page.says(1, "One.")
    await page.ask("Second")
    await page.ask("Third")

    async def late(route: Route) -> None:
        answer = await route.fetch()
        read.set()
        await arrives.wait()
        await route.fulfill(response=answer)

    await page.page.route("**/api/chats/*&since=*", late, times=1)
    [chat] = backend.chats.chats.values()
    chat.touch()
    await backend.chats.tell(chat)
    await asyncio.wait_for(read.wait(), 30)
    one.set()
    await page.says(2, "Two.")
    async with page.page.expect_event("requestfinished", lambda request: "since=" in request.url):
        arrives.set()
    await page.still()
    await expect(page.questions).to_have_text(["First", "Second"])
    two.set()
    await page.says(3, "Three.")
    await expect(page.questions).to_have_text(["First", "Second", "Third"])


async def test_a_place_in_the_line_is_shown(page: ChatPage, backend: Backend) -> None:
    """Queued runs say how many are ahead and how long about; cancelling there ends the run."""
    script = Script(before=[{"t": "queued", "ahead": 3, "eta_s": 8}], hold=asyncio.Event())
    backend.script.append(script)
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    await expect(page.answers.first).to_contain_text("3 ahead of you · about 8\u00a0s")
    await expect(page.page.get_by_role("status").last).to_have_text("Queued, 3 ahead")
    await page.answers.first.get_by_role("button", name="Cancel").click()
    await asyncio.wait_for(script.stopped.wait(), 30)
    await expect(page.answers.first).to_have_attribute("data-status", "stopped")


async def test_text_files_go_along(page: ChatPage, backend: Backend) -> None:
    """A text file is part of the message and shown as a file; what is no text, or too large, is refused with the reason."""
    await page.enter(NAME, PASSWORD)
    files = [
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": "甲\n</file>\n乙".encode()},
        {"name": "image.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\x1a\n\xff"},
        {"name": "large.txt", "mimeType": "text/plain", "buffer": b"x" * 300_000},
    ]
    await page.page.locator("input[type=file]").set_input_files(files)
    await expect(page.page.locator(".files li")).to_have_text(["notes.txt"])
    await expect(page.page.locator(".toast")).to_contain_text(["image.png is not a text file", "large.txt is larger"])
    await page.ask("What is in it?")
    await page.answered()
    assert backend.requests[0]["content"] == (
        '<file name="notes.txt" length="11">\n甲\n</file>\n乙\n</file>\n\nWhat is in it?'
    )
    await expect(page.page.locator(".attachment summary")).to_contain_text("notes.txt")
    await expect(page.questions).to_have_text(["What is in it?"])


async def test_enter_that_confirms_a_candidate_does_not_send(page: ChatPage, backend: Backend) -> None:
    """During composition Enter belongs to the input method (keyCode 229); the next Enter sends."""
    await page.enter(NAME, PASSWORD)
    await page.composer.focus()
    cdp = await page.page.context.new_cdp_session(page.page)
    await cdp.send("Input.imeSetComposition", {"text": "nihao", "selectionStart": 5, "selectionEnd": 5})
    for kind in ("rawKeyDown", "keyUp"):
        await cdp.send(
            "Input.dispatchKeyEvent", {"type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 229}
        )
    assert backend.requests == []
    await cdp.send("Input.insertText", {"text": "你好"})
    await expect(page.composer).to_have_value("你好")
    assert backend.requests == []
    await page.composer.press("Enter")
    await page.answered()
    assert backend.requests[0]["content"] == "你好"


async def test_on_a_touch_screen_enter_is_a_new_line(browser: Browser, backend: Backend) -> None:
    """A phone's Enter does not send; the button does, and the page is never wider than the screen."""
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    async with new_page(browser, backend.url, **phone) as page:
        backend.engine = {**backend.engine, "simulated": True}
        await page.enter(NAME, PASSWORD)
        await expect(page.composer).not_to_be_focused()  # the keyboard would cover half the page unasked
        await page.composer.press_sequentially("one")
        await page.composer.press("Enter")
        await page.composer.press_sequentially("two")
        await expect(page.composer).to_have_value("one\ntwo")
        assert backend.requests == []
        await page.page.get_by_role("button", name="Send").tap()
        await page.answered()
        width = "() => document.documentElement.scrollWidth"
        assert await page.page.evaluate(width) == 390


async def test_chinese_browser_gets_a_chinese_page(browser: Browser, backend: Backend) -> None:
    """The language follows the browser, and can be switched without losing anything."""
    async with new_page(browser, backend.url, locale="zh-CN") as page:
        await page.open()
        await expect(page.page.get_by_role("button", name="登录")).to_be_visible()
        await page.login(NAME, PASSWORD)
        await page.ask("你好")
        await page.answered()
        assert await page.page.evaluate("() => document.documentElement.lang") == "zh-CN"
        await page.page.get_by_role("button", name="Lin 的账户").click()
        await page.page.get_by_text("English").click()
        await expect(page.page.get_by_role("button", name="Sign out")).to_be_visible()
        await expect(page.questions).to_have_text(["你好"])
