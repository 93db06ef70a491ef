"""Exact: every token that the engine sent is charged once, in the record, in SQL and in Redis, whatever dies meanwhile.

    .venv/bin/python -m bench.limits.exact [--seconds 60] [--gateways 3] [--clients 24] [--json FILE]

Clients of several gateways leave at random, while the engine is killed in mid-stream, gateways are killed, and Redis is
stopped or killed (it keeps a log of its own, so that it forgets nothing). Three witnesses: a proxy on the wire before
the engine (witness.py), which nobody kills; the engine's counters, read after it was brought to a standstill and before
it is killed; and the clients, who know which gateway had which request when.

What a killed gateway leaves behind is the one thing that may be missing, and `judge` proves its bound: requests that
were in flight or had ended within the last moment. They have no line, and stay charged in Redis as they were reserved.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from bench.limits.verdicts import Charges, Sent, judge
from gateway.limits.limiter import FORGET_AFTER
from gateway.store import Store
from tests.support.engines import MODEL, parse_metrics, start_simulator
from tests.support.fleet import Fleet, FleetGateway, running_fleet
from tests.support.redis_server import RedisServer, running_redis
from tests.support.stack import until

SUBJECTS = ("ada", "bob", "cy")
KEYS = "{gatehouse:limits:1}"
GENERATED = "vllm:generation_tokens_total"
TEXTS = ("Hello", "请用中文介绍一下你自己", "def f(x):\n    return x", "word " * 200)
SECTIONS = {
    "plans": {
        "member": {},
        "service": {
            "requests_per_minute": None, "tokens_per_minute": None, "concurrent_requests": None,
            "tokens_per_day": 10**9,
        },
    },
    "limits": {"lease_seconds": 3},
    "gateway": {"hold_seconds": 10, "max_waiting": None},
}  # fmt: skip


@dataclass
class Engine:
    """The simulator behind the witness, and what all of its lives have generated."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    lives: int = 0
    generated: float = 0.0
    url: str = ""

    def start(self) -> None:
        """Start it, on the port that it had before."""
        log = self.folder / f"engine-{self.lives}"
        self.lives += 1
        self.process = start_simulator(log=log, knobs={"tps": 150.0}, port=self.port)
        until(lambda: b"Application startup complete." in log.read_bytes(), "the engine is up", alive=self.process)
        if not self.port:
            _, _, after = log.read_text().partition("Starting vLLM server on http://")
            self.port = int(after.split("\n")[0].rpartition(":")[2])
            self.url = f"http://127.0.0.1:{self.port}"

    async def kill_in_mid_stream(self, http: aiohttp.ClientSession) -> None:
        """Let it hang, read what it has generated, then SIGKILL; and another one is started."""
        hang = {"fault": "hang", "fault_times": 1, "fault_after": 1}
        async with http.post(self.url + "/sim/knobs", json=hang) as answer:
            assert answer.status == 200
        before, now = -1.0, await self.counter(http)
        while now != before:
            await asyncio.sleep(0.2)
            before, now = now, await self.counter(http)
        self.generated += now
        self.end()
        await asyncio.to_thread(self.start)

    async def counter(self, http: aiohttp.ClientSession) -> float:
        """Tokens that this life has generated."""
        async with http.get(self.url + "/metrics") as answer:
            return parse_metrics(await answer.text())[GENERATED]

    def end(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass
class Clients:
    """Who asks, and what they know."""

    fleet: Fleet
    http: aiohttp.ClientSession
    sent: dict[str, Sent] = field(default_factory=dict)
    lives: Counter[int] = field(default_factory=Counter)
    tokens: dict[str, str] = field(default_factory=dict)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def client(self, number: int) -> None:
        """One after the other until it is time to stop."""
        dice = random.Random(number)
        turn = 0
        while not self.stop.is_set():
            turn += 1
            at = dice.choice([n for n, each in enumerate(self.fleet.gateways) if each.alive and each.url] or [0])
            name, subject = f"{number}-{turn}", dice.choice(SUBJECTS)
            sent = self.sent[name] = Sent(subject, at, self.lives[at])
            with contextlib.suppress(TimeoutError, aiohttp.ClientError):
                leaves = dice.choice((0.02, 0.1, 0.3)) if dice.random() < 0.4 else 60.0
                async with asyncio.timeout(leaves):
                    await self.ask(self.fleet.gateways[at], name, subject, dice)
                sent.ended = time.monotonic()
            await asyncio.sleep(dice.uniform(0, 0.02))

    async def ask(self, gateway: FleetGateway, name: str, subject: str, dice: random.Random) -> None:
        """One random request."""
        kind = dice.choice(("chat", "chat", "chat", "completions", "whole"))
        text = dice.choice(TEXTS)
        prompt = {"prompt": text} if kind == "completions" else {"messages": [{"role": "user", "content": text}]}
        path = "/v1/completions" if kind == "completions" else "/v1/chat/completions"
        body = {"model": MODEL, **prompt, "max_tokens": dice.randint(1, 80), "ignore_eos": True}
        headers = {"Authorization": f"Bearer {self.tokens[subject]}", "X-Request-Id": name}
        async with self.http.post(
            gateway.url + path, json=body | {"stream": kind != "whole"}, headers=headers
        ) as answer:
            await answer.read()


async def exact(seconds: float, gateways: int, clients: int) -> dict[str, Any]:
    """The whole run; figures, and `violations`: what must not be."""
    with tempfile.TemporaryDirectory(prefix="exact-", dir="/tmp") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        engine = Engine(folder)
        stack.callback(engine.end)
        await asyncio.to_thread(engine.start)
        witness, port = start_witness(engine.port, folder / "journal")
        stack.callback(witness.wait)
        stack.callback(witness.kill)
        redis = stack.enter_context(running_redis("--appendonly", "yes", "--appendfsync", "always"))
        sections = SECTIONS | {"redis": {"url": redis.url, "timeout_seconds": 0.1}}
        fleet = stack.enter_context(running_fleet(f"http://127.0.0.1:{port}", *gateways * [sections]))
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=90)) as http:
            people = Clients(fleet, http, tokens={subject: fleet.token(subject) for subject in SUBJECTS})
            asking = [asyncio.create_task(people.client(number)) for number in range(clients)]
            done, deaths = await disturb(seconds, engine, redis, people)
            people.stop.set()
            await asyncio.gather(*asking)
            await asyncio.to_thread(quiet, fleet, redis)
            engine.generated += await engine.counter(http)
            waits = [waited(gateway) for gateway in fleet.gateways]
            sql = await in_sql(fleet)
        witness.terminate()
        witness.wait(30)
        charges = Charges(
            fleet.log_lines(), sql, in_redis(redis), unsettled(redis),
            json.loads((folder / "journal").read_text()), engine.generated,
        )  # fmt: skip
        asked, long = (int(sum(column)) for column in zip(*waits, strict=True))
        waiting = {"asked the limiter, of the gateways that are left": asked, "waited over 100 ms": long}
        return {"disturbances": done, "limiter": waiting} | judge(charges, people.sent, deaths)


async def disturb(
    seconds: float, engine: Engine, redis: RedisServer, people: Clients
) -> tuple[dict[str, int], dict[tuple[int, int], float]]:
    """Kill and stop in turn; returns how often which, and when which life of which gateway ended."""
    done: Counter[str] = Counter()
    deaths: dict[tuple[int, int], float] = {}
    dice, end = random.Random(5), time.monotonic() + seconds
    plan = ["gateway", "redis stopped", "engine", "gateway", "redis killed"]
    while time.monotonic() < end or len(done) < len(set(plan)):
        await asyncio.sleep(dice.uniform(0.5, 1.5))
        what = plan[done.total() % len(plan)]
        done[what] += 1
        match what:
            case "engine":
                await engine.kill_in_mid_stream(people.http)
            case "redis stopped":
                redis.pause()
                await asyncio.sleep(dice.uniform(0.2, 1.0))
                redis.resume()
            case "redis killed":
                redis.kill()
                await asyncio.sleep(dice.uniform(0.2, 1.0))
                await asyncio.to_thread(redis.start)
            case _:
                at = dice.randrange(len(people.fleet.gateways))
                await asyncio.to_thread(stop_in_the_light, people.fleet, at)
                deaths[at, people.lives[at]] = time.monotonic()
                people.fleet.gateways[at].kill()
                people.lives[at] += 1
                people.fleet.gateways[at].url = ""
                await asyncio.to_thread(people.fleet.gateways[at].start)
    return dict(done), deaths


def stop_in_the_light(fleet: Fleet, at: int) -> None:
    """SIGSTOP a gateway while Redis counts for it: what it owes after a dark time is in its memory, see judge.

    Redis may be lost at any moment where the machine is busy, so what it has said last is looked at once it stands.
    """
    gateway = fleet.gateways[at]
    assert gateway.process is not None
    while True:
        until_bright(fleet)
        gateway.process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)  # what it had said is written
        said = [line["message"] for line in gateway.messages() if line["message"].startswith("redis: ")]
        if not said or said[-1].startswith("redis: it counts"):
            return
        gateway.process.send_signal(signal.SIGCONT)


def until_bright(fleet: Fleet) -> None:
    """Wait until Redis counts for every gateway."""
    bright = 'gatehouse_limiter_mode{mode="redis"}'
    for gateway in fleet.gateways:
        until(lambda each=gateway: each.metrics().get(bright) == 1, "Redis counts", 60)


def quiet(fleet: Fleet, redis: RedisServer) -> None:
    """Wait until nothing is in flight, and all has been delivered."""
    until_bright(fleet)
    for gateway in fleet.gateways:
        until(lambda each=gateway: not each.metrics()["gatehouse_in_flight"], "nothing is in flight", 60)
    seen: Any = None
    while seen != (seen := (in_redis(redis), len(fleet.log_lines()))):
        time.sleep(1)


def waited(gateway: FleetGateway) -> tuple[float, float]:
    """How many requests asked the limiter, and how many waited for it for over 100 ms, by the gateway's own metric."""
    found = gateway.metrics()
    asked = found.get("gatehouse_limiter_seconds_count", 0)
    return asked, asked - found.get('gatehouse_limiter_seconds_bucket{le="0.1"}', asked)


async def in_sql(fleet: Fleet) -> dict[str, int]:
    """What SQL says, once it has caught up with the record."""
    lines = sum(line["subject"] is not None and line["model"] is not None for line in fleet.log_lines())
    store = await Store.open(fleet.database)
    try:
        for _ in range(120):
            rows = await store.usage.totals(("subject",))
            if sum(row["requests"] + row["rejected"] for row in rows) >= lines:
                break
            await asyncio.sleep(0.25)
        return {row["subject"]: row["prompt_tokens"] + row["completion_tokens"] for row in rows}
    finally:
        await store.close()


def in_redis(redis: RedisServer) -> dict[str, int]:
    """What Redis has charged to each subject's day."""
    return {subject: int(redis.cli("HGET", f"{KEYS}:a:subject:service:{subject}", "d") or 0) for subject in SUBJECTS}


def unsettled(redis: RedisServer) -> list[tuple[str, int]]:
    """Reservations that nobody will settle any more: subject, tokens.

    Those that last longer are the sums that were booked after a dark time; they are in the record.
    """
    found = []
    for key in redis.cli("KEYS", f"{KEYS}:r:*"):
        if redis.cli("PTTL", key) > FORGET_AFTER / 1000 + 60_000:
            continue
        held = msgspec.msgpack.decode(redis.cli("GET", key))
        found.append((held["rules"][0]["key"].rpartition(":")[2], held["tokens"]))
    return found


def start_witness(engine_port: int, journal: Path) -> tuple[subprocess.Popen[str], int]:
    """The process, and where it listens."""
    argv = [sys.executable, "-m", "bench.limits.witness", "--engine-port", str(engine_port), "--journal", str(journal)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        return process, int(process.stdout.readline())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--gateways", type=int, default=3)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    report = asyncio.run(exact(asked.seconds, asked.gateways, asked.clients))
    text = json.dumps(report, indent=1)
    print(text)
    if asked.json:
        asked.json.write_text(text + "\n")
    sys.exit(bool(report["violations"]))
