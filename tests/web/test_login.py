"""Signing in and out, and the session's end under an open chat."""

import pytest
from playwright.async_api import expect

from tests.web.backend import NAME, PASSWORD, Backend, Refusal
from tests.web.chatpage import ChatPage

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]


async def test_right_password_opens_the_chat(page: ChatPage) -> None:
    """After a correct login the composer is there and the greeting uses the display name."""
    await page.enter(NAME, PASSWORD)
    await expect(page.page.get_by_role("heading", name="Hello, Lin")).to_be_visible()


async def test_wrong_password_says_so_once_for_all_reasons(page: ChatPage) -> None:
    """A refused login shows one sentence and leaves the user name in place."""
    await page.open()
    await page.login(NAME, "wrong")
    await expect(page.page.get_by_role("alert")).to_have_text("This user name and password do not match.")
    await expect(page.page.get_by_label("User name")).to_have_value(NAME)


async def test_backed_off_login_counts_down(page: ChatPage, backend: Backend) -> None:
    """A 429 disables the button for the time that the header names, then allows another try."""
    backend.login_refusals.append(Refusal(429, "login_backoff", retry_after="2"))
    await page.open()
    await page.login(NAME, PASSWORD)
    button = page.page.get_by_role("button", name="Sign in")
    await expect(page.page.get_by_role("alert")).to_contain_text("Too many attempts.")
    await expect(button).to_be_disabled()
    await expect(button).to_be_enabled(timeout=20_000)
    await button.click()
    await page.composer.wait_for()


async def test_signing_out_ends_the_session_and_forgets_the_transcript(page: ChatPage, backend: Backend) -> None:
    """After signing out nothing of the conversation is left in the tab, and the server knows no session."""
    await page.enter(NAME, PASSWORD)
    await page.ask("A secret question")
    await page.answered()
    await page.page.get_by_role("button", name="Account of Lin").click()
    await page.button("Sign out").click()
    await page.page.locator("input[name=password]").wait_for()
    assert backend.sessions == set()
    await expect(page.page.get_by_text("A secret question")).to_have_count(0)
    assert "secret" not in await page.page.evaluate("() => JSON.stringify([{...localStorage}, {...sessionStorage}])")


async def test_a_message_refused_for_its_session_goes_out_after_signing_in(page: ChatPage, backend: Backend) -> None:
    """A 401 while sending lays the login over the chat; after it the message goes out by itself, once."""
    await page.enter(NAME, PASSWORD)
    await page.ask("First")
    await page.answered()
    backend.sessions.clear()  # the line stays open: the refusal comes with the message
    await page.ask("A long and careful question")
    await expect(page.page.get_by_role("heading", name="Your session has ended")).to_be_visible()
    await page.page.keyboard.press("Escape")
    await page.login(NAME, PASSWORD)
    await expect(page.page.get_by_role("dialog")).to_have_count(0)
    await page.answered(2)
    await expect(page.questions).to_have_text(["First", "A long and careful question"])
    assert [body["content"] for body in backend.requests] == ["First", "A long and careful question"]


async def test_the_page_holds_no_credential(page: ChatPage) -> None:
    """The cookie is HttpOnly, and neither storage holds a token or the password."""
    await page.enter(NAME, PASSWORD)
    kept = await page.page.evaluate("() => JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}])")
    assert "session-" not in kept
    assert PASSWORD not in kept
    cookies = await page.page.context.cookies()
    assert [(cookie["name"], cookie["httpOnly"], cookie["secure"]) for cookie in cookies] == [
        ("__Host-session", True, True)
    ]
