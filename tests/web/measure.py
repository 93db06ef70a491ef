"""What is measured in the page: long tasks, keys, memory; and texts to measure with."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.web.chatpage import ChatPage

LONG_TASK_MS = 100
CPU_RATE = 4
# A fixed piece of work in the page: rows that are made, laid out and taken away again. Its processor time says how fast
# the machine is now: caches that its host shares with others make all work in them several times as long.
REFERENCE = """() => {
  const box = document.body.appendChild(document.createElement("div"));
  for (let row = 0; row < 1500; row++) {
    const line = box.appendChild(document.createElement("p"));
    for (const word of ["a word ", "another ", "第 " + row + " 行"])
      line.appendChild(document.createElement("b")).textContent = word;
  }
  const height = box.offsetHeight;
  box.remove();
  return height;
}"""
REFERENCE_MS = 54.0  # measured beside a longest task of 54 ms in an answer of 16 KB, where nobody shared
MAIN = "CrRendererMain"
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


def giant_list(size: int) -> str:
    """One list of about so many characters."""
    text, number = "", 0
    while len(text) < size:
        number += 1
        text += f"- point {number} with **bold**, `code_{number}` and 中文说明, in a sentence of usual length.\n"
    return text


def giant_table(size: int) -> str:
    """One table of about so many characters."""
    text, number = "| number | name | what it is | 说明 |\n|---:|---|---|---|\n", 0
    while len(text) < size:
        number += 1
        text += (
            f"| {number} | `item_{number}` | a cell with **bold** and some words, number {number} | 第 {number} 行 |\n"
        )
    return text


def pieces(text: str, size: int) -> list[str]:
    """The text in pieces of `size` characters."""
    return [text[at : at + size] for at in range(0, len(text), size)]


@dataclass
class Trace:
    """What the page's main thread did, in ms of its own processor time at a quarter of the speed.

    Processor time, because a machine that does other things makes any task long by the clock.
    """

    tasks: list[float] = field(default_factory=list)
    keys: list[float] = field(default_factory=list)  # the tasks in which a key was handled
    slowness: float = 1.0  # how many times as long as usual the machine takes for a fixed piece of work, at least 1

    @property
    def longest_task(self) -> float:
        """In ms of a machine that nobody slows down."""
        return max(self.tasks) / self.slowness

    @property
    def median_key(self) -> float:
        """Likewise."""
        return median(self.keys) / self.slowness

    def longest(self) -> str:
        """In words."""
        over = sum(task > 50 for task in self.tasks)
        return f"{len(self.tasks)} tasks, {over} over 50 ms, the longest {max(self.tasks):.0f} ms, work slowed {self.slowness:.1f} times"


@asynccontextmanager
async def traced(page: ChatPage) -> AsyncIterator[Trace]:
    """What happens meanwhile; filled in at the end."""
    trace = Trace()
    browser = page.page.context.browser
    assert browser is not None
    categories = ["disabled-by-default-devtools.timeline", "devtools.timeline", "__metadata"]
    await browser.start_tracing(page=page.page, categories=categories)
    try:
        yield trace
        await asyncio.sleep(1)  # what came last is drawn
    finally:
        events = json.loads(await browser.stop_tracing())["traceEvents"]
        threads = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name" and e["args"]["name"] == MAIN}
        ours = [event for event in events if (event["pid"], event["tid"]) in threads]
        tasks = [event for event in ours if event["name"] == "RunTask" and "tdur" in event]
        trace.tasks += [_cost(task) for task in tasks]
        keys = [e["ts"] for e in ours if e["name"] == "EventDispatch" and e["args"]["data"]["type"] == "keydown"]
        for at in keys:
            trace.keys += [_cost(task) for task in tasks if task["ts"] <= at <= task["ts"] + task["dur"]]


def _cost(task: dict[str, Any]) -> float:
    return float(task["tdur"]) / 1000 * CPU_RATE


async def slowness(page: ChatPage) -> float:
    """How many times as long as usual the machine takes now for a fixed piece of work; at least 1."""
    taken = await processor_time(page)
    before = await taken()
    await page.page.evaluate(REFERENCE)
    return max(1.0, (await taken() - before) / REFERENCE_MS)


async def processor_time(page: ChatPage) -> Callable[[], Awaitable[float]]:
    """What returns, whenever it is called, the processor time in ms that the page's main thread has taken by then."""
    cdp = await page.page.context.new_cdp_session(page.page)
    await cdp.send("Performance.enable", {"timeDomain": "threadTicks"})

    async def so_far() -> float:
        metrics = await cdp.send("Performance.getMetrics")
        return 1000 * float(next(each["value"] for each in metrics["metrics"] if each["name"] == "TaskDuration"))

    return so_far
