"""Markdown that grows: however it is cut, and however long its blocks are, it ends up as one rendering of the whole."""

import random

import pytest

from tests.web.chatpage import ChatPage

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]

DOCUMENT = (
    "# Title\n\nIntro with **bold**, `code` and **注意：**请看。\r\n\r\n"
    "> quote\nlazy line\n\n- one\n- two\n\n  still two\n\n1. first\n\n2. second\n\n"
    "para\n# heading right after\nA setext heading\n---\n\n"
    "```python\nfor i in range(3):\n    print('``', i)\n\n\n# not a heading\n```\nafter the fence\n\n"
    "~~~\n```\ninside tildes\n~~~\n\n"
    "| a | b |\n|:--|--:|\n| 1 | $x$ |\n\ntext $a_1$ and \\(b\\), 5 $ or $6\n$$\nx^2\n$$\nmore\n\n\\[\ny\n\\]\n\n$$\nopen\n\n    indented code\n\n\n    more of it\n\n"
    "- a\n  ```js\n  nested\n  ```\n- b\n\n***\n\n"
    "A [link][later], https://example.com/x。 And ![a picture](https://example.com/p.png).\n\n"
    '[later]: https://example.com/later\n"a title"\n\nLast line without end'
)

# What lists and tables hold, whose finished parts are not parsed again: texts of an item or a row.
INNER = [
    "plain words",
    "**bold**, `code` and *more*",
    "**注意：**请看下面的说明",
    "$x_1^2$",
    "[a link][later]",
    "https://example.com/x",
    "half **open",
    "a\\|b",
]
BELOW = [
    "",
    "",
    "",
    "  more of it\n",
    "lazy\n",
    "  - nested\n  - again\n",
    "  ```js\n  let x;\n\n  ```\n",
    "  $$\n  y\n  $$\n",
]
AFTER = [
    "",
    "\n# A heading\n",
    "\nText after it\n",
    "\n***\n",
    "\n* other marker\n",
    "\n5) other marker\n",
    "$$\nz\n$$\n",
]


def cut(source: random.Random, text: str, most: int) -> list[int]:
    """Where the text is cut: into pieces of 1 to `most` characters."""
    cuts, at = [], 0
    while at < len(text):
        at = min(at + source.randint(1, most), len(text))
        cuts.append(at)
    return cuts


def long_block(source: random.Random) -> str:
    """A list or table of some thousand characters, regular or less so, and what comes after it."""
    kind = source.choice(["table", "-", "*", "1.", "1)", "  -", " 1."])
    text, size = source.choice(["", "Before it:\n\n", "Close before it:\n"]), source.randint(3000, 5000)
    if kind == "table":
        text += "| a | b | c |\n|:--|--:|---|\n"
        while len(text) < size:
            text += "|" + "|".join(source.choice(INNER) for _ in range(source.choice([3, 3, 3, 2, 4]))) + "|\n"
        return text + source.choice(AFTER)
    irregular, loose_after = source.random() < 0.5, source.choice([0, size // 2, 2 * size])
    number = 0
    while len(text) < size:
        number += 1
        marker = kind.replace("1", str(number))
        if irregular and source.random() < 0.1:
            marker = source.choice([" ", "", "   "]) + marker.strip()
        text += f"{marker} {source.choice(INNER)}\n"
        text += source.choice(BELOW).replace("  ", " " * (len(marker) + 1), 1) if irregular else ""
        text += "\n" if len(text) > loose_after and source.random() < 0.3 else ""
    return text + source.choice(AFTER)


@pytest.mark.parametrize("seed", range(4))
async def test_any_chunking_draws_what_one_piece_draws(page: ChatPage, seed: int) -> None:
    """However the stream is split, every block, list and fence ends up as in a one-shot rendering."""
    cuts = cut(random.Random(seed), DOCUMENT, 40 if seed % 2 else 4)
    await page.open()
    streamed, whole = await page.page.evaluate(
        """async ([text, cuts]) => {
          const of = (name) => import(document.querySelector("script[type=module]").src.replace("main.js", name));
          const { renderMarkdown } = await of("markdown.js");
          const { StreamingMarkdown } = await of("streaming.js");
          const labels = { copy: "Copy", code: "Code" };
          const [one, other] = [document.createElement("div"), document.createElement("div")];
          const stream = new StreamingMarkdown(one, labels);
          document.body.append(one, other);
          await of("enrich.js");
          for (const cut of cuts) stream.update(text.slice(0, cut));
          await stream.finish(text);
          renderMarkdown(other, text, labels);
          const drawn = (root) => root.querySelectorAll(".katex").length === 5 && root.querySelectorAll(".hljs-keyword").length === 2;
          while (!drawn(one) || !drawn(other)) await new Promise((resolve) => setTimeout(resolve, 20));
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
          const { StreamingMarkdown } = await import(document.querySelector("script[type=module]").src.replace("main.js", "streaming.js"));
          const root = document.createElement("div");
          const stream = new StreamingMarkdown(root, { copy: "Copy", code: "Code" });
          let text = "Intro\\n\\n```js\\n";
          stream.update(text);
          const node = root.querySelector("code").firstChild;
          for (let line = 0; line < 5; line += 1) stream.update((text += `let x${line};\\n`));
          while (!node.data.includes("x4")) await new Promise((resolve) => setTimeout(resolve, 10)); // a slow drawing is followed by a pause
          return [root.querySelector("code").firstChild === node, node.data];
        }"""
    )
    assert same
    assert shown == "".join(f"let x{line};\n" for line in range(5))


@pytest.mark.parametrize("seed", range(4))
async def test_long_blocks_end_up_as_one_piece_draws_them(page: ChatPage, seed: int) -> None:
    """Long lists and tables, tight, loose, turning loose, nested, badly indented: as in a one-shot rendering."""
    source = random.Random(seed)
    texts = [long_block(source) + "\n[later]: https://example.com/later\n" for _ in range(5)]
    cuts = [cut(source, text, source.choice([30, 100, 700])) for text in texts]
    await page.open()
    for at, (streamed, whole) in enumerate(await page.page.evaluate(BOTH, [texts, cuts])):
        assert streamed == whole, texts[at]


BOTH = """async ([texts, cuts]) => {
  const of = (name) => import(document.querySelector("script[type=module]").src.replace("main.js", name));
  const { renderMarkdown } = await of("markdown.js");
  const { StreamingMarkdown } = await of("streaming.js");
  const labels = { copy: "Copy", code: "Code" };
  const drawn = [];
  const plain = (root) => { // formulas and colours come later, to both
    for (const node of root.querySelectorAll("span.math")) node.replaceWith(node.dataset.source);
    for (const node of root.querySelectorAll("code.math")) node.replaceWith(node.textContent);
    for (const node of root.querySelectorAll("pre > code")) node.textContent = node.textContent;
    root.normalize();
    return root.innerHTML;
  };
  for (const [index, text] of texts.entries()) {
    const [one, other] = [document.createElement("div"), document.createElement("div")];
    const stream = new StreamingMarkdown(one, labels);
    for (const at of cuts[index]) {
      stream.update(text.slice(0, at));
      await new Promise((resolve) => setTimeout(resolve));
    }
    await stream.finish(text);
    renderMarkdown(other, text, labels);
    drawn.push([plain(one), plain(other)]);
  }
  return drawn;
}"""
