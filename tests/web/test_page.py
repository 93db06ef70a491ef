"""The page itself: size, policy, hostile answers, themes, parameters, how its files are served."""

import re

import pytest
from aiohttp import ClientSession
from playwright.async_api import Browser

from gateway.chat.pages import CONTENT_SECURITY_POLICY
from tests.web.backend import NAME, PASSWORD, Answer, Backend
from tests.web.chatpage import ChatPage, new_page

MAX_FIRST_LOAD_BYTES = 120 * 1024
MAX_FIRST_LOAD_REQUESTS = 30

PAYLOADS = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<svg onload=window.pwned=1>",
    "<svg><script>window.pwned=1</script></svg>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--><img src=x onerror=window.pwned=1>'>",
    "<a href='javascript:window.pwned=1'>click</a>",
    "[click](javascript:window.pwned=1)",
    "[click](JaVaScRiPt:window.pwned=1)",
    "[click](java&#115;cript:window.pwned=1)",
    "[click](data:text/html;base64,PHNjcmlwdD5wd25lZD0xPC9zY3JpcHQ+)",
    "[click](vbscript:window.pwned=1)",
    '[click](https://example.com "x\\" onmouseover=\\"window.pwned=1")',
    '![x](https://example.com/x.png "onerror=window.pwned=1")',
    "![x](x' onerror='window.pwned=1)",
    "![x](javascript:window.pwned=1)",
    "<javascript:window.pwned=1>",
    '```"><img src=x onerror=window.pwned=1>\ncode\n```',
    "```html onload=window.pwned=1\n<script>window.pwned=1</script>\n```",
    "| <img src=x onerror=window.pwned=1> | b |\n|---|---|\n| <script>window.pwned=1</script> | d |",
    "[ref]\n\n[ref]: javascript:window.pwned=1",
    "<style>@import 'https://example.com/x.css'; body{background:url(https://example.com/x)}</style>",
    "<form action=https://example.com><input name=password><button>go</button></form>",
    "&lt;img src=x onerror=window.pwned=1&gt;",
]

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("where", ["content", "reasoning"])
async def test_hostile_answers_run_no_script_and_fetch_nothing(page: ChatPage, backend: Backend, where: str) -> None:
    """No payload runs, makes an element that could, or leaves the origin; the policy is not even violated."""
    backend.script += [Answer(**{where: [payload[:9], payload[9:]]}) for payload in PAYLOADS]
    await page.enter(NAME, PASSWORD)
    for count in range(1, len(PAYLOADS) + 1):
        await page.ask("Go")
        answer = await page.answered(count)
        for link in await answer.locator("a[href]").all():
            assert re.match("https?://", await link.get_attribute("href") or "")
    assert await page.page.evaluate("() => window.pwned") is None
    assert await page.page.locator("article :is(script, img, iframe, svg[onload], style, form, object)").count() == 0
    handlers = """() => [...document.querySelectorAll("article *")].flatMap((node) =>
      [...node.attributes].filter(({ name }) => name.startsWith("on") || name === "style").map(({ name }) => name))"""
    assert await page.page.evaluate(handlers) == []
    assert {response.url.split("/")[2] for response in page.responses} == {backend.url.split("/")[2]}


async def test_policy_is_in_force(browser: Browser, backend: Backend) -> None:
    """An inline script and a string given to innerHTML are both refused by the browser."""
    async with new_page(browser, backend.url) as page:
        await page.open()
        refused = await page.page.evaluate(
            """() => {
              const script = document.createElement("script");
              script.append("window.pwned = 1");
              document.body.append(script);
              try { document.body.innerHTML = "<p>x</p>"; } catch (error) { return error.name; }
            }"""
        )
        assert refused == "TypeError"
        assert await page.page.evaluate("() => window.pwned") is None
        await page.page.evaluate("() => { window.violations.length = 0; }")
        page.problems.clear()  # those two were meant


async def test_first_load_is_small(page: ChatPage, backend: Backend) -> None:
    """A signed-in first load takes at most 120 KiB over the wire and 30 requests."""
    await page.enter(NAME, PASSWORD)
    page.responses.clear()
    cdp = await page.page.context.new_cdp_session(page.page)
    await cdp.send("Network.clearBrowserCache")
    async with page.page.expect_response("**/api/engine"):
        await page.page.reload()
    await page.composer.wait_for()
    await page.page.wait_for_load_state("networkidle")
    sizes = {response.url: len(await response.body()) for response in page.responses}
    wire = 0
    for response in page.responses:
        wire += int((await response.all_headers()).get("content-length", sizes[response.url]))
    print(f"first load: {len(page.responses)} requests, {wire / 1024:.1f} KiB over the wire")
    assert wire <= MAX_FIRST_LOAD_BYTES
    assert len(page.responses) <= MAX_FIRST_LOAD_REQUESTS


async def test_dark_and_light_follow_the_system_and_the_choice(browser: Browser, backend: Backend) -> None:
    """A dark system gets a dark page; choosing light overrides it and survives a reload."""
    theme = "() => document.documentElement.dataset.theme"
    async with new_page(browser, backend.url, color_scheme="dark") as page:
        await page.enter(NAME, PASSWORD)
        assert await page.page.evaluate(theme) == "dark"
        await page.page.get_by_role("button", name="Account").click()
        await page.page.get_by_text("Light", exact=True).click()
        assert await page.page.evaluate(theme) == "light"
        await page.page.reload()
        await page.composer.wait_for()
        assert await page.page.evaluate(theme) == "light"


async def test_parameters_go_into_the_request(page: ChatPage, backend: Backend) -> None:
    """What is set in the panel is sent, clamped to its range; the rest stays the server's."""
    await page.enter(NAME, PASSWORD)
    await page.page.get_by_role("button", name="Parameters").click()
    await page.page.get_by_text("High", exact=True).click()
    await page.page.get_by_label("Longest answer").fill("100")
    await page.page.get_by_label("System prompt").fill("Be brief.")
    await page.ask("Hi")
    await page.answered()
    [request] = backend.requests
    assert request["reasoning_effort"] == "high"
    assert request["max_tokens"] == 100
    assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    assert "temperature" not in request


async def test_static_files_are_revalidated_and_nothing_else_is_served(backend: Backend) -> None:
    """ETag and no-cache on the page, 304 when unchanged, 404 for every way out of the folder."""
    async with ClientSession() as session:
        async with session.get(backend.url) as index:
            assert index.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
            assert index.headers["Cache-Control"] == "no-cache"
            etag = index.headers["ETag"]
        async with session.get(backend.url, headers={"If-None-Match": etag}) as again:
            assert again.status == 304
        for path in ("../pyproject.toml", "%2e%2e/pyproject.toml", "..%2fpyproject.toml", "js", "js/", "nothing.js"):
            async with session.get(f"{backend.url}/static/{path}") as missing:
                assert missing.status == 404, path


async def test_a_builds_files_are_never_asked_for_again(page: ChatPage, backend: Backend) -> None:
    """All the page's files come from below its build's id, immutable; an id of another build has no files."""
    async with ClientSession(backend.url) as session:
        async with session.get("/static/config.json") as config:
            build = (await config.json())["build"]
        async with session.get(f"/static/{build}/js/main.js") as file:
            assert file.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        async with session.get("/static/js/main.js") as plain:
            assert plain.headers["Cache-Control"] == "no-cache"
        async with session.get(f"/static/{build[::-1]}/js/main.js") as other:
            assert other.status == 404
    await page.open()
    names = await page.page.evaluate(
        "performance.getEntriesByType('resource').map((entry) => new URL(entry.name).pathname)"
    )
    files = [name for name in names if name.startswith("/static/") and name != "/static/config.json"]
    assert len(files) > 10
    assert [name for name in files if not name.startswith(f"/static/{build}/")] == []


async def test_config_names_the_build(backend: Backend) -> None:
    """config.json carries what it is told, and a build id."""
    async with ClientSession() as session, session.get(f"{backend.url}/static/config.json") as response:
        config = await response.json()
    assert config["title"] == "Gatehouse"
    assert re.fullmatch(r"[0-9a-f]{16}", config["build"])
