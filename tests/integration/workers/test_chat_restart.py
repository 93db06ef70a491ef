"""The chat over two workers while these are replaced and die: no text is lost, doubled or invented; tabs stay in step."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.support.engines import Simulator
from tests.support.members import OVER_HTTP, Member, Tab, add_user, sign_in, text_of
from tests.support.redis_server import RedisServer
from tests.support.workers import WorkersGateway, eventually, workers

SECTIONS: dict[str, Any] = {"auth": OVER_HTTP, "chat": {"save_seconds": 0.2}}
CRAWLING, SLOW, FAST = 3, 40, 5000  # tokens a second: an answer has hundreds, so it takes minutes, seconds, no time
PARAMS = {"max_tokens": 1000, "seed": 7}


class Ada:
    """One member, at whichever worker the test says; connections are fresh, so that they are the present worker's."""

    def __init__(self, gate: WorkersGateway, cookie: str) -> None:
        self._gate, self._cookie = gate, cookie

    @asynccontextmanager
    async def at(self, number: int) -> AsyncIterator[Member]:
        path = str(self._gate.sockets / f"worker-{number}.sock")
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path, force_close=True)) as http:
            yield Member("http://gateway", http, "ada", self._cookie)


async def signed_in(gate: WorkersGateway) -> Ada:
    await add_user(gate.state_dir / "gatehouse.db", "ada")
    return Ada(gate, (await sign_in(gate.url, gate.http, "ada")).cookie)


async def of_the_engine(engine: Simulator, question: str) -> tuple[str, str]:
    """Reasoning and text of the engine's own answer; the same question and seed is answered in the same way."""
    message = (await engine.chat(question, **PARAMS))["choices"][0]["message"]
    return message["reasoning"], message["content"]


def told(frames: list[str]) -> tuple[str, str]:
    """Reasoning and text of frames, which have every number once."""
    parsed = [json.loads(frame) for frame in frames]
    assert [frame["seq"] for frame in parsed] == list(range(parsed[0]["seq"], parsed[0]["seq"] + len(parsed)))
    return text_of(parsed, "r"), text_of(parsed, "c")


async def follow(tab: Tab, run: str, after: int = 0) -> None:
    """Follow a run until something of it has come."""
    await tab.sub(run, after)
    await tab.until("r", run=run)


async def test_workers_are_replaced_under_answers(engine: Simulator, redis: RedisServer) -> None:
    """`gatehouse gateway restart` under two answers: each goes on at its old worker to its end; the new workers show
    both live and whole, by either way in; what is stored, and charged, is the engine's answer.
    """
    asked = {1: "What is tea?", 2: "What is coffee?"}
    wanted = {number: await of_the_engine(engine, question) for number, question in asked.items()}
    async with workers(engine.url, redis.url, gateway={"drain_seconds": 2}, **SECTIONS) as gate:
        ada = await signed_in(gate)
        await engine.knobs(tps=CRAWLING)
        async with ada.at(1) as one, ada.at(2) as two, one.tab() as old:
            here = {1: one, 2: two}
            chats = {number: await at.made(params=PARAMS) for number, at in here.items()}
            runs = {number: await here[number].asked(chats[number], question) for number, question in asked.items()}
            for run in runs.values():
                await follow(old, run)
            before = await gate.pids()
            assert (await asyncio.to_thread(gate.command, "gateway", "restart")).returncode == 0
            for number, pid in before.items():
                await gate.followed(number, pid)
            async with ada.at(1) as other, other.tab() as new:
                assert {each["run"] for each in new.seen[0]["runs"]} == set(runs.values())
                for number, run in runs.items():
                    await follow(new, run)
                    assert (await other.message(chats[number], run))["status"] == "running", "seen while it is made"
                half = len(new.raw[runs[2]]) // 2
                rest = asyncio.create_task(other.raw_frames(runs[2], half))
                await engine.knobs(tps=FAST)
                for number, run in runs.items():
                    for tab in (old, new):
                        if not any(json.loads(each)["t"] == "end" for each in tab.raw[run]):
                            assert (await tab.until("end", run=run))["status"] == "done"
                    assert new.raw[run] == old.raw[run]
                    assert told(new.raw[run]) == wanted[number]
                    stored = await other.message(chats[number], run)
                    assert (stored["reasoning"], stored["content"]) == wanted[number]
                assert await rest == new.raw[runs[2]][half:]
                assert await old.closed() == 1001

        async def alone() -> bool:
            return len(await gate.admin("/workers")) == 2

        await eventually(alone, "the old workers have ended")
        outcomes = [line["outcome"] for line in gate.log_lines() if line["route"] == "/api/chats/{id}/runs"]
        assert outcomes == ["complete"] * 2


async def test_a_worker_is_killed_under_answers(engine: Simulator, redis: RedisServer) -> None:
    """SIGKILL of one of two workers under an answer of each: readers of the other's answer reattach and get the
    engine's text; the dead one's is interrupted with all that anybody was shown, and its thread goes on.
    """
    question = "What is tea?"
    wanted = await of_the_engine(engine, question)
    async with workers(engine.url, redis.url, **SECTIONS) as gate:
        ada = await signed_in(gate)
        await engine.knobs(tps=SLOW)
        async with ada.at(1) as one, ada.at(2) as two, one.tab() as cut, two.tab() as whole:
            chat = await one.made(params=PARAMS)
            doomed, lucky = await one.asked(chat, question), await two.asked(await two.made(params=PARAMS), question)
            for tab in (cut, whole):
                await tab.sub(doomed)
                await follow(tab, lucky)
            await whole.until("c", run=doomed)
            pid = (await gate.pids())[1]
            os.kill(pid, signal.SIGKILL)
            assert await cut.closed() == 1006
            seen = cut.raw[lucky]
            async with ada.at(2) as three, three.tab() as again:
                await again.sub(lucky, len(seen))
                end = await whole.until("end", run=doomed)
                assert (end["status"], end["finish"]) == ("interrupted", "interrupted")
                await engine.knobs(tps=FAST)
                await again.until("end", run=lucky)
                assert told(seen + again.raw[lucky]) == wanted
            await gate.followed(1, pid)
            async with ada.at(1) as back:
                kept = await back.message(chat, doomed)
                assert (kept["status"], kept["error"]["code"]) == ("interrupted", "interrupted")
                assert (kept["reasoning"], kept["content"]) == told(whole.raw[doomed])
                assert wanted[1].startswith(kept["content"])
                assert await back.raw_frames(doomed) == whole.raw[doomed], "who comes later gets the same"
                answer = (await back.run(chat, parent=kept["parent"]))["run_id"]
                assert told(await back.raw_frames(answer)) == wanted
                assert [each["status"] for each in await back.messages(chat)] == ["done", "interrupted", "done"]
            ends = {"done": 2, "interrupted": 1}
            found = await gate.metrics()
            assert {status: found[f'gatehouse_chat_runs_ended_total{{status="{status}"}}'] for status in ends} == ends
        await engine.until("vllm:num_requests_running", 0)


async def test_two_tabs_and_a_phone(engine: Simulator, redis: RedisServer) -> None:
    """Three lines of one account, at two workers, hear of the same changes and end with the same state of every chat."""
    async with workers(engine.url, redis.url, **SECTIONS) as gate:
        ada = await signed_in(gate)
        await engine.knobs(tps=0)
        async with ada.at(1) as one, ada.at(2) as two, one.tab() as tab, one.tab() as other, two.tab() as phone:
            lines = (tab, other, phone)
            assert (await gate.metrics())["gatehouse_chat_tabs"] == len(lines)
            chats = [await at.made(client_id=f"n{number}") for number, at in enumerate((one, two, one, two))]
            for number, chat in enumerate(chats):
                at, away = (one, two) if number % 2 else (two, one)
                run = await at.asked(chat, "Good morning", params={"max_tokens": 5})
                assert (await away.frames(run))[-1]["status"] == "done"
                await asyncio.gather(
                    at.ok("PATCH", f"/api/chats/{chat}", {"title": f"Tea {number}"}),
                    away.ok("PATCH", f"/api/chats/{chat}", {"pinned": True}),
                )
            await two.ok("DELETE", f"/api/chats/{chats[0]}")
            versions = {chat: (await one.ok("GET", f"/api/chats/{chat}"))["chat"] for chat in chats[1:]}

            def newest(line: Tab) -> dict[str, dict[str, Any]]:
                shown: dict[str, dict[str, Any]] = {}
                for frame in line.seen:
                    chat = frame.get("chat")
                    if frame["t"] == "chat" and chat["version"] >= shown.get(chat["id"], chat)["version"]:
                        shown[chat["id"]] = chat
                return {chat: state for chat, state in shown.items() if not state["deleted"]}

            for line in lines:
                async with asyncio.timeout(60):
                    while newest(line) != versions:
                        await line.next()
