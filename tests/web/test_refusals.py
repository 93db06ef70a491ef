"""What the user sees when the gateway says no, or an answer breaks off."""

import asyncio

import pytest
from playwright.async_api import Browser, expect

from tests.web.backend import NAME, PASSWORD, READY, Backend, Refusal, Script
from tests.web.chatpage import ChatPage, new_page

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]


async def test_rate_limit_counts_down_and_keeps_the_draft(page: ChatPage, backend: Backend) -> None:
    """A 429 puts the text back, disables Send with the reason, and frees it when the header's time is over."""
    backend.script.append(Refusal(429, "rate_limit_exceeded", retry_after_ms="2500"))
    await page.enter(NAME, PASSWORD)
    await page.ask("Please")
    notice = page.page.locator(".hold")
    await expect(notice).to_contain_text("Too many requests.")
    await expect(page.composer).to_have_value("Please")
    await expect(page.questions).to_have_count(0)
    await expect(page.button("Send")).to_be_disabled()
    await expect(notice).to_have_count(0, timeout=30_000)
    assert len(backend.requests) == 1
    await page.composer.press("Enter")
    await page.answered()


async def test_rate_limited_message_is_sent_by_itself_when_agreed(page: ChatPage, backend: Backend) -> None:
    """With the box ticked, the same text goes out once the countdown ends."""
    backend.script.append(Refusal(429, "rate_limit_exceeded", retry_after_ms="3000"))
    await page.enter(NAME, PASSWORD)
    await page.ask("Please")
    await page.page.get_by_label("Send by itself then").check()
    await page.answered()
    await expect(page.questions).to_have_text(["Please"])
    assert [body["content"] for body in backend.requests] == ["Please", "Please"]


async def test_refused_second_answer_is_sent_by_itself_when_agreed(page: ChatPage, backend: Backend) -> None:
    """What is no text in the composer waits for the end of the countdown, too, and goes out under a name of its own."""
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    await page.answered()
    backend.script += [Refusal(429, "rate_limit_exceeded", retry_after_ms="3000"), Script(content=["Other words."])]
    await page.button("Another answer").click()
    await page.page.get_by_label("Send by itself then").check()
    await page.says(1, "Other words.")
    names = [body["client_id"] for body in backend.requests]
    assert len(set(names)) == 3, names


async def test_used_up_quota_is_not_retried(page: ChatPage, backend: Backend) -> None:
    """insufficient_quota has no retry; when it resets is shown once, and whose budget it was if it is shared."""
    for whose in ("Your team's", "Your"):
        sentence = f"{whose} budget of 2700 tokens a day is spent. It is renewed in 2h0m0s."
        backend.script.append(Refusal(429, "insufficient_quota", sentence, retry_after_ms="7200000"))
    await page.enter(NAME, PASSWORD)
    await page.ask("Please")
    notice = page.page.locator(".hold")
    await expect(notice).to_contain_text("Your team's budget of 2700 tokens a day is spent.")
    await expect(notice).not_to_contain_text("2h0m0s")
    await expect(notice).to_contain_text("It is renewed in 2\u00a0h.")
    await expect(page.page.get_by_label("Send by itself then")).to_have_count(0)
    await expect(page.composer).to_have_value("Please")
    await expect(page.button("Send")).to_be_disabled()
    await page.button("Try anyway").click()
    await page.composer.press("Enter")
    await expect(notice).to_have_text("Your quota is used up. It is renewed in 2\u00a0h.Try anyway")


async def test_refused_second_answer_leaves_the_first(page: ChatPage, backend: Backend) -> None:
    """When another answer is refused, the one that was there stays on screen."""
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    await page.answered()
    backend.script.append(Refusal(429, "rate_limit_exceeded", retry_after_ms="60000"))
    await page.button("Another answer").click()
    await expect(page.page.locator(".hold")).to_be_visible()
    await page.says(1, "Hello there.")
    await expect(page.composer).to_have_value("")


async def test_error_in_mid_stream_keeps_text_and_offers_retry(page: ChatPage, backend: Backend) -> None:
    """An error frame is shown as one sentence with the request id; the text before it stays beside the next answer.

    What the engine itself says is for who runs it, and the engine's state is asked for at once.
    """
    error = {"message": "EngineCore encountered an issue.", "code": "engine_failed", "status": 502}
    backend.script.append(Script(content=["Half an answer"], error=error))
    await page.enter(NAME, PASSWORD)
    backend.engine = {**READY, "state": "restarting"}
    await page.ask("Hi")
    await expect(page.page.locator(".notice")).to_contain_text("The model is restarting")
    backend.engine = READY
    card = page.page.get_by_role("group", name="Error")
    await expect(card).to_contain_text("The model gave no usable answer. What had arrived is kept.")
    await expect(card).to_contain_text("req-1")
    await expect(card).not_to_contain_text("EngineCore")
    await page.says(1, "Half an answer")
    await card.get_by_role("button", name="Try again").click()
    await page.answered()
    await page.button("Previous answer").click()
    await page.says(1, "Half an answer")


async def test_sentences_in_chinese_have_no_space_between(browser: Browser, backend: Backend) -> None:
    """The reason and what is kept follow each other as they do in print."""
    backend.script.append(Script(content=["一半"], error={"message": "", "code": "engine_failed", "status": 502}))
    async with new_page(browser, backend.url, locale="zh-CN") as page:
        await page.enter(NAME, PASSWORD)
        await page.ask("你好")
        await expect(page.page.locator(".card.error > p").first).to_have_text(
            "模型没有给出可用的回答。已收到的内容已保留。"
        )


async def test_too_long_conversation_can_leave_out_the_oldest(page: ChatPage, backend: Backend) -> None:
    """A full context is explained with its numbers; asked again with the oldest left out, it is answered."""
    details = {"max_tokens": 2048, "prompt_tokens": 2049, "output_tokens": 512}
    backend.script.append(Refusal(400, "context_length_exceeded", "too long", details=details))
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    card = page.page.get_by_role("group", name="Error")
    await expect(card).to_contain_text("longer than the model can read")
    await expect(card).to_contain_text("Prompt 2,049 + answer 512 tokens; 2,048 fit.")
    await card.get_by_role("button", name="Leave out the oldest messages").click()
    await page.answered()
    assert [body.get("fit") for body in backend.requests] == [None, True]
    await expect(page.questions).to_have_text(["Hi"])


async def test_a_refused_message_can_be_discarded(page: ChatPage, backend: Backend) -> None:
    """What the server will never take leaves the line, so that the next message is not stuck behind it."""
    backend.script.append(Refusal(413, "request_too_large"))
    await page.enter(NAME, PASSWORD)
    await page.ask("Too large")
    card = page.page.get_by_role("group", name="Error")
    await expect(card).to_contain_text("This message is too large.")
    await page.ask("Next")
    await expect(page.page.locator(".waiting li")).to_have_count(1)
    await card.get_by_role("button", name="Discard").click()
    await page.answered()
    await expect(page.questions).to_have_text(["Next"])


async def test_loading_engine_shows_progress_and_the_message_goes_out_by_itself(
    page: ChatPage, backend: Backend
) -> None:
    """While the engine loads its phase and percent are shown; a 503 engine_loading is retried until it is ready."""
    backend.engine = {**READY, "state": "starting", "phase": "loading", "percent": 40, "elapsed_s": 12}
    backend.script += [Refusal(503, "engine_loading", retry_after="1")] * 2
    await page.enter(NAME, PASSWORD)
    await expect(page.page.locator(".notice")).to_contain_text("loading weights 40\u00a0%")
    await page.ask("Hi")
    await expect(page.page.locator(".unsent-phase")).to_contain_text("It goes out by itself.")
    backend.engine = READY
    await page.answered()
    await expect(page.page.locator(".notice")).to_have_count(0)


async def test_a_run_that_waits_for_the_engine_tells_its_progress(page: ChatPage, backend: Backend) -> None:
    """`loading` frames move the bar; Stop ends the waiting."""
    loading = {"t": "loading", "state": "starting", "phase": "loading", "percent": 62, "elapsed_s": 9, "eta_s": 5}
    script = Script(before=[loading], hold=asyncio.Event())
    backend.script.append(script)
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    await expect(page.answers.first).to_contain_text("Waiting for the model to load")
    await expect(page.page.locator(".notice")).to_contain_text("loading weights 62\u00a0%")
    await page.button("Stop").click()
    await expect(page.answers.first).to_have_attribute("data-status", "stopped")


async def test_simulated_engine_is_marked(page: ChatPage, backend: Backend) -> None:
    """Nobody can take the simulator for a model: the bar and the greeting say what answers."""
    backend.engine = {**READY, "simulated": True}
    await page.enter(NAME, PASSWORD)
    await expect(page.page.locator(".bar")).to_contain_text("Simulated engine")
    await expect(page.page.locator(".greeting")).to_contain_text("not from a language model")


async def test_session_that_ends_keeps_everything(page: ChatPage, backend: Backend) -> None:
    """4401 lays the login over the chat; draft, line and the answer under way are there after signing in again."""
    hold = asyncio.Event()
    backend.script.append(Script(content=["Half"], hold=hold))
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    await page.says(1, "Half")
    await page.ask("Next in line")
    await page.composer.fill("half a though")
    await backend.expire_sessions()
    dialog = page.page.get_by_role("dialog", name="Your session has ended")
    await expect(dialog).to_be_visible()
    await page.says(1, "Half")
    await page.login(NAME, PASSWORD)
    await expect(dialog).to_have_count(0)
    await expect(page.composer).to_have_value("half a though")
    await expect(page.composer).to_be_focused()
    hold.set()
    await page.answered(2)
    await expect(page.questions).to_have_text(["Hi", "Next in line"])


async def test_on_a_phone_no_keyboard_comes_with_the_login(browser: Browser, backend: Backend) -> None:
    """What lies over the chat does not take the focus there: the keyboard would cover half of it."""
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    async with new_page(browser, backend.url, **phone) as page:
        await page.enter(NAME, PASSWORD)
        await backend.expire_sessions()
        await expect(page.page.get_by_role("dialog", name="Your session has ended")).to_be_visible()
        assert await page.page.evaluate("() => document.activeElement.localName") != "input"
        await page.login(NAME, PASSWORD)
        await expect(page.page.get_by_role("dialog")).to_have_count(0)


async def test_a_new_version_is_offered_quietly(page: ChatPage, backend: Backend) -> None:
    """A line that is greeted by another build offers a reload, and nothing else happens."""
    await page.enter(NAME, PASSWORD)
    await page.composer.fill("half a though")
    backend.build = "0123456789abcdef"
    await backend.close_sockets()
    await expect(page.page.locator(".notice.update")).to_contain_text(
        "There is a new version of this page.", timeout=30_000
    )
    await page.button("Reload").click()
    await expect(page.composer).to_have_value("half a though")
