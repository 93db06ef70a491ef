"""Somebody who sees the page for the first time: the way to an answer, and to what strangers ask for. Clicks are counted."""

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, expect

from gateway.config import PlanSettings
from gateway.store import database_address
from tests.support.engines import FAST, simulator
from tests.support.gateways import UNLIMITED, RunningGateway, gateway
from tests.support.members import OVER_HTTP, PASSWORD, add_user, sign_in
from tests.web.chatpage import ChatPage, new_page

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]

MAX_CLICKS_TO_AN_ANSWER = 3
MAX_CLICKS = 2
OLD = "How do I sort a list?"
WORDS = {
    "en": {"sign in": "Sign in", "send": "Send", "chats": "Show the chats", "thinking": "Thinking", "high": "High"}
    | {"usage": "Usage and limits", "limit": "60 requests a minute"},
    "zh-CN": {"sign in": "登录", "send": "发送", "chats": "显示对话列表", "thinking": "思考强度", "high": "高"}
    | {"usage": "用量与限额", "limit": "每分钟 60 个请求"},
}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
LOOKS: dict[str, dict[str, Any]] = {"desktop": {}, "phone": PHONE}


class Counted:
    """A person who clicks only what is on screen."""

    def __init__(self) -> None:
        self.clicks = 0

    async def click(self, target: Locator) -> None:
        """One click, on what can be seen without scrolling."""
        await expect(target).to_be_in_viewport()
        await target.click()
        self.clicks += 1


@pytest.mark.parametrize("language", WORDS)
@pytest.mark.parametrize("look", LOOKS)
async def test_what_a_stranger_looks_for(browser: Browser, tmp_path: Path, language: str, look: str) -> None:
    """From the login to the first answer in at most 3 clicks; an old chat, harder thinking and the limits in 2.

    On a phone one of these opens the drawer.
    """
    words = WORDS[language]
    plans = {**UNLIMITED, "member": PlanSettings(requests_per_minute=60)}
    async with (
        simulator(knobs=FAST) as engine,
        gateway(engine.url, tmp_path, auth=OVER_HTTP, plans=plans) as gate,
        new_page(browser, gate.url, locale=language, **LOOKS[look]) as page,
    ):
        await _somebody_with_a_past(gate)
        person = Counted()
        await page.open()
        await page.page.locator("input[name=username]").fill("ada")
        await page.page.locator("input[name=password]").fill(PASSWORD)
        await person.click(page.button(words["sign in"]))
        await page.composer.wait_for()
        await page.composer.fill("Hi")
        await person.click(page.button(words["send"]))
        await page.answered()
        print(f"{language}, {look}: from the login to an answer with {person.clicks} clicks")
        assert person.clicks <= MAX_CLICKS_TO_AN_ANSWER

        assert await _clicks_to_think_harder(page, words) <= MAX_CLICKS
        assert await _clicks_to_an_old_chat(page, words, look) <= MAX_CLICKS
        assert await _clicks_to_the_limits(page, words, look) <= MAX_CLICKS


async def _somebody_with_a_past(gate: RunningGateway) -> None:
    await add_user(database_address(gate.config), "ada")
    ada = await sign_in(gate.url, gate.http, "ada")
    await ada.answered(await ada.made(), OLD)


async def _clicks_to_think_harder(page: ChatPage, words: dict[str, str]) -> int:
    """The choice stands beside the message: one click opens it, one chooses."""
    choice = page.page.get_by_label(words["thinking"])
    await expect(choice).to_be_in_viewport()
    async with page.page.expect_request(lambda request: request.method == "PATCH") as change:
        await choice.select_option(words["high"])
    assert (await change.value).post_data_json == {"params": {"reasoning_effort": "high"}}
    return 2


async def _clicks_to_an_old_chat(page: ChatPage, words: dict[str, str], look: str) -> int:
    person = Counted()
    if look == "phone":
        await person.click(page.button(words["chats"]))
    await person.click(page.page.get_by_role("link", name=OLD))
    await expect(page.questions).to_have_text([OLD])
    return person.clicks


async def _clicks_to_the_limits(page: ChatPage, words: dict[str, str], look: str) -> int:
    person = Counted()
    if look == "phone":
        await person.click(page.button(words["chats"]))
    await person.click(page.button(words["usage"]))
    await expect(page.page.get_by_role("dialog", name=words["usage"])).to_contain_text(words["limit"])
    return person.clicks
