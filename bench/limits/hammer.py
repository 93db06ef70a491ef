"""Never over, never leaking, honest: several processes hammer one Redis, die and come back; then the record is judged.

    .venv/bin/python -m bench.limits.hammer [--seconds 60] [--workers 4] [--clients 16] [--kill-every 3]

Each worker process runs clients that acquire random sizes on accounts they share, hold them for a moment, and settle
to something else. Every `kill-every` seconds one worker is SIGKILLed and another is started. Each worker writes what it
did (and what it was about to do) to a file; `judge` reads them all, and Redis. Everything is on one machine, so that
one monotonic clock serves all. Every other worker has another version of the script, as while gateways are replaced.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import uvloop

from bench.limits.windows import most_at_once, most_backlog
from gateway.limits.limiter import Allowance, Pace, Rule
from gateway.limits.plans import headers
from gateway.limits.redis import SCRIPT, RedisLimiter
from gateway.redis import Link
from gateway.redis.address import Address
from tests.support.redis_server import running_redis

NAMESPACE = "hammer"
# a minute's worth must be used up within seconds, else a run of seconds shows nothing
SUBJECTS = [
    Rule(f"subject:{number}", Allowance(Pace.of_requests(1800, 30), Pace.of_tokens(60_000), 4, 10**9))
    for number in range(4)
]
TEAM = Rule("team:red", Allowance(Pace.of_requests(5000, 60), Pace.of_tokens(200_000), 10, 10**9))
RULES = {rule.key: rule for rule in (*SUBJECTS, TEAM)}
# a next release that keeps one more field
NEXT_SCRIPT = SCRIPT.replace(b"'m', text(a.m))", b"'m', text(a.m), 'news', 1)")
assert NEXT_SCRIPT != SCRIPT
LARGEST = 160  # tokens reserved; at most a tenth more is used


def main() -> None:
    """Run, judge, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--kill-every", type=float, default=3)
    parser.add_argument("--lease", type=float, default=3)
    parser.add_argument("--worker", nargs=4, metavar=("URL", "FILE", "LEASE", "NUMBER"))
    asked = parser.parse_args()
    if asked.worker:
        url, file, lease, number = asked.worker
        uvloop.run(worker(url, Path(file), asked.clients, float(lease), (SCRIPT, NEXT_SCRIPT)[int(number) % 2]))
        return
    report = hammer(asked.seconds, asked.workers, asked.clients, asked.kill_every, asked.lease)
    print(json.dumps(report, indent=1))
    sys.exit(bool(report["violations"]))


def hammer(seconds: float, workers: int, clients: int, kill_every: float, lease: float) -> dict[str, Any]:
    """The whole run. Returns figures, and `violations`: what must not be."""
    with running_redis() as server, tempfile.TemporaryDirectory(prefix="hammer-", dir="/tmp") as folder:
        running: list[subprocess.Popen[bytes]] = []
        count = kills = 0
        deaths: dict[int, int] = {}
        end, kill_at = time.monotonic() + seconds, time.monotonic() + kill_every
        while time.monotonic() < end or not _shows_something(Path(folder)):
            running = [each for each in running if each.poll() is None]
            while len(running) < workers:
                argv = [sys.executable, "-m", "bench.limits.hammer", "--clients", str(clients)]
                argv += ["--worker", server.url, f"{folder}/{count}", str(lease), str(count)]
                running.append(subprocess.Popen(argv))
                count += 1
            time.sleep(0.1)
            if time.monotonic() > kill_at:
                kill_at = time.monotonic() + kill_every
                victim = running.pop(random.randrange(len(running)))
                victim.kill()
                victim.wait()
                deaths[victim.pid] = _now()
                kills += 1
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(30)
        stopped = time.monotonic()
        left = asyncio.run(_until_none_runs(server.url, lease))
        report = judge([path.read_text() for path in Path(folder).iterdir()], deaths, asyncio.run(_charged(server.url)))
        report |= {"workers": count, "killed": kills, "seconds_until_no_lease": round(time.monotonic() - stopped, 2)}
        if left:
            report["violations"].append(f"leases left after {lease} s: {left}")
        return report


def _shows_something(folder: Path) -> bool:
    """Whether anybody was refused, and anybody came again as told; a busy machine takes its time."""
    written = b"".join(path.read_bytes() for path in folder.iterdir())
    return b'"refused"' in written and written.count(b'"honest"') >= 100


async def worker(url: str, file: Path, clients: int, lease: float, script: bytes) -> None:
    """One gateway's worth of clients, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    link = Link(Address(url), 5.0, lambda _reason: None)
    await link.connect()
    limiter = RedisLimiter(link, lease=lease, time_zone="UTC", namespace=NAMESPACE, script=script)
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(*fields: Any) -> None:
        os.write(out, (json.dumps([os.getpid(), *fields]) + "\n").encode())

    held: set[str] = set()

    async def heartbeat() -> None:
        while not stop.is_set():
            await limiter.renew(list(held))
            await asyncio.sleep(lease / 3)

    async def shared(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            name, rule, tokens = f"{os.getpid()}-{number}-{turn}", random.choice(SUBJECTS), random.randrange(LARGEST)
            note("ask", name, rule.key, tokens)
            began = _now()
            verdict = await limiter.acquire(name, (rule, TEAM), tokens)
            if not verdict.allowed:
                note("refused", name)
                await asyncio.sleep(random.uniform(0, 0.05))
                continue
            held.add(name)
            note("got", name, began, _now())
            await asyncio.sleep(random.expovariate(10))
            used = random.randrange(tokens + tokens // 10 + 1)
            note("settle", name, used, _now())
            held.discard(name)
            await limiter.settle({name: used})
            note("settled", name)

    async def honest(number: int) -> None:
        """Alone on an account of its own: comes again exactly when it was told to."""
        allowance = Allowance(Pace.of_requests(600, 2), Pace.of_tokens(60_000))
        rules = (Rule(f"subject:{os.getpid()}-{number}", allowance),)
        turn = 0
        while not stop.is_set():
            turn += 1
            tokens = random.randrange(1, 2000)
            verdict = await limiter.acquire(f"h{os.getpid()}-{number}-{turn}", rules, tokens)
            if verdict.allowed:
                continue
            told = int(headers(verdict)["retry-after-ms"])
            due = _now() + 1000 * told
            while _now() < due:  # noqa: ASYNC110 - uvloop's timers may be a millisecond early
                await asyncio.sleep((due - _now()) / 1e6)
            verdict = await limiter.acquire(f"H{os.getpid()}-{number}-{turn}", rules, tokens)
            note("honest" if verdict.allowed else "liar", told)

    await asyncio.gather(heartbeat(), *(shared(n) for n in range(clients)), *(honest(n) for n in range(4)))
    await link.aclose()
    os.close(out)


async def _until_none_runs(url: str, lease: float) -> dict[str, int]:
    """Wait for one lease and a second, at most; return which accounts still count somebody."""
    link = Link(Address(url), 5.0, lambda _reason: None)
    await link.connect()
    deadline = time.monotonic() + lease + 1
    left: dict[str, int] = {}
    while True:
        for key in RULES:
            leases = await link.call("ZCOUNT", f"{{{NAMESPACE}:limits:1}}:l:{key}", _wall(), "+inf")
            left[key] = leases
        if not any(left.values()) or time.monotonic() > deadline:
            await link.aclose()
            return {key: count for key, count in left.items() if count}
        await asyncio.sleep(0.05)


async def _charged(url: str) -> dict[str, int]:
    link = Link(Address(url), 5.0, lambda _reason: None)
    await link.connect()
    found = {key: int(await link.call("HGET", f"{{{NAMESPACE}:limits:1}}:a:{key}", "d") or 0) for key in RULES}
    await link.aclose()
    return found


def judge(files: list[str], deaths: dict[int, int], charged: dict[str, int]) -> dict[str, Any]:
    """Hold the record against the limits."""
    requests: dict[str, dict[str, Any]] = {}
    tally: dict[str, int] = defaultdict(int)
    for line in "".join(files).splitlines():
        pid, what, *rest = json.loads(line)
        tally[what] += 1
        match what:
            case "ask":
                requests[rest[0]] = {"pid": pid, "key": rest[1], "tokens": rest[2]}
            case "refused":
                requests[rest[0]]["refused"] = True
            case "got":
                requests[rest[0]] |= {"began": rest[1], "got": rest[2]}
            case "settle":
                requests[rest[0]] |= {"used": rest[1], "ended": rest[2]}
            case "settled":
                requests[rest[0]]["settled"] = True
    violations: list[str] = []
    report: dict[str, Any] = {**tally, "violations": violations, "limits": {}}
    for key, rule in RULES.items():
        mine = [each for each in requests.values() if key in {each["key"], TEAM.key}]
        got = [each for each in mine if "got" in each]
        report["limits"][key] = figures = _against(rule, got, deaths)
        for limit, (most, allowed) in figures.items():
            if most > allowed:
                violations.append(f"{key}: {limit} {most} > {allowed}")
        low = sum(each["used"] for each in got if "settled" in each)
        open_ones = [each for each in mine if "refused" not in each and "settled" not in each]
        high = low + sum(max(each["tokens"], each.get("used", 0)) for each in open_ones)
        figures["charged"] = (charged[key], high)
        if not low <= charged[key] <= high:
            violations.append(f"{key}: charged {charged[key]}, used {low} to {high} (killed: {len(open_ones)})")
    asked = tally["honest"] + tally["liar"]
    report["honest_share"] = round(tally["honest"] / max(1, asked), 4)
    if not asked or report["honest_share"] < 0.99:
        violations.append(f"retry-after-ms was true in {report['honest_share']} of {asked} cases")
    if not tally["refused"]:
        violations.append("nothing was ever refused: the run shows nothing")
    return report


def _against(rule: Rule, got: list[dict[str, Any]], deaths: dict[int, int]) -> dict[str, tuple[int, int]]:
    """For each kind the most that any window saw, and what it may have seen; in the limits' own microseconds."""
    allowance = rule.allowance
    assert allowance.requests is not None
    assert allowance.tokens is not None
    assert allowance.concurrent is not None
    requests = most_backlog([(each["began"], each["got"], allowance.requests.cost(1)) for each in got])
    used = most_backlog(
        [(each["began"], each["got"], allowance.tokens.cost(each.get("used", each["tokens"]))) for each in got]
    )
    # in flight when a window begins or ends: what they had reserved and gave back, what they used beyond it
    slack = allowance.concurrent * allowance.tokens.cost(LARGEST + LARGEST // 10)
    most = most_at_once((each["got"], each["ended"] if "ended" in each else deaths.get(each["pid"], 0)) for each in got)
    return {
        "requests_us": (requests, allowance.requests.depth),
        "tokens_us": (used, allowance.tokens.depth + slack),
        "concurrent": (most, allowance.concurrent),
    }


def _now() -> int:
    return time.monotonic_ns() // 1000


def _wall() -> int:
    return time.time_ns() // 1000


if __name__ == "__main__":
    main()
