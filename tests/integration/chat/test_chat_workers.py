"""Runs over several workers, their deaths, and restarts."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.support.engines import simulator
from tests.support.fleet import Fleet, running_fleet
from tests.support.gateways import gateway
from tests.support.members import OVER_HTTP, Member, add_user, member, sign_in, text_of
from tests.support.redis_server import running_redis


@asynccontextmanager
async def signed_in_at(fleet: Fleet) -> AsyncIterator[list[Member]]:
    """Ada, at each gateway of a fleet."""
    await add_user(fleet.database, "ada")
    async with aiohttp.ClientSession() as http:
        first = await sign_in(fleet.gateways[0].url, http, "ada")
        yield [Member(gate.url, http, "ada", first.cookie) for gate in fleet.gateways]


SECTIONS = {"auth": OVER_HTTP, "plans": {"member": {}, "service": {}}, "logging": {"stdout": False}}


async def test_two_workers_and_a_redis() -> None:
    """A run of one worker is seen, replayed and stopped at another; changes of chats reach tabs everywhere. Killed, its
    run ends as interrupted at the other one, with the text that was saved; the thread goes on there.
    """
    async with simulator(knobs={"tps": 100}) as engine:
        with running_redis() as redis:
            sections = {**SECTIONS, "redis": {"url": redis.url}, "chat": {"save_seconds": 0.2}}
            with running_fleet(engine.url, *2 * [sections]) as fleet:
                async with signed_in_at(fleet) as (here, there), here.tab() as near, there.tab() as far:
                    chat = await here.made(params={"max_tokens": 60})
                    assert (await far.until("chat"))["chat"]["id"] == chat
                    run = await here.asked(chat)
                    await near.sub(run)
                    await far.sub(run)
                    await near.until("end")
                    await far.until("end")
                    assert far.raw[run] == near.raw[run]
                    half = len(near.raw[run]) // 2
                    assert await there.raw_frames(run, half) == near.raw[run][half:]

                    stopped = await here.asked(chat, params={"max_tokens": 4000})
                    await there.frames(stopped, until=lambda frame: frame["t"] == "r")
                    assert (await there.call("DELETE", f"/api/runs/{stopped}")).status == 204
                    assert (await there.frames(stopped))[-1]["finish"] == "stopped"
                    await engine.until("vllm:num_requests_running", 0)

                    doomed = await here.asked(chat, params={"max_tokens": 4000})
                    await far.sub(doomed)
                    await far.until("c", run=doomed)
                    async with asyncio.timeout(60):
                        while not (await there.message(chat, doomed))["content"]:
                            await asyncio.sleep(0.05)
                    fleet.gateways[0].kill()
                    end = await far.until("end", run=doomed)
                    assert (end["status"], end["finish"]) == ("interrupted", "interrupted")
                    kept = await there.message(chat, doomed)
                    told = [json.loads(frame) for frame in far.raw[doomed]]
                    assert kept["content"]
                    assert text_of(told).startswith(kept["content"])
                    assert kept["error"]["code"] == "interrupted"
                    again = (await there.run(chat, parent=kept["parent"], params={"max_tokens": 20}))["run_id"]
                    assert (await there.frames(again))[-1]["status"] == "done"


async def test_redis_comes_and_goes() -> None:
    """Without Redis a worker's own tabs miss nothing; when it is back, empty, other workers see the runs whole."""
    async with simulator(knobs={"tps": 60}) as engine:
        with (
            running_redis() as redis,
            running_fleet(engine.url, *2 * [{**SECTIONS, "redis": {"url": redis.url}}]) as fleet,
        ):
            async with signed_in_at(fleet) as (here, there), here.tab() as near:
                chat = await here.made(params={"max_tokens": 4000})
                run = await here.asked(chat)
                await near.sub(run)
                await near.until("c")
                redis.kill()
                seq = len(near.raw[run])
                while len(near.raw[run]) < seq + 10:
                    await near.next()
                redis.start()
                await there.frames(run, until=lambda frame: frame["seq"] > seq + 10)
                await here.ok("DELETE", f"/api/runs/{run}")
                await near.until("end")
                assert await there.raw_frames(run) == near.raw[run]


async def test_killed_and_started_again(tmp_path: Path) -> None:
    """After SIGKILL in mid-answer the next start finds the run, keeps its text as interrupted, and goes on with it."""
    async with simulator(knobs={"tps": 100}) as engine:
        with running_fleet(engine.url, {**SECTIONS, "chat": {"save_seconds": 0.1}}) as fleet:
            async with signed_in_at(fleet) as (ada,):
                chat = await ada.made(params={"max_tokens": 4000})
                run = await ada.asked(chat)
                async with asyncio.timeout(60):
                    while not (await ada.message(chat, run))["content"]:
                        await asyncio.sleep(0.05)
                fleet.gateways[0].kill()
                await engine.until("vllm:num_requests_running", 0)
                fleet.gateways[0].start()
                ada.url = fleet.gateways[0].url
                async with asyncio.timeout(60):
                    while (kept := await ada.message(chat, run))["status"] == "running":
                        await asyncio.sleep(0.05)
                assert (kept["status"], kept["error"]["code"]) == ("interrupted", "interrupted")
                assert kept["content"]
                gone = await ada.call("GET", f"/api/runs/{run}/events")
                assert (gone.status, gone.code) == (410, "run_gone")
                more = (await ada.run(chat, parent=run, params={"max_tokens": 5}))["run_id"]
                assert (await ada.frames(more))[-1]["status"] == "done"
                assert (await ada.message(chat, more))["continues"]


async def test_stopped_gently(tmp_path: Path) -> None:
    """A gateway that is told to stop finishes its runs, and ends as interrupted those that take too long; tabs learn
    of both before they are sent away.
    """
    for tps, drain_seconds, status in ((200, 60, "done"), (1, 1, "interrupted")):
        state = tmp_path / status
        async with simulator(knobs={"tps": tps}) as engine:
            settings = {"auth": OVER_HTTP, "gateway": {"drain_seconds": drain_seconds}}
            async with gateway(engine.url, state, **settings) as gate:
                ada = await member(gate)
                chat = await ada.made(params={"max_tokens": 100})
                run = await ada.asked(chat)
                async with ada.tab() as tab:
                    await tab.sub(run)
                    await tab.until("r")
                    gate.stop.set()
                    assert (await tab.until("end"))["status"] == status
                    assert await tab.closed() == 1001
                shown = text_of([json.loads(frame) for frame in tab.raw[run]])
            async with gateway(engine.url, state, **settings) as gate:
                ada = await sign_in(gate.url, gate.http, "ada")
                answer = await ada.message(chat, run)
                assert (answer["status"], answer["content"]) == (status, shown)
