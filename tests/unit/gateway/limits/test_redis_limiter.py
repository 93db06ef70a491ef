"""The Redis limiter against the shared model, on a real server whose clock the test moves."""

import asyncio
import re
import uuid

import pytest
from hypothesis import settings

from gateway.limits.limiter import MINUTE, SECOND, Allowance, Pace, Rule
from gateway.limits.memory import wall
from gateway.limits.redis import GIVEN_UP_SECONDS, SCRIPT, RedisLimiter
from gateway.redis import Link, RedisAway
from gateway.redis.address import Address
from tests.support.redis_server import RedisServer, running_redis
from tests.unit.gateway.limits import scenarios
from tests.unit.gateway.limits.limiter_machine import DAY, LEASE, Clock, LimiterMachine

# the server's TIME in the script's eyes: two numbers of a list that the test keeps
TESTED = SCRIPT.replace(b"redis.call('TIME')", b"redis.call('LRANGE', prefix .. ':clock', 0, 1)")
assert TESTED != SCRIPT


@pytest.fixture(scope="module")
def server():
    with running_redis() as server:
        yield server


class RedisMachine(LimiterMachine):
    """The Redis limiter agrees with the model, step by step."""

    server: RedisServer
    loop: asyncio.AbstractEventLoop
    link: Link

    def make(self, clock: Clock) -> RedisLimiter:
        """One in a namespace of its own."""
        self.namespace = uuid.uuid4().hex
        return RedisLimiter(
            self.link,
            lease=LEASE,
            time_zone="UTC",
            namespace=self.namespace,
            clock=clock,
            wall=clock,
            script=TESTED,
        )

    def call(self, coroutine):
        """Tell the server the time, then ask it."""

        async def at_that_time():
            key = f"{{{self.namespace}:limits:1}}:clock"
            await self.link.call("DEL", key)
            await self.link.call("RPUSH", key, *divmod(self.clock.now, SECOND))
            return await coroutine

        return self.loop.run_until_complete(at_that_time())


def test_it_agrees_with_the_model(server: RedisServer) -> None:
    """Acquire, settle, renew and time in any order: Lua and the model agree to the microsecond."""
    with asyncio.Runner() as runner:
        link = Link(Address(server.url), 5.0, lambda reason: None)
        runner.run(link.connect())
        RedisMachine.server, RedisMachine.loop, RedisMachine.link = server, runner.get_loop(), link
        case = RedisMachine.TestCase()
        case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
        case.runTest()
        runner.run(link.aclose())


@pytest.fixture
async def link(server: RedisServer):
    link = Link(Address(server.url), 5.0, lambda reason: None)
    await link.connect()
    yield link
    await link.aclose()


def make(link: Link, script: bytes = SCRIPT, **how) -> RedisLimiter:
    how.setdefault("namespace", uuid.uuid4().hex)
    return RedisLimiter(link, lease=LEASE, time_zone="UTC", script=script, **how)


@pytest.mark.parametrize(
    "scenario", [scenarios.debt_counts_from_the_settlement, scenarios.yesterdays_refund_is_not_todays_gain]
)
async def test_scenarios(link: Link, scenario) -> None:
    """What the scenario says."""
    await scenario(*timed(link, uuid.uuid4().hex))


async def test_leases_of_the_dead_do_not_pile_up(link: Link, server: RedisServer) -> None:
    """On an account that is always in use, what nobody renewed is taken out, not only left uncounted."""
    namespace = uuid.uuid4().hex
    limiter, at = timed(link, namespace)
    rules = (Rule("total", Allowance(concurrent=9)),)
    for turn in range(5):
        await at(1000 * DAY + turn * LEASE * SECOND)
        assert (await limiter.acquire(str(turn), rules, 1)).running == 0
    assert server.cli("ZCARD", f"{{{namespace}:limits:1}}:l:total") == 1


def timed(link: Link, namespace: str) -> tuple[RedisLimiter, scenarios.At]:
    """A limiter whose server's clock stands where it is put."""
    clock = Clock()

    async def at(now: int) -> None:
        clock.now = now
        await link.call("DEL", f"{{{namespace}:limits:1}}:clock")
        await link.call("RPUSH", f"{{{namespace}:limits:1}}:clock", *divmod(now, SECOND))

    return make(link, TESTED, namespace=namespace, clock=clock, wall=clock), at


async def test_the_servers_clock_counts_not_the_gateways(link: Link, server: RedisServer) -> None:
    """Two gateways whose clocks are 20 hours apart share one day and one budget."""
    namespace = uuid.uuid4().hex
    now = wall()
    rules = (Rule("total", Allowance(tokens_per_day=100)),)
    verdicts = []
    for number, hours in enumerate((-20, 0, 20)):
        limiter = make(link, namespace=namespace, wall=lambda hours=hours: now + hours * 60 * MINUTE)
        verdicts.append(await limiter.acquire(str(number), rules, 30))
    assert [each.day.remaining for each in verdicts] == [70, 40, 10]
    assert len({round(each.day.reset) for each in verdicts}) <= 2


async def test_limits_larger_than_any_count_limit_nothing(link: Link) -> None:
    """Numbers that do not fit into 64 bits on the wire are no reason to fail; who is told of them is told the truth."""
    huge = 10**30
    limiter = make(link)
    rules = (Rule("total", Allowance(Pace.of_requests(huge, huge), Pace.of_tokens(huge), huge, huge, huge)),)
    verdict = await limiter.acquire("a", rules, 1000)
    assert verdict.allowed
    assert (verdict.concurrent.remaining, verdict.day.remaining) == (huge - 1, huge - 1000)


async def test_a_backlog_of_two_thousand_years_is_worked_off_as_any_other(link: Link, server: RedisServer) -> None:
    """A moment beyond 2**53 us is kept in digits, not as a float or a negative number."""
    namespace = uuid.uuid4().hex
    limiter = make(link, namespace=namespace)
    rules = (Rule("total", Allowance(tokens=Pace.of_tokens(1))),)
    tokens = 1_000_000_000
    await limiter.enter("a", rules, tokens)
    square_at = int(server.cli("HGET", f"{{{namespace}:limits:1}}:a:total", "t"))
    assert square_at > 2**53
    assert square_at - tokens * MINUTE == pytest.approx(wall(), abs=MINUTE)
    refusal = (await limiter.acquire("b", rules, 1)).refusal
    assert refusal is not None
    await limiter.settle({"a": 0})
    assert (await limiter.acquire("b", rules, 1)).allowed


async def test_a_flushed_script_is_sent_again(link: Link, server: RedisServer) -> None:
    """SCRIPT FLUSH, a restart: the script travels once more, no request notices; SCRIPT LOAD is never used."""
    limiter = make(link)
    rules = (Rule("total", Allowance(concurrent=200)),)
    for number in range(3):
        server.cli("SCRIPT", "FLUSH")
        verdicts = await asyncio.gather(*(limiter.acquire(f"{number}-{n}", rules, 1) for n in range(20)))
        assert all(each.allowed for each in verdicts)
    assert verdicts[-1].running == 59
    statistics = server.cli("INFO", "commandstats").decode()
    assert "cmdstat_evalsha" in statistics
    assert "script|load" not in statistics


async def test_what_was_entered_counts_once_and_whatever_the_limits_say(link: Link) -> None:
    """`enter` and `book` charge beyond the limits, and repeating them changes nothing."""
    limiter = make(link)
    rules = (Rule("total", Allowance(Pace.of_requests(60, 2), Pace.of_tokens(60), 1, 100)),)
    for _ in range(3):
        for name in "ab":
            await limiter.enter(name, rules, 80)
        await limiter.book("c", (Rule("total", Allowance(tokens_per_day=100)),), 7)
    verdict = await limiter.acquire("d", rules, 1)
    assert verdict.refusal is not None
    assert (verdict.running, verdict.day.remaining, verdict.requests.remaining) == (2, 0, 0)
    await limiter.settle({"a": 0, "b": 0})
    verdict = await limiter.acquire("d", rules, 1)
    assert (verdict.running, verdict.day.remaining) == (0, 93)


async def test_renewing_tells_what_redis_does_not_know(link: Link) -> None:
    """After a loss of data the gateway learns which of its running requests are missing; many at once are no problem."""
    limiter = make(link)
    rules = (Rule("total", Allowance()),)
    for number in range(600):
        await limiter.enter(str(number), rules, 1)
    assert await limiter.unknown_of([*map(str, range(600)), "x", "y"]) == ["x", "y"]
    await limiter.settle(dict.fromkeys(map(str, range(600)), 1))
    assert (await limiter.acquire("z", rules, 0)).running == 0


async def test_keys_are_bounded_by_who_is_active(link: Link, server: RedisServer) -> None:
    """1e5 subjects that come once: every key has an end, and those of a subject without debt end within minutes."""
    namespace = uuid.uuid4().hex
    limiter = make(link, namespace=namespace)
    allowance = Allowance(Pace.of_requests(600, 100), Pace.of_tokens(60_000), 4, 1_000_000)
    plain = Allowance(Pace.of_requests(600, 100), Pace.of_tokens(60_000), 4)

    async def visit(number: int) -> None:
        rules = (Rule(f"subject:{number}", allowance if number % 2 else plain),)
        await limiter.acquire(f"r{number}", rules, 10)

    subjects = 100_000
    for start in range(0, subjects, 500):
        await asyncio.gather(*(visit(number) for number in range(start, start + 500)))
        await limiter.settle({f"r{number}": 10 for number in range(start, start + 500)})
    keys = server.cli("DBSIZE")
    assert keys <= 1.02 * subjects  # one account each; reservations and leases are gone
    for number in range(0, subjects, 997):
        left = server.cli("PTTL", f"{{{namespace}:limits:1}}:a:subject:{number}")
        # -2: gone already, where all this took longer than a minute
        assert 0 < left <= 86_400_000 + 60_000 if number % 2 else left == -2 or 0 < left <= 61_000
    memory = int(
        next(
            line.split(":")[1]
            for line in server.cli("INFO", "memory").decode().split()
            if line.startswith("used_memory:")
        )
    )
    assert memory < 60_000_000
    server.cli("FLUSHALL")


@pytest.mark.parametrize("upgraded", [
    SCRIPT + b"\n-- the next release\n",
    SCRIPT.replace(b"'m', text(a.m))", b"'m', text(a.m), 'news', 1)"),
])  # fmt: skip
async def test_two_versions_of_the_script_keep_the_same_books(link: Link, upgraded: bytes) -> None:
    """While gateways are replaced, old and new ones share limits, renew and settle each other's reservations."""
    assert upgraded != SCRIPT
    namespace = uuid.uuid4().hex
    versions = [make(link, script, namespace=namespace) for script in (SCRIPT, upgraded)]
    rules = (Rule("total", Allowance(Pace.of_requests(60, 6), Pace.of_tokens(1000), 4, 1000)),)
    allowed = []
    for number in range(6):
        verdict = await versions[number % 2].acquire(str(number), rules, 100)
        allowed.append(verdict.allowed)
    assert allowed == [True] * 4 + [False] * 2
    await versions[0].renew(["1", "3"])
    await versions[1].settle({"0": 50, "2": 50})
    await versions[0].settle({"1": 50, "3": 50})
    verdict = await versions[1].acquire("last", rules, 0)
    assert (verdict.running, verdict.day.remaining) == (0, 800)


async def test_many_calls_at_once_are_one_write(link: Link, server: RedisServer) -> None:
    """What is asked within one turn of the loop travels together, and each gets its own answer."""
    limiter = make(link)
    verdicts = await asyncio.gather(
        *(limiter.acquire(str(n), (Rule(f"subject:{n % 10}", Allowance(concurrent=3)),), 1) for n in range(100))
    )
    assert sum(each.allowed for each in verdicts) == 30


async def test_a_call_that_was_cancelled_does_not_shift_the_answers(link: Link) -> None:
    """The answer to who has left is dropped; the next one is right."""
    limiter = make(link)
    await limiter.probe()  # Redis has the script: one round trip is a whole call
    rules = (Rule("total", Allowance()),)
    task = asyncio.create_task(limiter.acquire("a", rules, 1))
    await asyncio.sleep(0)
    task.cancel()
    assert (await limiter.acquire("b", rules, 1)).running == 1
    assert await link.call("PING") == b"PONG"


async def test_a_probe_without_an_answer_is_settled_by_the_next_one(link: Link, server: RedisServer) -> None:
    """What it had reserved does not stay until it is forgotten."""
    namespace = uuid.uuid4().hex
    limiter = make(link, namespace=namespace)
    await limiter.probe()  # Redis has the script: one round trip is a whole call

    def entered() -> list[bytes]:
        return server.cli("KEYS", f"*{namespace}*:r:*")

    task = asyncio.create_task(limiter.probe())
    await asyncio.sleep(0)
    task.cancel()
    assert await link.call("PING") == b"PONG"
    assert len(entered()) == 1
    await limiter.probe()
    assert entered() == []


async def test_a_request_that_redis_gets_too_late_reserves_nothing(server: RedisServer) -> None:
    """Redis was stopped, and its caller has given up. What it then finds in the old connection it refuses: it says so
    in its own statistics, and there is no such reservation.
    """
    namespace = uuid.uuid4().hex
    rules = (Rule("total", Allowance(concurrent=9)),)
    old = Link(Address(server.url), 0.5, lambda reason: None)
    await old.connect()
    limiter = make(old, namespace=namespace)
    await limiter.probe()
    server.cli("CONFIG", "RESETSTAT")
    server.pause()
    with pytest.raises(RedisAway):
        await limiter.acquire("late", rules, 1)
    await asyncio.sleep(GIVEN_UP_SECONDS)
    server.resume()

    def executed() -> list[bytes]:
        return re.findall(rb"cmdstat_evalsha:calls=(\d+)", server.cli("INFO", "commandstats"))

    async with asyncio.timeout(60):
        while not executed():
            await asyncio.sleep(0.01)
    assert b"errorstat_STALE:count=1" in server.cli("INFO", "errorstats")
    assert server.cli("EXISTS", f"{{{namespace}:limits:1}}:r:late", f"{{{namespace}:limits:1}}:l:total") == 0


async def test_a_gateway_that_was_late_itself_does_not_take_redis_for_late(link: Link) -> None:
    """It was stopped while an answer lay there, longer than anybody waits: what it asks next is not refused as too late."""
    limiter, at = timed(link, uuid.uuid4().hex)
    rules = (Rule("total", Allowance(concurrent=9)),)
    await at(1000 * DAY)
    await limiter.probe()
    task = asyncio.create_task(limiter.acquire("a", rules, 1))
    await asyncio.sleep(0)
    limiter._clock.now += MINUTE
    assert (await task).allowed
    await at(1000 * DAY + MINUTE)
    assert (await limiter.acquire("b", rules, 1)).allowed
