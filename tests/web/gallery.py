"""Pictures of every state of the chat, in both languages, both themes, on a desktop and at 390 px.

    python -m tests.web.gallery [FOLDER] [--only STATE]

A real `gatehouse up` with the simulated engine; each state is brought about by the engine's knobs, by plans that are
used up, or by what happens to a browser (no network, a session that ends). Writes WebP files and index.md to
docs/gallery.
"""

import argparse
import asyncio
import io
import json
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser, BrowserContext, async_playwright, expect

from gateway.auth.passwords import Passwords
from gateway.auth.throttle import Throttle
from gateway.auth.users import Users
from gateway.store import Store, database_address
from tests.support.stack import Stack, running_stack, until
from tests.web.chatpage import ChatPage
from tests.web.conftest import CHROMIUM_FLAGS, chromium_path

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "gallery"
PASSWORD = "correct horse battery staple"
QUALITY = 55
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "name": "Ada",
        "ask": "How do I sort a list of dictionaries by a key in Python?",
        "next": ["And in descending order?", "What does that cost in memory?"],
        "chats": [
            "Sorting in Python",
            "Letter to the landlord",
            "Weekend in Kyoto",
            "Regular expressions",
            "Tax return",
        ],
    },
    "zh-CN": {
        "name": "林",
        "ask": "怎样在 Python 里按某个键给字典列表排序？",
        "next": ["如果要降序呢？", "这样会占用多少内存？"],
        "chats": ["Python 排序", "给房东的信", "京都周末行程", "正则表达式", "报税问题"],
    },
}
ANSWER = {
    "en": (
        "Use `sorted` with a key function:\n\n```python\npeople = [{'name': 'Ada', 'age': 36}, {'name': 'Lin', 'age': 29}]\n"
        "by_age = sorted(people, key=lambda person: person['age'])\n```\n\nIt is **stable** and takes $O(n \\log n)$ "
        "comparisons.\n\n| function | changes the list | returns |\n|---|---|---|\n| `sorted(a)` | no | a new list |\n"
        "| `a.sort()` | yes | `None` |\n"
    ),
    "zh-CN": (
        "用 `sorted` 加一个键函数：\n\n```python\npeople = [{'name': 'Ada', 'age': 36}, {'name': '林', 'age': 29}]\n"
        "by_age = sorted(people, key=lambda person: person['age'])\n```\n\n**注意：**排序是稳定的，需要 $O(n \\log n)$ 次比较。\n\n"
        "| 函数 | 是否改变原列表 | 返回值 |\n|---|---|---|\n| `sorted(a)` | 否 | 新列表 |\n| `a.sort()` | 是 | `None` |\n"
    ),
}
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
        "spent": {"tokens_per_day": 2300},
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


class Studio:
    """One language, theme and size: a signed-in page, and what brings it into a state."""

    def __init__(self, stack: Stack, browser: Browser, folder: Path, language: str, theme: str, size: str) -> None:
        self.stack, self.browser, self.folder = stack, browser, folder
        self.language, self.theme, self.size = language, theme, size
        self.words = WORDS[language]

    @asynccontextmanager
    async def page(self, user: str | None) -> AsyncIterator[ChatPage]:
        """A page in this language, theme and size; signed in as `user`, or on the login page."""
        is_phone = self.size == "phone"
        context: BrowserContext = await self.browser.new_context(
            viewport=PHONE if is_phone else DESKTOP,  # type: ignore[arg-type]
            locale=self.language,
            color_scheme=self.theme,  # type: ignore[arg-type]
            has_touch=is_phone,
            is_mobile=is_phone,
            reduced_motion="reduce",
        )
        chat = ChatPage(await context.new_page(), self.stack.url)
        await chat.open()
        if user is not None:
            await chat.login(f"{user}-{self.language.lower()}", PASSWORD)
            await chat.composer.wait_for()
        yield chat
        await context.close()

    async def shoot(self, chat: ChatPage, name: str) -> None:
        """Take the picture of a state."""
        await chat.page.wait_for_timeout(400)  # fonts, colours of code
        png = await chat.page.screenshot(animations="disabled")
        file = self.folder / f"{name}.{self.language}.{self.theme}.{self.size}.webp"
        with Image.open(io.BytesIO(png)) as picture:
            picture.convert("RGB").save(file, quality=QUALITY, method=6)

    async def send(self, chat: ChatPage, text: str) -> None:
        """Ask, with the key or the button that there is."""
        await chat.composer.fill(text)
        await chat.page.locator(".send:not(.stop)").click()

    def knobs(self, **values: Any) -> None:
        """Turn the engine's knobs."""
        _post(f"{self.stack.engine_url}/sim/knobs", values, self.stack.engine_key)


Look = tuple[str, str, str]
LOOKS: list[Look] = list(product(WORDS, ("light", "dark"), ("desktop", "phone")))
END_RUNS = """async () => {
  const headers = { "Content-Type": "application/json" };
  const { runs } = await (await fetch("/api/runs")).json();
  await Promise.all((runs ?? []).map(({ run }) => fetch(`/api/runs/${run}`, { method: "DELETE", headers, body: "{}" })));
}"""
"""A closed page ends nothing: what it asked for would keep the engine from the next picture."""
State = Callable[[Studio, ChatPage], Awaitable[None]]
STATES: dict[str, tuple[str | None, State]] = {}


def state(name: str, user: str | None = "ada") -> Callable[[State], State]:
    """Register what leads to the state `name`, for the page of `user`."""

    def register(reach: State) -> State:
        STATES[name] = (user, reach)
        return reach

    return register


@state("login", user=None)
async def _login(_: Studio, chat: ChatPage) -> None:
    await chat.page.locator("input[name=password]").wait_for()


@state("greeting")
async def _greeting(_: Studio, chat: ChatPage) -> None:
    await chat.page.locator(".presets").wait_for()


@state("answer")
async def _answer(studio: Studio, chat: ChatPage) -> None:
    await _open(studio, chat, 0)
    await chat.page.locator(".katex").first.wait_for()


@state("chats")
async def _chats(studio: Studio, chat: ChatPage) -> None:
    await _open(studio, chat, 0)
    if studio.size == "phone":
        await chat.page.locator(".bar .icon-button").first.tap()
    await chat.chats.nth(1).hover()
    await chat.chats.nth(1).locator("button").first.click()
    await chat.page.locator(".menu:popover-open").wait_for()


@state("search")
async def _search(studio: Studio, chat: ChatPage) -> None:
    if studio.size == "phone":
        await chat.page.locator(".bar .icon-button").first.tap()
    await chat.page.locator("#search").fill("sorted")
    await chat.page.locator(".hits mark").first.wait_for()


@state("loading")
async def _loading(studio: Studio, chat: ChatPage) -> None:
    _post(f"{studio.stack.admin_url}/engine/restart", {})
    await studio.send(chat, studio.words["ask"])
    await chat.page.locator(".notice progress").wait_for(timeout=60_000)


@state("queued")
async def _queued(studio: Studio, chat: ChatPage) -> None:
    studio.knobs(tps=8)
    await _others(studio)
    await studio.send(chat, studio.words["ask"])
    await chat.page.locator(".phase .button").wait_for()


@state("prefill")
async def _prefill(studio: Studio, chat: ChatPage) -> None:
    studio.knobs(ttft=30)
    await studio.send(chat, studio.words["ask"])
    await chat.page.locator(".phase").wait_for()
    await chat.page.wait_for_timeout(1500)


@state("thinking")
async def _thinking(studio: Studio, chat: ChatPage) -> None:
    studio.knobs(tps=10)
    await studio.send(chat, studio.words["ask"])
    await chat.page.locator(".reasoning-lines").wait_for()
    await chat.page.wait_for_timeout(1500)


@state("streaming")
async def _streaming(studio: Studio, chat: ChatPage) -> None:
    studio.knobs(tps=40)
    await studio.send(chat, studio.words["ask"])
    await chat.page.locator(".answer .markdown > :nth-child(2)").wait_for()
    for text in studio.words["next"]:
        await studio.send(chat, text)
    await chat.page.locator(".waiting li").nth(1).wait_for()


@state("stopped")
async def _stopped(studio: Studio, chat: ChatPage) -> None:
    studio.knobs(tps=40)
    await studio.send(chat, studio.words["ask"])
    await chat.page.locator(".answer .markdown > :first-child").wait_for()
    await chat.page.locator(".send.stop").click()
    await chat.page.locator('.answer[data-status="stopped"]').wait_for()


@state("length")
async def _length(studio: Studio, chat: ChatPage) -> None:
    await _parameters(chat, 160)
    await studio.send(chat, studio.words["ask"])
    await chat.page.locator(".card.warn").wait_for()


@state("length-thinking")
async def _length_thinking(studio: Studio, chat: ChatPage) -> None:
    await _parameters(chat, 12)
    await studio.send(chat, studio.words["ask"])
    await chat.page.locator(".card.warn").wait_for()


@state("rate-limited", user="narrow")
async def _rate(studio: Studio, chat: ChatPage) -> None:
    await studio.send(chat, studio.words["ask"])
    await expect(chat.page.locator(".hold, .answer").first).to_be_visible()
    if not await chat.page.locator(".hold").count():
        await chat.answered()
        await studio.send(chat, studio.words["next"][0])
    await chat.page.locator(".hold").wait_for()


@state("quota", user="spent")
async def _quota(studio: Studio, chat: ChatPage) -> None:
    await studio.send(chat, studio.words["ask"])
    await expect(chat.page.locator(".hold, .answer").first).to_be_visible()
    if not await chat.page.locator(".hold").count():
        await chat.answered()
        await studio.send(chat, studio.words["next"][0])
    await chat.page.locator(".hold").wait_for()


@state("offline")
async def _offline(studio: Studio, chat: ChatPage) -> None:
    await _open(studio, chat, 0)
    await chat.page.context.set_offline(True)
    await chat.page.locator(".notice").wait_for()
    await studio.send(chat, studio.words["next"][0])
    await chat.page.locator(".waiting").wait_for()


@state("engine-error")
async def _error(studio: Studio, chat: ChatPage) -> None:
    studio.knobs(fault="error_frame", fault_after=60, fault_times=1)
    await studio.send(chat, studio.words["ask"])
    await chat.page.locator(".card.error").wait_for()


@state("too-long")
async def _too_long(studio: Studio, chat: ChatPage) -> None:
    await studio.send(chat, studio.words["ask"] + " word" * 9000)
    await chat.page.locator(".card.error").wait_for()


@state("session-expired")
async def _expired(studio: Studio, chat: ChatPage) -> None:
    await _open(studio, chat, 0)
    await chat.composer.fill(studio.words["next"][0])
    cookies = {cookie["name"]: cookie["value"] for cookie in await chat.page.context.cookies()}
    await chat.page.evaluate(
        """() => fetch("/auth/logout", { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" })"""
    )
    assert cookies
    await chat.page.locator("dialog input[name=password]").wait_for()


@state("new-version")
async def _version(studio: Studio, chat: ChatPage) -> None:
    await chat.page.route("**/config.json", _other_build)
    await chat.page.reload()
    await chat.page.locator(".notice.update").wait_for()
    await _open(studio, chat, 0)


@state("parameters")
async def _panel(studio: Studio, chat: ChatPage) -> None:
    await _open(studio, chat, 0)
    await chat.page.locator(".bar .icon-button").last.click()
    await chat.page.locator(".panel-body").wait_for()


@state("usage")
async def _usage(_: Studio, chat: ChatPage) -> None:
    await _account(chat, 0)


@state("account")
async def _account_page(_: Studio, chat: ChatPage) -> None:
    await _account(chat, 1)
    await chat.page.locator(".entries li").first.wait_for()


@state("settings")
async def _settings(_: Studio, chat: ChatPage) -> None:
    await _account(chat, 2)


@state("admin")
async def _admin(_: Studio, chat: ChatPage) -> None:
    await _account(chat, 3)
    await chat.page.locator(".tail").wait_for()


async def _open(studio: Studio, chat: ChatPage, index: int) -> None:
    """Show one of the chats that were there before."""
    title = studio.words["chats"][index]
    identifier = await chat.page.evaluate(
        """async (title) => {
          const { pinned, chats } = await (await fetch("/api/chats?limit=200")).json();
          return [...pinned, ...chats].find((chat) => chat.title === title).id;
        }""",
        title,
    )
    await chat.page.evaluate("(id) => { location.hash = `#/c/${id}`; }", identifier)
    await chat.answers.first.wait_for()


async def _account(chat: ChatPage, index: int) -> None:
    """One of the pages of the account's menu."""
    if not await chat.page.locator(".who").count():
        await chat.page.locator(".bar .icon-button").first.tap()
    await chat.page.locator(".who").click()
    await chat.page.locator("#account .menu button").nth(index).click()
    await chat.page.locator("dialog.page").wait_for()


async def _parameters(chat: ChatPage, most: int) -> None:
    await chat.page.evaluate(
        """(most) => localStorage.setItem("gatehouse.settings", JSON.stringify({ params: { max_tokens: most } }))""",
        most,
    )
    await chat.page.reload()
    await chat.composer.wait_for()


async def _others(studio: Studio) -> None:
    """Others keep the engine busy."""
    for number in range(3):
        body = {"stream": True, "messages": [{"role": "user", "content": f"hello {number}"}], "max_tokens": 400}
        token = studio.stack.token(f"other-{number}", plan="member")
        asyncio.get_running_loop().run_in_executor(
            None, _quietly, f"{studio.stack.url}/v1/chat/completions", {"model": studio.stack.model, **body}, token
        )
        await asyncio.sleep(0.3)


def _quietly(url: str, body: Any, token: str) -> None:
    with suppress(OSError):  # the engine may be restarted under it
        _post(url, body, token)


async def _other_build(route: Any) -> None:
    answer = await route.fetch()
    await route.fulfill(response=answer, json={**await answer.json(), "build": "0123456789abcdef"})


def _post(url: str, body: Any, token: str | None = None) -> bytes:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        body_bytes: bytes = answer.read()
    return body_bytes


async def _prepare(stack: Stack, browser: Browser) -> None:
    """Users of both languages, and what they asked before."""
    store, passwords = Store(database_address(stack.config)), Passwords()
    users = Users(store, stack.config.auth, passwords, Throttle())
    for language, words in WORDS.items():
        for name, plan in (("ada", "member"), ("narrow", "narrow"), ("spent", "spent")):
            full = f"{name}-{language.lower()}"
            await users.add(full, PASSWORD, display_name=words["name"], team="research", plan=plan)
        await store.users.change(f"ada-{language.lower()}", admin=True)
        context = await browser.new_context(locale=language)
        chat = ChatPage(await context.new_page(), stack.url)
        await chat.enter(f"ada-{language.lower()}", PASSWORD)
        chats = [_past(words, language, number, title) for number, title in enumerate(words["chats"])]
        file = {"format": "gatehouse-chats", "version": 1, "exported_at": 0.0, "chats": chats}
        status = await chat.page.evaluate(
            """async (file) => (await fetch("/api/import", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(file) })).status""",
            file,
        )
        assert status == 201, status
        await context.close()
    passwords.close()
    await store.close()


def _past(words: dict[str, Any], language: str, number: int, title: str) -> dict[str, Any]:
    """An earlier chat, as an export holds it."""
    at = 1_795_000_000.0 - number * 90_000
    common = {"reasoning": "", "finish": None, "error": None, "continues": False, "model": None, "params": {}}
    common |= {"usage": None, "ttft_ms": None, "tok_s": None, "queued_ms": None, "thought_ms": None, "created_at": at}
    usage = {"prompt_tokens": 21, "completion_tokens": 164, "cached_tokens": 0, "reasoning_tokens": 42}
    messages = [
        {**common, "id": "m_1", "parent": None, "role": "user", "content": words["ask"], "status": "done"},
        {
            **common,
            "id": "m_2",
            "parent": "m_1",
            "role": "assistant",
            "status": "done",
            "finish": "stop",
            "reasoning": words["ask"],
            "content": ANSWER[language],
            **{"usage": usage, "ttft_ms": 182.0, "tok_s": 87.4, "queued_ms": 0.0, "thought_ms": 1400.0},
        },
    ]
    fields = {"title": title, "pinned": number == 2, "archived": False, "created_at": at, "updated_at": at}
    return {**fields, "params": {}, "head": "m_2", "messages": messages}


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


async def _one(studio: Studio, name: str, user: str | None, reach: State) -> None:
    until(studio.stack.ready, "the engine is ready", 120)
    studio.knobs(ttft=0.0, tps=400, fault="none")
    async with studio.page(user) as chat:
        try:
            await reach(studio, chat)
        except Exception:
            print(f"not reached: {name} {studio.language} {studio.theme} {studio.size}")
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
