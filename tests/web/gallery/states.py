"""Every state of the chat, and what leads to it."""

from collections.abc import Awaitable, Callable
from typing import Any

from playwright.async_api import expect

from tests.support.members import OWN_PAGE, PASSWORD
from tests.web.chatpage import BOOKED, ChatPage
from tests.web.gallery.past import CUT_OFF
from tests.web.gallery.studio import Studio, post

BUSY = 3
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
    post(f"{studio.stack.admin_url}/engine/restart", {})
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
    await chat.page.locator(".answer .part > :nth-child(2)").wait_for()
    for text in studio.words["next"]:
        await studio.send(chat, text)
    await chat.page.locator(".waiting li").nth(1).wait_for()


@state("stopped")
async def _stopped(studio: Studio, chat: ChatPage) -> None:
    studio.knobs(tps=40)
    await studio.send(chat, studio.words["ask"])
    await chat.page.locator(".answer .part > :first-child").wait_for()
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


@state("quota", user="spent")
@state("rate-limited", user="narrow")
async def _limited(studio: Studio, chat: ChatPage) -> None:
    """Another look may have used up the limit before."""
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


@state("interrupted")
async def _interrupted(studio: Studio, chat: ChatPage) -> None:
    await _open(studio, chat, CUT_OFF)
    await chat.page.locator(".card.error").wait_for()


@state("too-long")
async def _too_long(studio: Studio, chat: ChatPage) -> None:
    await studio.send(chat, studio.words["ask"] + " word" * 9000)
    await chat.page.locator(".card.error").wait_for()


@state("session-expired")
async def _expired(studio: Studio, chat: ChatPage) -> None:
    await _open(studio, chat, 0)
    await chat.composer.fill(studio.words["next"][0])
    await chat.page.evaluate(
        """() => fetch("/auth/logout", { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" })"""
    )
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
async def _usage(studio: Studio, chat: ChatPage) -> None:
    await studio.send(chat, studio.words["ask"])
    await chat.answered()
    await chat.until(BOOKED)
    await _drawer(chat)
    await chat.page.locator(".sidebar-foot > .icon-button").click()
    await chat.page.locator(".plot").wait_for()


@state("account")
async def _account_page(_: Studio, chat: ChatPage) -> None:
    await _account(chat, 0)
    await chat.page.locator(".entries li").first.wait_for()


@state("settings")
async def _settings(_: Studio, chat: ChatPage) -> None:
    await _account(chat, 1)


@state("admin")
async def _admin(_: Studio, chat: ChatPage) -> None:
    await _account(chat, 2)
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
    await _drawer(chat)
    await chat.page.locator(".who").click()
    await chat.page.locator("#account .menu button").nth(index).click()
    await chat.page.locator("dialog.page").wait_for()


async def _drawer(chat: ChatPage) -> None:
    """What is beside the thread; on a phone it has to be opened."""
    if not await chat.page.locator(".who").count():
        await chat.page.locator(".bar .icon-button").first.tap()


async def _parameters(chat: ChatPage, most: int) -> None:
    await chat.page.evaluate(
        """(most) => localStorage.setItem("gatehouse.settings", JSON.stringify({ params: { max_tokens: most } }))""",
        most,
    )
    await chat.page.reload()
    await chat.composer.wait_for()


async def _others(studio: Studio) -> None:
    """Other members keep the engine busy: what they ask in the chat goes before what programs of the same plan do."""
    for number in range(BUSY):
        context = await studio.browser.new_context(base_url=studio.stack.url, extra_http_headers=OWN_PAGE)
        for path, body in (
            ("/auth/login", {"username": f"busy-{number}", "password": PASSWORD}),
            ("/api/chats", {"client_id": studio.key(number)}),
        ):
            answer = await context.request.post(path, data=body)
        chat = (await answer.json())["id"]
        body = {"parent": None, "content": f"hello {number}", "client_id": studio.key(number)}
        answer = await context.request.post(f"/api/chats/{chat}/runs", data=body)
        assert answer.status == 202, await answer.text()
        await context.close()


async def _other_build(route: Any) -> None:
    answer = await route.fetch()
    await route.fulfill(response=answer, json={**await answer.json(), "build": "0123456789abcdef"})
