"""The account page and signing in elsewhere, in a real browser before a real gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from gateway.store import database_address
from tests.support.engines import FAST, simulator
from tests.support.gateways import RunningGateway, gateway
from tests.support.members import OVER_HTTP, PASSWORD, add_user
from tests.web.chatpage import ChatPage, new_page

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]

NEW_PASSWORD = "a longer and better passphrase"
MAX_ACCOUNT_FILES = 1


@asynccontextmanager
async def running(tmp_path: Path, **auth: Any) -> AsyncIterator[RunningGateway]:
    """A gateway with the user ada."""
    async with simulator(knobs=FAST) as engine, gateway(engine.url, tmp_path, auth={**OVER_HTTP, **auth}) as gate:
        await add_user(database_address(gate.config), "ada", display_name="Ada")
        yield gate


async def opened(page: ChatPage, name: str = "Account, sessions, tokens") -> None:
    await page.page.locator("[popovertarget=account]").click()
    await page.page.get_by_role("button", name=name).click()
    await page.page.locator("dialog.account").wait_for()


async def test_a_token_from_the_page(browser: Browser, tmp_path: Path) -> None:
    """A member makes a token, sees it once with its limits, uses it, and revokes it; the page loads when first opened."""
    async with running(tmp_path) as gate, new_page(browser, gate.url) as page:
        await page.enter("ada", PASSWORD)
        assert not [answer for answer in page.responses if "/view/account" in answer.url]
        await opened(page)
        assert len([answer for answer in page.responses if "/view/account" in answer.url]) == MAX_ACCOUNT_FILES
        await page.page.get_by_label("Valid for so many days").fill("7")
        await page.page.get_by_role("button", name="Make a token").click()
        token = await page.page.locator("code.secret").inner_text()
        headers = {"Authorization": f"Bearer {token}"}
        async with gate.http.get(gate.url + "/v1/models", headers=headers) as answer:
            assert answer.status == 200
        entry = page.page.locator(".entries li[data-state=active]")
        await expect(entry).to_contain_text("api")
        await entry.get_by_role("button", name="Revoke").click()
        await expect(page.page.locator(".entries li[data-state=revoked]")).to_contain_text("revoked")
        async with gate.http.get(gate.url + "/v1/models", headers=headers) as answer:
            assert answer.status == 401


async def test_a_new_password_from_the_page(browser: Browser, tmp_path: Path) -> None:
    """A wrong current password is said; the right one changes it, and this browser stays signed in."""
    async with running(tmp_path) as gate, new_page(browser, gate.url) as page:
        await page.enter("ada", PASSWORD)
        await opened(page)
        form = page.page.locator("dialog.account form.login")
        for current, said in (("not the password", "The current password is wrong."), (PASSWORD, "is changed")):
            await form.get_by_label("Current password").fill(current)
            await form.get_by_label("New password").fill(NEW_PASSWORD)
            await form.get_by_role("button").click()
            await expect(form).to_contain_text(said)
        await page.page.reload()
        await page.composer.wait_for()
        async with new_page(browser, gate.url) as other:
            await other.enter("ada", NEW_PASSWORD)


async def test_sessions_on_the_page(browser: Browser, tmp_path: Path) -> None:
    """One browser, known by its name and system, signs the other out; in Chinese too."""
    async with (
        running(tmp_path) as gate,
        new_page(browser, gate.url, locale="zh-CN") as here,
        new_page(browser, gate.url) as other,
    ):
        await other.enter("ada", PASSWORD)
        await here.enter("ada", PASSWORD)
        await opened(here, "账户、登录与令牌")
        await expect(here.page.locator("dialog.account")).to_contain_text("当前浏览器")
        await expect(here.page.locator(".entries").first.locator("small")).to_have_text(
            ["127.0.0.1 · Chrome · Linux"] * 2
        )
        await here.page.locator("dialog.account").get_by_role("button", name="退出").click()
        await expect(here.page.locator(".entries").first.locator("li")).to_have_count(1)
        await other.page.reload()
        await other.page.locator("input[name=password]").wait_for()


async def test_signing_in_elsewhere(browser: Browser, tmp_path: Path) -> None:
    """The login page offers each identity provider; who comes back without a session reads why."""
    issuer = {
        "name": "corp",
        "issuer": "http://127.0.0.1:1",
        "audience": "gatehouse",
        "discovery": True,
        "sso": {"client_id": "gatehouse", "title": "Corp"},
    }
    auth = {"issuers": [issuer], "public_url": "http://127.0.0.1:1"}
    async with running(tmp_path, **auth) as gate, new_page(browser, gate.url) as page:
        await page.open()
        await page.page.get_by_role("link", name="Sign in with Corp").click()
        await expect(page.page.get_by_text("Signing in did not work. Please try again.")).to_be_visible()
        assert "#" not in page.page.url
