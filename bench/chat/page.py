"""What the chat's page costs a browser: typing while 100 KB stream, and memory over 200 answers.

    python -m bench.chat.page [--answers 200] [--kilobytes 100]

Runs the page before the tests' double of the gateway (tests/web/backend.py), whose answers come at any speed. Task
times are processor time at a quarter of the speed; memory is the JavaScript heap after a forced collection.
"""

import argparse
import asyncio
from statistics import median

from aiohttp import web
from playwright.async_api import async_playwright

from tests.web.backend import NAME, PASSWORD, Backend, Script
from tests.web.chatpage import ChatPage
from tests.web.conftest import CHROMIUM_FLAGS, chromium_path
from tests.web.measure import document, pieces, traced

PIECE = 24  # characters, about 8 tokens
TOKENS = 8
RATE = 200  # tokens a second


async def stream(page: ChatPage, backend: Backend, kilobytes: int) -> None:
    """One long answer; the user types meanwhile."""
    text = document(kilobytes * 1024)
    backend.script.append(Script(content=pieces(text, PIECE), pause=TOKENS / RATE))
    typed = 0
    async with traced(page) as trace:
        await page.ask("Go")
        await page.answers.first.wait_for()
        while any(chat.row["runs"] for chat in backend.chats.chats.values()):
            await page.page.keyboard.type("a")
            typed += 1
            await asyncio.sleep(0.2)
    longest = [round(task) for task in sorted(trace.tasks)[-5:]]
    print(f"{kilobytes} KB at {RATE} tokens/s, {typed} keys typed: the longest tasks at CPU÷4 {longest} ms")
    print(f"a key at CPU÷4: median {median(trace.keys):.1f} ms, the slowest {max(trace.keys):.1f} ms")


async def remember(page: ChatPage, backend: Backend, answers: int) -> None:
    """Many answers in chats of ten each; the heap every now and then."""
    cdp = await page.page.context.new_cdp_session(page.page)
    text = document(4096)
    for number in range(1, answers + 1):
        if number % 10 == 1:
            await page.page.locator(".new-chat").click()
        backend.script.append(Script(content=pieces(text, 400)))
        await page.ask(f"Question {number}")
        await page.answered((number - 1) % 10 + 1)
        if number % (answers // 8) == 0:
            await cdp.send("HeapProfiler.collectGarbage")
            metrics = {each["name"]: each["value"] for each in (await cdp.send("Performance.getMetrics"))["metrics"]}
            print(
                f"  after {number} answers: {metrics['JSHeapUsedSize'] / 2**20:.1f} MiB, {metrics['Nodes']:.0f} nodes"
            )
        elif number == 1:
            await cdp.send("Performance.enable")


async def main(answers: int, kilobytes: int) -> None:
    """Measure both, each in a page of its own."""
    backend = Backend()
    config = {"title": "Gatehouse", "languages": ["en", "zh-CN"], "model": "gpt-oss-20b", "defaults": {}}
    runner = web.AppRunner(backend.application(config), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path(), args=CHROMIUM_FLAGS)
        for work, amount in ((stream, kilobytes), (remember, answers)):
            context = await browser.new_context(viewport={"width": 1280, "height": 800}, locale="en")
            page = ChatPage(await context.new_page(), url)
            await page.enter(NAME, PASSWORD)
            await work(page, backend, amount)
            await context.close()
        await browser.close()
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--kilobytes", type=int, default=100)
    given = parser.parse_args()
    asyncio.run(main(given.answers, given.kilobytes))
