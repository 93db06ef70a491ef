"""A conversation: streaming, Stop, reload, thinking, what Enter means, and the other language."""

import asyncio
import random

import pytest
from playwright.async_api import Browser, expect

from tests.web.backend import NAME, PASSWORD, Answer, Backend, chunk
from tests.web.chatpage import ChatPage, new_page

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]

DOCUMENT = (
    "# Title\n\nIntro with **bold**, `code` and **注意：**请看。\r\n\r\n"
    "> quote\nlazy line\n\n- one\n- two\n\n  still two\n\n1. first\n\n2. second\n\n"
    "para\n# heading right after\nA setext heading\n---\n\n"
    "```python\nfor i in range(3):\n    print('``', i)\n\n\n# not a heading\n```\nafter the fence\n\n"
    "~~~\n```\ninside tildes\n~~~\n\n"
    "| a | b |\n|:--|--:|\n| 1 | 2 |\n\ntext\n\n    indented code\n\n\n    more of it\n\n"
    "- a\n  ```js\n  nested\n  ```\n- b\n\n***\n\n"
    "A [link][later], https://example.com/x。 And ![a picture](https://example.com/p.png).\n\n"
    '[later]: https://example.com/later\n"a title"\n\nLast line without end'
)


async def test_streams_an_answer_with_its_numbers(page: ChatPage, backend: Backend) -> None:
    """The text appears while the stream is open; afterwards TTFT, speed and tokens stand below it."""
    hold = asyncio.Event()
    backend.script.append(Answer(content=["One ", "two ", "three."], pause=0.01, hold=hold))
    await page.enter(NAME, PASSWORD)
    await page.ask("Count")
    await expect(page.answers.first.locator(".markdown")).to_have_text("One two three.")
    await expect(page.answers.first).to_have_attribute("aria-busy", "true")
    hold.set()
    answer = await page.answered()
    await expect(answer.locator(".stats")).to_contain_text("first token after")
    await expect(answer.locator(".stats")).to_contain_text("12 in, 34 out")
    await expect(page.page.get_by_role("status")).to_have_text("Answer ready")
    assert backend.requests[0]["messages"] == [{"role": "user", "content": "Count"}]
    assert backend.requests[0]["stream_options"] == {"include_usage": True}


async def test_earlier_turns_are_sent_along_without_their_thinking(page: ChatPage, backend: Backend) -> None:
    """The second request carries the first question and answer, and no reasoning."""
    backend.script.append(Answer(reasoning=["Hmm."], content=["Four."]))
    await page.enter(NAME, PASSWORD)
    await page.ask("2 + 2?")
    await page.answered()
    await page.ask("And 3 + 3?")
    await page.answered(2)
    assert backend.requests[1]["messages"] == [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "Four."},
        {"role": "user", "content": "And 3 + 3?"},
    ]


async def test_stop_keeps_the_text_and_ends_the_request(page: ChatPage, backend: Backend) -> None:
    """Stop closes the connection, which the gateway sees, and what had arrived stays."""
    answer = Answer(content=["Once upon ", "a time"], hold=asyncio.Event())
    backend.script.append(answer)
    await page.enter(NAME, PASSWORD)
    await page.ask("Tell a story")
    await expect(page.answers.first.locator(".markdown")).to_have_text("Once upon a time")
    await page.page.get_by_role("button", name="Stop").click()
    await asyncio.wait_for(answer.client_left.wait(), 30)
    await expect(page.answers.first).to_have_attribute("data-status", "stopped")
    await expect(page.answers.first.locator(".markdown")).to_have_text("Once upon a time")
    await expect(page.page.get_by_role("button", name="Send")).to_be_visible()


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_thinking_is_shown_then_folded(page: ChatPage, backend: Backend, field: str) -> None:
    """Both names of the field open a block while the model thinks; it folds when the answer begins, with its time."""
    hold = asyncio.Event()
    backend.script += [
        Answer(pieces=[chunk(**{field: "First\nsecond"})], hold=hold),
        Answer(pieces=[chunk(**{field: "First\nsecond"})], content=["Done."]),
    ]
    await page.enter(NAME, PASSWORD)
    await page.ask("Think")
    lines = page.answers.first.locator(".reasoning-lines > div")
    await expect(lines).to_have_text(["First", "second"])
    await expect(lines.first).to_be_visible()
    hold.set()
    await page.answered()
    await page.ask("Think again")
    answer = await page.answered(2)
    await expect(answer.locator("summary")).to_contain_text("Thought for")
    await expect(answer.locator(".reasoning-lines > div").first).to_be_hidden()
    await answer.locator("summary").click()
    await expect(answer.locator(".reasoning-lines > div").first).to_be_visible()


async def test_thinking_that_uses_the_whole_limit_is_explained(page: ChatPage, backend: Backend) -> None:
    """finish_reason length without content offers a larger limit, which the next request then asks for."""
    backend.script.append(Answer(reasoning=["Long thoughts"], finish="length"))
    await page.enter(NAME, PASSWORD)
    await page.ask("Hard question")
    await expect(page.answers.first).to_contain_text("The thinking used up the whole length limit")
    await page.page.get_by_role("button", name="Again with 2,048 tokens").click()
    await page.answered()
    assert backend.requests[1]["max_tokens"] == 2048
    await expect(page.answers.first).to_contain_text("2/2")


async def test_reload_keeps_transcript_and_draft(page: ChatPage) -> None:
    """After a reload the messages, the thinking and the unsent draft are there again."""
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    answer = await page.answered()
    before = await answer.locator(".markdown").inner_html()
    await page.composer.fill("half a though")
    await page.page.reload()
    await expect(page.questions).to_have_text(["Hi"])
    assert await page.answers.first.locator(".markdown").inner_html() == before
    await expect(page.composer).to_have_value("half a though")


async def test_reload_in_mid_answer_keeps_what_arrived_and_says_so(page: ChatPage, backend: Backend) -> None:
    """An answer that was arriving is shown as interrupted, with a retry that adds a second answer."""
    backend.script.append(Answer(content=["The first half"], hold=asyncio.Event()))
    await page.enter(NAME, PASSWORD)
    await page.ask("Hi")
    await expect(page.answers.first.locator(".markdown")).to_have_text("The first half")
    await page.page.reload()
    await expect(page.answers.first).to_contain_text("The answer was cut off before its end.")
    await expect(page.answers.first.locator(".markdown")).to_have_text("The first half")
    await page.page.get_by_role("button", name="Try again").click()
    await expect((await page.answered()).locator(".markdown")).to_have_text("Hello there.")
    await page.page.get_by_role("button", name="Previous answer").click()
    await expect(page.answers.first.locator(".markdown")).to_have_text("The first half")


async def test_enter_that_confirms_a_candidate_does_not_send(page: ChatPage, backend: Backend) -> None:
    """During composition Enter belongs to the input method (keyCode 229); the next Enter sends."""
    await page.enter(NAME, PASSWORD)
    await page.composer.focus()
    cdp = await page.page.context.new_cdp_session(page.page)
    await cdp.send("Input.imeSetComposition", {"text": "nihao", "selectionStart": 5, "selectionEnd": 5})
    for kind in ("rawKeyDown", "keyUp"):
        await cdp.send(
            "Input.dispatchKeyEvent", {"type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 229}
        )
    assert backend.requests == []
    await cdp.send("Input.insertText", {"text": "你好"})
    await expect(page.composer).to_have_value("你好")
    assert backend.requests == []
    await page.composer.press("Enter")
    await page.answered()
    assert backend.requests[0]["messages"][-1]["content"] == "你好"


async def test_on_a_touch_screen_enter_is_a_new_line(browser: Browser, backend: Backend) -> None:
    """A phone's Enter does not send; the button does, and the page is never wider than the screen."""
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    async with new_page(browser, backend.url, **phone) as page:
        backend.engine = {**backend.engine, "simulated": True}
        await page.enter(NAME, PASSWORD)
        await page.composer.press_sequentially("one")
        await page.composer.press("Enter")
        await page.composer.press_sequentially("two")
        await expect(page.composer).to_have_value("one\ntwo")
        assert backend.requests == []
        await page.page.get_by_role("button", name="Send").tap()
        await page.answered()
        width = "() => document.documentElement.scrollWidth"
        assert await page.page.evaluate(width) == 390


async def test_chinese_browser_gets_a_chinese_page(browser: Browser, backend: Backend) -> None:
    """The language follows the browser, and can be switched without losing anything."""
    async with new_page(browser, backend.url, locale="zh-CN") as page:
        await page.open()
        await expect(page.page.get_by_role("button", name="登录")).to_be_visible()
        await page.login(NAME, PASSWORD)
        await page.ask("你好")
        await page.answered()
        assert await page.page.evaluate("() => document.documentElement.lang") == "zh-CN"
        await page.page.get_by_role("button", name="账户与外观").click()
        await page.page.get_by_text("English").click()
        await expect(page.page.get_by_role("button", name="Sign out")).to_be_visible()
        await expect(page.questions).to_have_text(["你好"])


@pytest.mark.parametrize("seed", range(4))
async def test_any_chunking_draws_what_one_piece_draws(page: ChatPage, seed: int) -> None:
    """However the stream is split, every block, list and fence ends up as in a one-shot rendering."""
    source = random.Random(seed)
    cuts, at = [], 0
    while at < len(DOCUMENT):
        at += source.randint(1, 40 if seed % 2 else 4)
        cuts.append(min(at, len(DOCUMENT)))
    await page.open()
    streamed, whole = await page.page.evaluate(
        """async ([text, cuts]) => {
          const { StreamingMarkdown, renderMarkdown } = await import(document.querySelector("script[type=module]").src.replace("main.js", "markdown.js"));
          const labels = { copy: "Copy", code: "Code" };
          const [one, other] = [document.createElement("div"), document.createElement("div")];
          const stream = new StreamingMarkdown(one, labels);
          for (const cut of cuts) stream.update(text.slice(0, cut));
          stream.finish(text);
          renderMarkdown(other, text, labels);
          return [one.innerHTML, other.innerHTML];
        }""",
        [DOCUMENT, cuts],
    )
    assert streamed == whole
    assert "<strong>注意：</strong>请看" in whole


async def test_an_open_fence_grows_line_by_line(page: ChatPage) -> None:
    """While a code block streams, its text node is appended to and never replaced."""
    await page.open()
    same, shown = await page.page.evaluate(
        """async () => {
          const { StreamingMarkdown } = await import(document.querySelector("script[type=module]").src.replace("main.js", "markdown.js"));
          const root = document.createElement("div");
          const stream = new StreamingMarkdown(root, { copy: "Copy", code: "Code" });
          let text = "Intro\\n\\n```js\\n";
          stream.update(text);
          const node = root.querySelector("code").firstChild;
          for (let line = 0; line < 5; line += 1) stream.update((text += `let x${line};\\n`));
          return [root.querySelector("code").firstChild === node, node.data];
        }"""
    )
    assert same
    assert shown == "".join(f"let x{line};\n" for line in range(5))
