"""The administration page before a real gateway: who may see it, what it shows, what it changes."""

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from gateway.store import database_address
from tests.support.engines import FAST, simulator
from tests.support.gateways import gateway
from tests.support.members import OVER_HTTP, PASSWORD, add_user
from tests.web.chatpage import new_page

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]

BOOKED = """async () => (await (await fetch("/v1/usage?days=1")).json()).total.requests > 0"""
"""Usage reaches the database a moment after the answer."""


async def test_users_usage_and_the_engine(browser: Browser, tmp_path: Path) -> None:
    """An admin sees users, usage and plans, changes a plan, and disables a user, who is signed out at once."""
    async with (
        simulator(knobs=FAST) as engine,
        gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate,
        new_page(browser, gate.url) as admin,
        new_page(browser, gate.url) as other,
    ):
        await add_user(database_address(gate.config), "root", admin=True)
        await add_user(database_address(gate.config), "ada")
        await other.enter("ada", PASSWORD)
        await other.ask("Hi")
        await other.answered()
        await other.page.wait_for_function(BOOKED)
        await other.page.locator(".who").click()
        await expect(other.button("Administration")).to_have_count(0)
        await other.button("Usage and limits").click()
        await expect(other.page.get_by_role("img", name="Tokens a day")).to_be_visible()
        await expect(other.page.get_by_role("dialog")).to_contain_text("1 requests")
        await admin.enter("root", PASSWORD)
        await admin.page.locator(".who").click()
        await admin.button("Administration").click()
        dialog = admin.page.get_by_role("dialog", name="Administration")
        await dialog.get_by_text("Plans", exact=True).click()
        await expect(dialog.get_by_role("table")).to_contain_text("member")
        await dialog.get_by_text("Usage", exact=True).click()
        await expect(dialog.get_by_role("table")).to_contain_text("ada")
        await dialog.get_by_text("Users", exact=True).click()
        row = dialog.get_by_role("row", name="ada")
        await row.get_by_role("combobox").select_option("service")
        await expect(dialog.get_by_role("row", name="ada").get_by_role("combobox")).to_have_value("service")
        await row.get_by_role("button", name="Disable").click()
        await expect(row).to_contain_text("disabled")
        await expect(other.page.get_by_role("dialog", name="Your session has ended")).to_be_visible(timeout=30_000)
