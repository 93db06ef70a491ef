"""The record where engines die under load: its sums, and its one timeline of requests, launcher and engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from launcher.record import load
from tests.support.stack import SIMULATED, Stack, running_stack, until
from tests.support.traffic import GENERATED, PROMPT, Request, Traffic, traffic

DEATHS = 2
APIS = ("chat", "completions")  # on the others the tokens of a broken stream are counted afterwards: test_exact_tokens
COPIES = 3


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    config = {"engine": {**SIMULATED, "simulator": {"control": True, "ttft": 0.0, "tps": 500}}}
    with running_stack(config) as running:
        yield running


@pytest.fixture(scope="module")
def counted(stack: Stack) -> dict[str, float]:
    """Load, over two deaths; what all the engines together have counted."""
    return asyncio.run(load_with_deaths(stack))


async def load_with_deaths(stack: Stack) -> dict[str, float]:
    counted = dict.fromkeys((PROMPT, GENERATED), 0.0)
    for death in range(DEATHS):
        async with traffic(stack) as send:
            before = await send.gauges()  # the launcher's own requests: readiness, warm-up
            await calm(send, f"calm-{death}")
            await knobs(stack, send.http, tps=20)
            begun: list[str] = []
            names = [f"cut-{death}-{api}-{copy}" for api in APIS for copy in range(COPIES)]
            streams = [asyncio.create_task(broken(send, name.split("-")[2], name, begun)) for name in names]
            await until_all(begun, names)
            await knobs(stack, send.http, fault="hang", fault_after=1)
            streams.append(asyncio.create_task(broken(send, "chat", f"last-{death}", begun)))
            await until_all(begun, [*names, f"last-{death}"])
            await standing_still(send)
            at_death = await send.gauges()
            dead = stack.engine_url
            kill_engine(stack)
            await asyncio.gather(*streams)
            for counter in counted:
                counted[counter] += at_death[counter] - before[counter]
        await asyncio.to_thread(succeeded, stack, dead)
    async with traffic(stack) as send:
        before = await send.gauges()
        await calm(send, "calm-end")
        after = await send.gauges()
    for counter in counted:
        counted[counter] += after[counter] - before[counter]
    for name in (f"cut-{DEATHS - 1}-chat-2", "calm-end-chat-True"):
        await asyncio.to_thread(stack.logged, name)
    return counted


async def calm(send: Traffic, name: str) -> None:
    await asyncio.gather(
        *(
            send.whole(Request(api, stream), "hello", f"{name}-{api}-{stream}")
            for api in APIS
            for stream in (True, False)
        )
    )


async def broken(send: Traffic, api: str, name: str, begun: list[str]) -> None:
    """A stream whose engine will die; what began is not sent to another one."""
    async with send.post(Request(api, stream=True, max_tokens=1000, endless=True), "hello", name) as answer:
        await answer.content.readany()
        begun.append(name)
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def until_all(begun: list[str], names: list[str]) -> None:
    async with asyncio.timeout(60):
        while not begun or set(begun) != set(names):
            await asyncio.sleep(0.01)


async def standing_still(send: Traffic) -> None:
    """Wait until the counters have not moved for half a second: ten times a step."""
    async with asyncio.timeout(60):
        seen, since = -1.0, 0
        while since < 50:
            grown = (await send.gauges())[GENERATED]
            since = since + 1 if grown == seen else 0
            seen = grown
            await asyncio.sleep(0.01)


def succeeded(stack: Stack, dead: str) -> None:
    """Wait until another engine than the dead one is ready."""
    until(lambda: stack.engine_url not in {dead, None}, "another engine is started")
    until(lambda: stack.status()["state"] == "ready", "it is ready")
    stack.wait_ready()


def kill_engine(stack: Stack) -> None:
    record = load(stack.state_dir / "engine.json")
    assert record is not None
    assert record.session is not None
    os.killpg(record.session, signal.SIGKILL)


async def knobs(stack: Stack, http: aiohttp.ClientSession, **values: Any) -> None:
    headers = {"Authorization": f"Bearer {stack.engine_key}"}
    async with http.post(stack.engine_url + "/sim/knobs", json=values, headers=headers) as answer:
        assert answer.status == 200, await answer.text()


def test_the_record_has_what_all_the_engines_made(stack: Stack, counted: dict[str, float]) -> None:
    """Log = metrics = the counters of three engines, two of which were killed in mid-stream: to the token."""
    lines = [line for line in stack.log_lines() if line["model"]]
    assert {line["outcome"] for line in lines} == {"complete", "engine_failed"}
    assert sum(line["outcome"] == "engine_failed" for line in lines) == DEATHS * (COPIES * len(APIS) + 1)
    assert not any(line["estimated"] for line in lines)
    own = stack.metrics()
    for kind, counter in (("prompt", PROMPT), ("completion", GENERATED)):
        logged = sum(line[f"{kind}_tokens"] for line in lines)
        measured = sum(
            value for name, value in own.items() if name.startswith("gatehouse_tokens_total") and f'"{kind}"' in name
        )
        assert logged == measured == counted[counter] > 0


def logs(stack: Stack, *words: str) -> list[str]:
    argv = [sys.executable, "-m", "gatehouse", "logs", "--state-dir", str(stack.state_dir), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


def test_one_timeline(stack: Stack, counted: dict[str, float]) -> None:
    """`gatehouse logs` tells in order: the engine was ready, streams broke off, the launcher says why and that it is back."""
    lines = [json.loads(line) for line in logs(stack, "--json", "-n", "10000")]
    assert {line.get("source", "requests") for line in lines} >= {"requests", "gateway", "launcher"}
    for source in ("gateway", "launcher"):
        moments = [line["ts"] for line in lines if line.get("source") == source]
        assert moments == sorted(moments)
    told = [line["message"] for line in lines if line.get("source") == "launcher"]
    states = [text for text in told if text.startswith("engine ")]
    assert sum(text.startswith("engine ready") for text in states) == DEATHS + 1
    assert sum(text.startswith("engine restarting: ") for text in states) == DEATHS
    at = {line["message"]: number for number, line in enumerate(lines) if line.get("source") == "launcher"}
    cut = [number for number, line in enumerate(lines) if line.get("outcome") == "engine_failed"]
    assert at["engine starting"] < cut[-1]
    assert all("launcher" in line for line in logs(stack, "--source", "launcher"))
    assert not any("complete" in line.split() for line in logs(stack, "--errors", "-n", "1000"))


def test_the_stream_has_the_same(tmp_path: Path) -> None:
    """Stdout of `gatehouse up`: requests and the gateway's messages, each a JSON object with its source, in one stream."""
    with running_stack({"engine": SIMULATED, "logging": {"stdout": True}}) as running:

        async def ask() -> None:
            async with traffic(running) as send:
                await send.whole(Request("chat", stream=False), "hello", "shown")

        asyncio.run(ask())
        running.logged("shown")
        until(lambda: '"request_id":"shown"' in running.said, "the line is printed")
        shown = [json.loads(line) for line in running.said.splitlines() if line.startswith("{")]
        written = running.record()
    assert {line.get("source", "requests") for line in shown} == {"requests", "gateway"}
    assert [line for line in written if "request_id" in line] == [line for line in shown if "request_id" in line]
