"""Pictures of every state of the chat, in both languages, both themes, on a desktop and at 390 px.

    python -m tests.web.gallery [FOLDER] [--only STATE] [--look LANGUAGE THEME SIZE]

A real `gatehouse up` with the simulated engine; each state is brought about by the engine's knobs, by plans that are
used up, or by what happens to a browser (no network, a session that ends). Writes WebP files and index.md to
docs/gallery.
"""

import argparse
import asyncio
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, async_playwright

from gateway.store import database_address
from tests.support.members import PASSWORD, add_user
from tests.support.stack import Stack, running_stack, until
from tests.web.chatpage import ChatPage
from tests.web.conftest import CHROMIUM_FLAGS, chromium_path
from tests.web.gallery.past import WORDS, past
from tests.web.gallery.states import BUSY, STATES, State
from tests.web.gallery.studio import Studio

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "gallery"
Look = tuple[str, str, str]
LOOKS: list[Look] = list(product(WORDS, ("light", "dark"), ("desktop", "phone")))
END_RUNS = """async () => {
  const headers = { "Content-Type": "application/json" };
  const { runs } = await (await fetch("/api/runs")).json();
  await Promise.all((runs ?? []).map(({ run }) => fetch(`/api/runs/${run}`, { method: "DELETE", headers, body: "{}" })));
}"""
"""A closed page ends nothing: what it asked for would keep the engine from the next picture."""
CONFIG: dict[str, Any] = {
    "engine": {
        "kind": "simulated",
        "max_num_seqs": 1,
        "simulator": {"control": True, "ttft": 0.0, "tps": 400, "startup": 8},
    },
    "auth": {"cookie_over_http": True},
    "plans": {
        "member": {"tokens_per_day": 1_000_000, "requests_per_minute": 600},
        "narrow": {"requests_per_minute": 1, "request_burst": 1},
        "spent": {"tokens_per_day": 2700},
    },
    "chat": {
        "presets": [
            {
                "id": "translate",
                "name": {"en": "Translate", "zh-CN": "翻译"},
                "params": {"system_prompt": "Translate."},
            },
            {
                "id": "review",
                "name": {"en": "Code review", "zh-CN": "代码审查"},
                "params": {"reasoning_effort": "high"},
            },
            {"id": "brief", "name": {"en": "Short answers", "zh-CN": "简短回答"}, "params": {"max_tokens": 256}},
        ]
    },
}


async def _prepare(stack: Stack, browser: Browser) -> None:
    """Users of both languages, and what they asked before."""
    address = database_address(stack.config)
    for number in range(BUSY):
        await add_user(address, f"busy-{number}")
    for language, words in WORDS.items():
        for name, plan in (("ada", "member"), ("narrow", "narrow"), ("spent", "spent")):
            fields = {"display_name": words["name"], "team": "research", "plan": plan, "admin": name == "ada"}
            await add_user(address, f"{name}-{language.lower()}", **fields)
        context = await browser.new_context(locale=language)
        chat = ChatPage(await context.new_page(), stack.url)
        await chat.enter(f"ada-{language.lower()}", PASSWORD)
        chats = [past(words, language, number, title) for number, title in enumerate(words["chats"])]
        file = {"format": "gatehouse-chats", "version": 1, "exported_at": 0.0, "chats": chats}
        status = await chat.page.evaluate(
            """async (file) => (await fetch("/api/import", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(file) })).status""",
            file,
        )
        assert status == 201, status
        await context.close()


async def photograph(folder: Path, only: str | None, looks: list[Look]) -> None:
    """All pictures, and a page that shows them."""
    folder.mkdir(parents=True, exist_ok=True)
    with running_stack(CONFIG) as stack:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium_path(), args=CHROMIUM_FLAGS)
            await _prepare(stack, browser)
            for look in looks:
                studio = Studio(stack, browser, folder, *look)
                for name, (user, reach) in STATES.items():
                    if only in (None, name):
                        await _one(studio, name, user, reach)
            await browser.close()
    (folder / "index.md").write_text(_index(), "utf-8")


def _is_idle(stack: Stack) -> bool:
    metrics = stack.engine_metrics()
    return metrics["vllm:num_requests_running"] == metrics["vllm:num_requests_waiting"] == 0


async def _one(studio: Studio, name: str, user: str | None, reach: State) -> None:
    until(studio.stack.ready, "the engine is ready", 120)
    studio.knobs(tps=0, ttft=0.0)
    until(lambda: _is_idle(studio.stack), "the engine is idle", 60)
    studio.knobs(ttft=0.0, tps=400, fault="none")
    async with studio.page(user) as chat:
        try:
            await reach(studio, chat)
        except Exception:
            print(
                f"not reached: {name} {studio.language} {studio.theme} {studio.size}",
                await chat.page.inner_text("body"),
            )
            raise
        await studio.shoot(chat, name)
        await chat.page.context.set_offline(False)
        if user is not None:
            await chat.page.evaluate(END_RUNS)
        with suppress(OSError):  # one picture is of an engine that is not there
            studio.knobs(tps=0, ttft=0.0)  # what still runs ends


def _index() -> str:
    rows = ["# The chat, state by state", "", "Made by `python -m tests.web.gallery`.", ""]
    for name in STATES:
        rows += [f"## {name}", ""]
        for size, width in (("desktop", 380), ("phone", 150)):
            for language in WORDS:
                for theme in ("light", "dark"):
                    rows.append(
                        f'<img src="{name}.{language}.{theme}.{size}.webp" width="{width}" alt="{name}, {language}, {theme}, {size}">'
                    )
        rows.append("")
    return "\n".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--only", choices=sorted(STATES))
    parser.add_argument("--look", nargs=3, metavar=("LANGUAGE", "THEME", "SIZE"), help="one of them alone")
    given = parser.parse_args()
    asyncio.run(photograph(given.folder, given.only, [tuple(given.look)] if given.look else LOOKS))
