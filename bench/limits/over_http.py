"""Never over, never leaking, honest: the same as hammer.py, through real gateways over HTTP.

    .venv/bin/python -m bench.limits.over_http [--seconds 60] [--gateways 4 | --workers 4] [--clients 64]

Clients share four accounts of one team and send streams of random sizes to random gateways, of which one after the
other is SIGKILLed. What was let through the engine tells: its record of each request has when it came, when it ended
and how many tokens it was. Beside them clients with accounts of their own come again exactly when they were told to.
At the end every gateway is SIGKILLed at once, in mid-stream: the leases must run out by themselves.

With `--workers` there is one gateway of so many worker processes, and these are killed; their parent starts others.

A gateway that finds Redis slow (this runs on a busy machine) refuses, so that nobody counts but Redis.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from bench.limits.windows import most_at_once, most_backlog
from gateway.config import PlanSettings
from gateway.limits.limiter import SECOND, Allowance
from gateway.limits.plans import allowance
from tests.support.engines import MODEL, Simulator, simulator
from tests.support.fleet import Fleet, FleetGateway, running_fleet
from tests.support.redis_server import RedisServer, running_redis

LEASE = 3
KEYS = "{gatehouse:limits:1}"
# a minute's worth must be used up within seconds, else a run of seconds shows nothing
SUBJECT = PlanSettings(
    requests_per_minute=600, request_burst=20, tokens_per_minute=4_500, concurrent_requests=6, tokens_per_day=10**9
)
TEAM = PlanSettings(
    requests_per_minute=1800, request_burst=40, tokens_per_minute=15_000, concurrent_requests=16, tokens_per_day=10**9
)
HONEST = PlanSettings(requests_per_minute=120, request_burst=2, tokens_per_minute=30_000)
PLANS = {"member": PlanSettings(), "service": SUBJECT, "honest": HONEST}
SUBJECTS = ("ada", "bob", "cy", "dee")
KINDS = ("running already", "tokens a minute", "requests a minute")


@dataclass
class Load:
    """All clients, and what they saw."""

    fleet: Fleet
    http: aiohttp.ClientSession
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    sent: dict[str, tuple[str, int]] = field(default_factory=dict)  # id → subject, when
    refused: dict[str, str] = field(default_factory=dict)  # id → type of the error
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def shows_something(self) -> bool:
        """Whether every kind of limit has refused somebody, and somebody came again as told."""
        refused = list(self.refused.values())  # at once: tests ask from another thread
        return set(map(_kind, refused)) >= set(KINDS) and self.seen["honest"] > 0

    async def greedy(self, number: int) -> None:
        """Sends again and again, however often it is refused."""
        dice, turn = random.Random(number), 0
        subject = SUBJECTS[number % len(SUBJECTS)]
        token = self.fleet.token(subject, plan="service", team="red")
        while not self.stop.is_set():
            turn += 1
            status, _ = await self.ask(f"{number}-{turn}", subject, token, dice, "word " * dice.randrange(60))
            await asyncio.sleep(dice.uniform(0.05, 0.3) if status == 429 else 0)

    async def honest(self, number: int) -> None:
        """Alone on an account: comes again when it was told to, not a millisecond earlier or later than it can help."""
        dice, turn, told = random.Random(-number), 0, False
        subject = f"honest-{number}"
        token = self.fleet.token(subject, plan="honest")
        while not self.stop.is_set():
            turn += 1
            status, answer_headers = await self.ask(f"h{number}-{turn}", subject, token, dice, "word")
            if told and status in {200, 429}:
                self.seen["honest" if status == 200 else "liar"] += 1
            told = status == 429
            if told:
                due = time.monotonic() + int(answer_headers["retry-after-ms"]) / 1000
                while (left := due - time.monotonic()) > 0:  # noqa: ASYNC110 - timers may be a millisecond early
                    await asyncio.sleep(left)

    async def ask(self, name: str, subject: str, token: str, dice: random.Random, text: str) -> tuple[int, Any]:
        """One streamed request; its status and headers, 0 where the gateway died or was dead."""
        gateway = dice.choice([each for each in self.fleet.gateways if each.url] or self.fleet.gateways)
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": True, "ignore_eos": True}
        body["max_tokens"] = dice.randint(1, 60 if subject in SUBJECTS else 2)
        headers = {"Authorization": f"Bearer {token}", "X-Request-Id": name}
        self.sent[name] = subject, _now()
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self.http.post(gateway.url + "/v1/chat/completions", json=body, headers=headers) as answer:
                text = await answer.text()
                self.seen[str(answer.status)] += 1
                if answer.status == 429:
                    self.refused[name] = json.loads(text)["error"]["message"]
                return answer.status, answer.headers
        self.seen["broken"] += 1
        await asyncio.sleep(0.05)
        return 0, {}


def sections(redis_url: str, workers: int) -> dict[str, Any]:
    """Of a gateway's gatehouse.yaml: the plans above, and nobody counts but Redis."""
    return {
        "plans": {name: plan.model_dump() for name, plan in PLANS.items()},
        "limits": {"team": {"red": TEAM.model_dump()}, "lease_seconds": LEASE},
        "gateway": {"max_waiting": None, "workers": workers},
        "redis": {"url": redis_url, "timeout_seconds": 0.1, "on_failure": "closed"},
    }


@contextlib.asynccontextmanager
async def loaded(clients: int, *redis_urls: str, workers: int = 1) -> AsyncIterator[tuple[Load, Simulator]]:
    """So many clients, and one gateway for each way to Redis; the clients have left at the end."""
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(simulator("--max-num-seqs", "64", knobs={"tps": 120.0}))
        fleet = stack.enter_context(running_fleet(engine.url, *(sections(url, workers) for url in redis_urls)))
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        load = Load(fleet, http)
        tasks = [asyncio.create_task(load.greedy(number)) for number in range(clients)]
        tasks += [asyncio.create_task(load.honest(number)) for number in range(6)]
        try:
            yield load, engine
        finally:
            load.stop.set()
            await asyncio.gather(*tasks)
        await engine.until("vllm:num_requests_running", 0)


async def hammer(seconds: float, gateways: int, clients: int, kill_every: float, workers: int = 1) -> dict[str, Any]:
    """The whole run; figures, and `violations`: what must not be."""
    with running_redis() as redis:
        async with loaded(clients, *gateways * [redis.url], workers=workers) as (load, engine):
            end, killed, alive = time.monotonic() + seconds, 0, load.fleet.gateways
            while time.monotonic() < end or not load.shows_something:
                await asyncio.sleep(kill_every)
                victim = random.choice(alive)
                killed += 1
                if workers > 1:
                    random.choice(children(victim)).kill()
                    continue
                victim.url = ""
                victim.kill()
                await asyncio.to_thread(victim.start)
            for gateway in alive:
                orphans = children(gateway)
                gateway.kill()
                for orphan in orphans:
                    orphan.kill()
            longest = longest_lease(redis)
            load.stop.set()
            await until_none(redis)
            await engine.until("vllm:num_requests_running", 0)
            report = judge(load, await engine.requests())
    report |= {"killed": killed + gateways, "longest_lease_after_the_last_kill_s": longest}
    if longest > LEASE:
        report["violations"].append(f"a lease of {longest} s")
    return report


def children(gateway: FleetGateway) -> list[psutil.Process]:
    """The workers of a gateway, if it has any."""
    assert gateway.process is not None
    return psutil.Process(gateway.process.pid).children()


def longest_lease(redis: RedisServer) -> float:
    """How long, by Redis' clock, the last lease still holds."""
    clock = redis.cli("TIME")
    now = int(clock[0]) * SECOND + int(clock[1])
    ends = [float(redis.cli("ZRANGE", key, -1, -1, "WITHSCORES")[1]) for key in redis.cli("KEYS", f"{KEYS}:l:*")]
    return round((max(ends, default=now) - now) / SECOND, 3)


async def until_none(redis: RedisServer) -> None:
    """Wait until no lease holds; only a deadline far beyond the lease ends it otherwise."""
    async with asyncio.timeout(20 * LEASE):
        while longest_lease(redis) > 0:  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.05)


def judge(load: Load, record: list[dict[str, Any]]) -> dict[str, Any]:
    """Hold the engine's record against the limits."""
    violations: list[str] = []
    let_through: list[dict[str, Any]] = []
    for each in record:
        fields = {name.lower(): value for name, value in each["headers"]}
        if (name := fields.get("x-request-id")) in load.sent:
            subject, sent_at = load.sent[name]
            let_through.append(each | {"name": name, "subject": subject, "sent_at": sent_at})
    violations += [f"{each['name']} was refused, and served" for each in let_through if each["name"] in load.refused]
    limits = {}
    for key, plan in [*((subject, SUBJECT) for subject in SUBJECTS), ("team", TEAM)]:
        mine = [each for each in let_through if key in {each["subject"], "team"} and each["subject"] in SUBJECTS]
        limits[key] = against(allowance(plan), mine)
        violations += [
            f"{key}: {what} {most} > {allowed}" for what, (most, allowed) in limits[key].items() if most > allowed
        ]
    asked = load.seen["honest"] + load.seen["liar"]
    share = round(load.seen["honest"] / max(1, asked), 4)
    if not asked or share < 0.99:
        violations.append(f"retry-after-ms was true in {share} of {asked} cases")
    kinds = Counter(_kind(message) for message in load.refused.values())
    answers = {name: count for name, count in sorted(load.seen.items()) if name.isdigit() or name == "broken"}
    return {
        "violations": violations,
        "requests": len(load.sent),
        "answers": answers,
        "let_through": len(let_through),
        "refused_by": dict(kinds),
        "honest": asked,
        "honest_share": share,
        "limits": limits,
    }


def against(limit: Allowance, mine: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """For each kind the most that any window saw, and what it may have seen; in the limits' own microseconds."""
    assert limit.requests is not None
    assert limit.tokens is not None
    assert limit.concurrent is not None
    request, tokens = limit.requests.cost(1), limit.tokens.cost
    spans = [(each["sent_at"], _us(each["at"])) for each in mine]
    used = [each["prompt_tokens"] + each["generated"] for each in mine]
    # in flight when a window begins or ends: what they had reserved and gave back, what they used beyond it
    slack = limit.concurrent * tokens(max(used, default=0))
    costs = zip(spans, used, strict=True)
    return {
        "requests_us": (most_backlog([(*span, request) for span in spans]), limit.requests.depth),
        "tokens_us": (most_backlog([(*span, tokens(count)) for span, count in costs]), limit.tokens.depth + slack),
        "at_once": (most_at_once((_us(each["at"]), _us(each["ended_at"])) for each in mine), limit.concurrent),
    }


def _kind(message: str) -> str:
    return next(kind for kind in (*KINDS, "") if kind in message)


def _us(seconds: float) -> int:
    return round(seconds * SECOND)


def _now() -> int:
    return time.time_ns() // 1000


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--gateways", type=int, default=4)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--kill-every", type=float, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    gateways = chosen.gateways if chosen.workers == 1 else 1
    found = asyncio.run(hammer(chosen.seconds, gateways, chosen.clients, chosen.kill_every, chosen.workers))
    text = json.dumps(found, indent=1)
    print(text)
    if chosen.json:
        chosen.json.write_text(text + "\n")
    sys.exit(bool(found["violations"]))
