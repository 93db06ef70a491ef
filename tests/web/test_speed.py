"""How busy the main thread is while an answer streams, on a processor of a quarter of the speed. Numbers are printed."""

import pytest

from tests.web.backend import NAME, PASSWORD, Backend, Script
from tests.web.chatpage import ChatPage
from tests.web.measure import LONG_TASK_MS, document, pieces, traced

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session")]


ATTEMPTS = 3  # caches that others share make processor time longer, too; what the page does itself is long every time


async def test_no_long_task_while_16_kb_stream(page: ChatPage, backend: Backend) -> None:
    """Code, tables, Chinese and formulas, 16 KB in pieces of a few tokens: no task over 100 ms at CPU÷4."""
    await page.enter(NAME, PASSWORD)
    backend.script.append(Script(content=[document(2_000)]))
    await page.ask("So that everything is fetched")
    await page.answered()
    longest = []
    for attempt in range(2, 2 + ATTEMPTS):
        backend.script.append(Script(content=pieces(document(16_000), 24), pause=0.008))
        async with traced(page) as tasks:
            await page.ask("Go")
            await backend.chats.ended(attempt)  # waiting in the page would itself keep it busy
        await page.answered(attempt)
        assert len(tasks) > 100
        longest.append(max(tasks))
        print(f"{len(tasks)} tasks, {sum(task > 50 for task in tasks)} over 50 ms, the longest {max(tasks):.0f} ms")
        if max(tasks) <= LONG_TASK_MS:
            break
    assert min(longest) <= LONG_TASK_MS, longest
