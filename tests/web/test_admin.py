"""The administration page before a real gateway: who may see it, what it shows, what it changes."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from gateway.store import database_address
from tests.support.engines import FAST, simulator
from tests.support.gateways import gateway
from tests.support.members import OVER_HTTP, PASSWORD, add_user
from tests.support.stack import SIMULATED, running_stack, until
from tests.web.chatpage import BOOKED, new_page

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]


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
        await other.until(BOOKED)
        await other.page.locator(".who").click()
        await expect(other.button("Administration")).to_have_count(0)
        await other.page.keyboard.press("Escape")
        await other.button("Usage and limits").click()
        await expect(other.page.get_by_role("img", name="Tokens a day")).to_be_visible()
        await expect(other.page.get_by_role("dialog")).to_contain_text("1 request, ")
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


async def test_live_requests_and_the_engines_buttons(browser: Browser) -> None:
    """What is being answered is listed; restart and drain ask first, Cancel does nothing, Yes does what it says."""
    engine = {**SIMULATED, "simulator": {**SIMULATED["simulator"], "tps": 30}}
    with running_stack({"engine": engine, "auth": OVER_HTTP}) as stack:
        await add_user(database_address(stack.config), "root", admin=True)
        async with new_page(browser, stack.url) as page:
            await page.enter("root", PASSWORD)
            await page.ask("Tell me something long")
            await page.button("Stop").wait_for()
            await page.page.locator(".who").click()
            await page.button("Administration").click()
            dialog = page.page.get_by_role("dialog", name="Administration")
            await dialog.get_by_text("Requests", exact=True).click()
            row = dialog.get_by_role("row").filter(has_text="/api/chats/{id}/runs")
            await expect(row).to_contain_text("root")
            await expect(row).to_contain_text("answering")
            await page.page.keyboard.press("Escape")
            await page.button("Stop").click()
            await expect(page.answers.first).to_have_attribute("data-status", "stopped")

            await page.page.locator(".who").click()
            await page.button("Administration").click()
            shown = dialog.locator(".keys")
            question = dialog.get_by_role("alertdialog")
            before = stack.status()["since"]
            for name, says in (("Restart", "a fresh engine starts"), ("Drain", "stays down until a restart")):
                await dialog.get_by_role("button", name=name, exact=True).click()
                await expect(question).to_contain_text(says)
                await question.get_by_role("button", name="Cancel").click()
                await expect(question).to_have_count(0)
            assert (stack.status()["state"], stack.status()["since"]) == ("ready", before)

            async def confirm(name: str) -> None:
                await dialog.get_by_role("button", name=name, exact=True).click()
                await question.get_by_role("button", name="Yes").click()
                await expect(dialog).to_contain_text("Done.", timeout=60_000)

            await confirm("Restart")
            await asyncio.to_thread(
                until, lambda: _is(stack.status(), "ready") and stack.status()["since"] > before, "a fresh engine", 60
            )
            await confirm("Drain")
            await expect(shown).to_contain_text("The model is switched off", timeout=60_000)
            assert _is(stack.status(), "stopped")
            await confirm("Restart")
            await expect(shown).to_contain_text("ready", timeout=60_000)


def _is(status: dict[str, Any], state: str) -> bool:
    return bool(status["state"] == state)
