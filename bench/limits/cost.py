"""What one request costs in the limiter (acquire + settle), on the gateway and on Redis, beside redis-py's own floor.

    .venv/bin/python -m bench.limits.cost [--requests 20000]

CPU microseconds a request: this process (`time.process_time`) and redis-server (`INFO cpu`). Every line does the same
work with the same script; "redis-py, one trivial EVALSHA" is what redis-py takes to call `return 1` twice.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
import redis.asyncio
import uvloop

from gateway.limits.calendar import Calendar
from gateway.limits.limiter import FORGET_AFTER, SECOND, Allowance, Pace, Rule
from gateway.limits.memory import MemoryLimiter, wall
from gateway.limits.redis import SCRIPT, RedisLimiter, _wire
from gateway.redis import Link
from gateway.redis.address import Address
from tests.support.redis_server import RedisServer, running_redis

ALLOWANCE = Allowance(Pace.of_requests(10**6, 10**6), Pace.of_tokens(10**9), 10_000, 10**12)
RULES = [(Rule(f"subject:service:{number}", ALLOWANCE), Rule("total", ALLOWANCE)) for number in range(100)]
Work = Callable[[int], Awaitable[object]]


async def main(requests: int) -> None:
    """Measure every way at every concurrency, interleaved, twice; print the lower figure."""
    with running_redis() as server:
        address = Address(server.url)
        link = Link(address, 5.0, print)
        await link.connect()
        ways = {
            "in process": limited(MemoryLimiter(lease=30, time_zone="UTC")),
            "gatehouse, redis": limited(RedisLimiter(link, lease=30, time_zone="UTC")),
            "redis-py, same script": plain(server),
            "redis-py, one trivial EVALSHA": trivial(server),
        }
        print(f"{'CPU us a request (acquire + settle)':36} {'at once':>8} {'gateway':>8} {'redis':>8} {'wall':>8}")
        for concurrency in (1, 8, 64):
            best: dict[str, tuple[float, ...]] = {}
            for _ in range(2):
                for name, work in ways.items():
                    figures = await measure(work, requests, concurrency, server)
                    best[name] = min(best.get(name, figures), figures)
            for name, (gateway, there, elapsed) in best.items():
                print(f"{name:36} {concurrency:8} {gateway:8.1f} {there:8.1f} {elapsed:8.1f}")
        await link.aclose()


async def measure(work: Work, requests: int, concurrency: int, server: RedisServer) -> tuple[float, ...]:
    """CPU microseconds a request here and at Redis, and the wall's."""
    numbers = iter(range(requests))

    async def client() -> None:
        for number in numbers:
            await work(number)

    await work(0)
    there, here, began = redis_cpu(server), time.process_time(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    spent = time.process_time() - here, redis_cpu(server) - there, time.perf_counter() - began
    return tuple(1e6 * each / requests for each in spent)


def limited(limiter: MemoryLimiter | RedisLimiter) -> Work:
    """The product's own way."""

    async def work(number: int) -> None:
        name = f"{time.perf_counter_ns():x}"
        verdict = await limiter.acquire(name, RULES[number % 100], 500)
        assert verdict.allowed, verdict
        await limiter.settle({name: 300})

    return work


def plain(server: RedisServer) -> Work:
    """The same script, the same arguments, redis-py's usual client."""
    client = redis.asyncio.Redis.from_url(server.url, protocol=2)
    script = client.register_script(SCRIPT)
    keys, calendar, encode = ["{gatehouse:limits:1}"], Calendar("UTC"), msgspec.msgpack.encode

    async def work(number: int) -> None:
        name, now = f"{time.perf_counter_ns():x}", wall()
        rules = [(rule.key, *_wire(rule.allowance)) for rule in RULES[number % 100]]
        how = 30 * SECOND, FORGET_AFTER, False, now + 60 * SECOND
        await script(keys, ["acquire", encode((name, 500, *how, *calendar.near(now), rules))])
        await script(keys, ["settle", encode(([(name, 300)],))])

    return work


def trivial(server: RedisServer) -> Work:
    """redis-py's floor."""
    client = redis.asyncio.Redis.from_url(server.url, protocol=2)
    script = client.register_script("return 1")

    async def work(_number: int) -> None:
        await script(["k"], ["a"])
        await script(["k"], ["a"])

    return work


def redis_cpu(server: RedisServer) -> float:
    """Seconds of CPU that redis-server has used."""
    fields = dict(line.split(":") for line in server.cli("INFO", "cpu").decode().split() if ":" in line)
    return float(fields["used_cpu_sys"]) + float(fields["used_cpu_user"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=20_000)
    uvloop.run(main(parser.parse_args().requests))
