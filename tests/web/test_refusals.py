"""What the user sees when the gateway says no, or an answer breaks off."""

import asyncio

import pytest
from playwright.async_api import expect

from tests.web.backend import NAME, PASSWORD, READY, Answer, Backend, refusing
from tests.web.chatpage import ChatPage

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]


async def test_rate_limit_counts_down_and_keeps_the_draft(page: ChatPage, backend: Backend) -> None:
    """A 429 puts the text back, disables Send with the reason, and frees it when the header's time is over."""
    backend.script.append(refusing(429, "rate_limit_exceeded", retry_after_ms="2500"))
    await page.enter(NAME, PASSWORD)
    await page.ask("Please")
    notice = page.page.locator(".hold")
    await expect(notice).to_contain_text("Too many requests.")
    await expect(page.composer).to_have_value("Please")
    await expect(page.questions).to_have_count(0)
    await expect(page.page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    await expect(notice).to_have_count(0, timeout=30_000)
    assert len(backend.requests) == 1
    await page.composer.press("Enter")
    await page.answered()


async def test_rate_limited_message_is_sent_by_itself_when_agreed(page: ChatPage, backend: Backend) -> None:
    """With the box ticked, the same text goes out once the countdown ends."""
    backend.script.append(refusing(429, "rate_limit_exceeded", retry_after_ms="3000"))
    await page.enter(NAME, PASSWORD)
    await page.ask("Please")
    await page.page.get_by_label("Send by itself then").check()
    await page.answered()
    await expect(page.questions).to_have_text(["Please"])
    assert [body["messages"][-1]["content"] for body in backend.requests] == ["Please", "Please"]


async def test_used_up_quota_is_not_retried(page: ChatPage, backend: Backend) -> None:
    """insufficient_quota has no countdown and no retry; the gateway's sentence is shown."""
    sentence = "The team's tokens of today are used up until 00:00 UTC."
    backend.script.append(refusing(429, "insufficient_quota", sentence))
    await page.enter(NAME, PASSWORD)
    await page.ask("Please")
    await expect(page.page.locator(".hold")).to_contain_text("until 00:00 UTC")
    await expect(page.page.get_by_label("Send by itself then")).to_have_count(0)
    await expect(page.composer).to_have_value("Please")


async def test_refused_second_answer_leaves_the_first(page: ChatPage, backend: Backend) -> None:
    """When a retry is refused, the answer that was there stays on screen."""
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    await page.answered()
    backend.script.append(refusing(429, "rate_limit_exceeded", retry_after_ms="60000"))
    await page.page.get_by_role("button", name="Another answer").click()
    await expect(page.page.locator(".hold")).to_be_visible()
    await expect(page.answers.first.locator(".markdown")).to_have_text("Hello there.")
    await expect(page.composer).to_have_value("")


async def test_error_in_mid_stream_keeps_text_and_offers_retry(page: ChatPage, backend: Backend) -> None:
    """An error event is shown as one sentence with the request id; the text before it stays."""
    error = {"message": "The engine stopped.", "type": "server_error", "param": None, "code": "engine_failed"}
    backend.script.append(Answer(content=["Half an answer"], error=error))
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    card = page.page.get_by_role("group", name="Error")
    await expect(card).to_contain_text("Something went wrong while answering. What had arrived is kept.")
    await expect(card).to_contain_text("req-1")
    await expect(page.answers.first.locator(".markdown")).to_have_text("Half an answer")
    await card.get_by_role("button", name="Try again").click()
    await page.answered()


async def test_stream_without_its_end_is_an_interrupted_answer(page: ChatPage, backend: Backend) -> None:
    """A connection that closes without [DONE] is never shown as a finished answer."""
    hold = asyncio.Event()
    backend.script.append(Answer(content=["Half an answer"], hold=hold, cut=True))
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    await expect(page.answers.first.locator(".markdown")).to_have_text("Half an answer")
    hold.set()
    await expect(page.page.get_by_role("group", name="Error")).to_contain_text("The answer was cut off before its end.")
    await expect(page.answers.first).to_have_attribute("data-status", "failed")
    await expect(page.answers.first.locator(".markdown")).to_have_text("Half an answer")


@pytest.mark.parametrize("code", ["context_length_exceeded", 400])
async def test_too_long_conversation_offers_a_new_one(page: ChatPage, backend: Backend, code: str | int) -> None:
    """A full context, by its code or in vLLM's own words, is explained and leads to a new chat instead of a retry."""
    sentence = "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049"
    backend.script.append(refusing(400, code, sentence))
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    card = page.page.get_by_role("group", name="Error")
    await expect(card).to_contain_text("longer than the model can read")
    await expect(card).to_contain_text(sentence)
    await card.get_by_role("button", name="New chat").click()
    await expect(page.page.get_by_role("heading", name="Hello, Lin")).to_be_visible()


async def test_loading_engine_shows_progress_and_the_message_goes_out_by_itself(
    page: ChatPage, backend: Backend
) -> None:
    """While the engine loads its phase and percent are shown; a 503 engine_loading is retried until it is ready."""
    backend.engine = {**READY, "state": "starting", "phase": "loading", "percent": 40, "elapsed_s": 12}
    backend.script += [refusing(503, "engine_loading", retry_after="1")] * 2
    await page.enter(NAME, PASSWORD)
    await expect(page.page.locator(".notice")).to_contain_text("loading weights 40\u00a0%")
    await page.ask("Hi")
    await expect(page.answers.first).to_contain_text("Waiting for the model to load")
    backend.engine = READY
    await page.answered()
    await expect(page.page.locator(".notice")).to_have_count(0)


async def test_stop_ends_the_waiting_for_the_engine(page: ChatPage, backend: Backend) -> None:
    """Stop works before the engine is ready, and nothing is asked again afterwards."""
    backend.script.append(refusing(503, "engine_loading", retry_after="3600"))
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    await expect(page.answers.first).to_contain_text("Waiting for the model to load")
    await page.page.get_by_role("button", name="Stop").click()
    await expect(page.answers.first).to_have_attribute("data-status", "stopped")
    assert len(backend.requests) == 1


async def test_simulated_engine_is_marked(page: ChatPage, backend: Backend) -> None:
    """Nobody can take the simulator for a model: the bar and the greeting say what answers."""
    backend.engine = {**READY, "simulated": True}
    await page.enter(NAME, PASSWORD)
    await expect(page.page.locator(".bar")).to_contain_text("Simulated engine")
    await expect(page.page.locator(".greeting")).to_contain_text("not from a language model")


async def test_lost_network_is_said_and_the_chat_comes_back(page: ChatPage, backend: Backend) -> None:
    """Offline, a banner says so and the message fails as unsent; back online, a retry works."""
    await page.enter(NAME, PASSWORD)
    await page.page.context.set_offline(True)
    await expect(page.page.locator(".notice")).to_contain_text("No connection to the server")
    await page.ask("Hi")
    card = page.page.get_by_role("group", name="Error")
    await expect(card).to_contain_text("There is no connection to the server.")
    await page.page.context.set_offline(False)
    await expect(page.page.locator(".notice")).to_have_count(0)
    await card.get_by_role("button", name="Try again").click()
    await page.answered()
