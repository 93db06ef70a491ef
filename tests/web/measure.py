"""What is measured in the page: long tasks, keys, memory; and texts to measure with."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.web.chatpage import ChatPage

LONG_TASK_MS = 100
CPU_RATE = 4
SECTION = """## Section {n}

Some prose with **bold**, `code`, [a link](https://example.com/{n}) and $x_{n}^2 + y^2$, in sentences of usual length. **注意：**请看下面的
说明，中文与 English 混排也要正确显示。

```python
def step_{n}(values: list[int]) -> dict[str, int]:
    total = sum(value * {n} for value in values)  # a comment
    return {{"total": total, "count": len(values), "name": "step {n}"}}
```

| name | value | 说明 |
|------|------:|------|
| a{n} | {n} | 第一行 |
| b{n} | $\\frac{{{n}}}{{2}}$ | 第二行 |

1. first point of {n}
2. second point, with `more_code({n})`
   - nested

$$
\\int_0^{{{n}}} x^2 \\, dx = \\frac{{{n}^3}}{{3}}
$$

"""


def document(size: int) -> str:
    """Markdown of about so many characters, with everything that an answer may hold."""
    text, number = "", 0
    while len(text) < size:
        number += 1
        text += SECTION.format(n=number)
    return text[:size]


def pieces(text: str, size: int) -> list[str]:
    """The text in pieces of `size` characters."""
    return [text[at : at + size] for at in range(0, len(text), size)]


@asynccontextmanager
async def traced(page: ChatPage) -> AsyncIterator[list[float]]:
    """What the tasks of the page's main thread take meanwhile, in ms of its own processor time at a quarter of the speed.

    Processor time, because a machine that does other things makes any task long by the clock. Filled in at the end.
    """
    tasks: list[float] = []
    browser = page.page.context.browser
    assert browser is not None
    await browser.start_tracing(page=page.page, categories=["disabled-by-default-devtools.timeline", "__metadata"])
    try:
        yield tasks
        await asyncio.sleep(1)  # what came last is drawn
    finally:
        events = json.loads(await browser.stop_tracing())["traceEvents"]
        names = {
            (event["pid"], event["tid"]): event["args"]["name"] for event in events if event["name"] == "thread_name"
        }
        tasks += [
            event["tdur"] / 1000 * CPU_RATE
            for event in events
            if event["name"] == "RunTask"
            and "tdur" in event
            and names.get((event["pid"], event["tid"])) == "CrRendererMain"
        ]
