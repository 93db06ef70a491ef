"""Redis lost and found: real servers that are stopped, killed, slowed down, filled up and flushed under load."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.limits.fallback import FallbackLimiter, LimiterUnavailable
from gateway.limits.limiter import Allowance, Kind, Pace, Rule
from gateway.limits.memory import MemoryLimiter
from gateway.limits.redis import RedisLimiter
from gateway.redis import Link, RedisAway
from gateway.redis.address import Address
from tests.support.needs import free_ports
from tests.support.redis_server import RedisServer, running_redis

LEASE = 30
PROMPT, PATIENT = (
    0.05,
    0.5,
)  # seconds that Redis is waited for: as in use; where a busy machine shall not pass for an outage
RULES = (Rule("subject:alice", Allowance(concurrent=1000, tokens_per_day=1_000_000, tokens_per_month=2_000_000)),)


@pytest.fixture(scope="module")
def shared_server():
    with running_redis() as server:
        yield server


@pytest.fixture
def server():
    """One that the test may break."""
    with running_redis() as server:
        yield server


class Watched:
    """A limiter whose modes and waits are noted."""

    def __init__(
        self,
        url: str,
        on_failure: str,
        namespace: str,
        limiter: type[RedisLimiter] = RedisLimiter,
        seconds: float = PATIENT,
    ) -> None:
        self.seconds = seconds
        self.modes: list[str] = []
        self.longest = 0.0
        self.lag = 0.0
        self.limiter = FallbackLimiter(
            lambda link: limiter(link, lease=LEASE, time_zone="UTC", namespace=namespace),
            lambda on_lost: Link(Address(url), seconds, on_lost),
            MemoryLimiter(lease=LEASE, time_zone="UTC"),
            on_failure=on_failure,
            time_zone="UTC",
            on_mode=self.modes.append,
        )

    async def acquire(self, name: str, tokens: int = 1, rules=RULES):
        start = time.monotonic()
        try:
            return await self.limiter.acquire(name, rules, tokens)
        finally:
            self.longest = max(self.longest, time.monotonic() - start)

    async def watch_lag(self) -> None:
        """How late this process itself was: a busy machine is not Redis' fault."""
        while True:
            due = time.monotonic() + 0.005
            await asyncio.sleep(0.005)
            self.lag = max(self.lag, time.monotonic() - due)

    @property
    def waited_too_long(self) -> bool:
        return self.longest > 2 * self.seconds + 2 * self.lag

    async def until(self, mode: str) -> None:
        await until(lambda: self.limiter.mode == mode)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def watched(
    server: RedisServer,
    on_failure: str = "local",
    namespace: str = "",
    url: str = "",
    limiter: type[RedisLimiter] = RedisLimiter,
    seconds: float = PATIENT,
) -> AsyncIterator[Watched]:
    one = Watched(url or server.url, on_failure, namespace or uuid.uuid4().hex, limiter, seconds)
    lag = asyncio.create_task(one.watch_lag())
    await one.limiter.start()
    try:
        yield one
    finally:
        lag.cancel()
        await one.limiter.close()


async def books(server: RedisServer, namespace: str):
    """How alice stands in Redis itself."""
    link = Link(Address(server.url), 5, lambda reason: None)
    await link.connect()
    limiter = RedisLimiter(link, lease=LEASE, time_zone="UTC", namespace=namespace)
    verdict = await limiter.acquire("auditor", RULES, 0)
    await limiter.settle({"auditor": 0})
    await link.aclose()
    return verdict


@pytest.mark.parametrize("failure", ["pause", "kill"])
async def test_settlements_of_the_dark_time_are_delivered_once(server: RedisServer, failure: str) -> None:
    """What was reserved in Redis and ended in the dark, what began and ended in it, what outlived it: all is in its books."""
    namespace = uuid.uuid4().hex
    async with watched(server, namespace=namespace) as one:
        await one.acquire("before", 1000)
        await one.acquire("through", 100)
        getattr(server, failure)()
        await one.acquire("dark-ended", 5000)
        await one.acquire("dark-running", 70)
        assert one.limiter.mode == "local"
        await one.limiter.settle({"before": 10, "dark-ended": 7})
        await one.limiter.settle({"before": 10, "dark-ended": 7})
        server.resume() if failure == "pause" else server.start()
        await one.until("redis")
        lost = 10 if failure == "kill" else 0  # the reservation itself died with Redis' memory
        verdict = await books(server, namespace)
        assert (verdict.running, 1_000_000 - verdict.day.remaining) == (2, 10 + 7 + 100 + 70 - lost)
        assert 2_000_000 - verdict.month.remaining == 187 - lost
        await one.limiter.settle({"through": 1, "dark-running": 1})
        verdict = await books(server, namespace)
        assert (verdict.running, 1_000_000 - verdict.day.remaining) == (0, 10 + 7 + 1 + 1 - lost)
        assert one.modes == ["redis", "local", "redis"]


class Load:
    """Clients that acquire and settle, each 50 tokens and 3, until they are told to stop; none is ever refused."""

    def __init__(self, one: Watched) -> None:
        self.one = one
        self.used = self.served = 0
        self._stop = asyncio.Event()

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, one: Watched, clients: int) -> AsyncIterator["Load"]:
        load = cls(one)
        async with asyncio.TaskGroup() as tasks:
            for number in range(clients):
                tasks.create_task(load._client(number))
            yield load
            load._stop.set()
        await until(lambda: not one.limiter._kept)

    async def _client(self, number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            name = f"{number}-{turn}"
            assert (await self.one.acquire(name, 50)).allowed
            await asyncio.sleep(0.01)
            await self.one.limiter.settle({name: 3})
            self.used += 3
            self.served += 1
            turn += 1

    async def go_on(self, more: int = 60) -> None:
        """Wait until so many more were served."""
        goal = self.served + more
        await until(lambda: self.served >= goal)


@pytest.mark.parametrize("failure", ["pause", "kill", "full", "slow"])
async def test_nobody_waits_long_and_nobody_is_lost(server: RedisServer, failure: str) -> None:
    """Under load, whatever befalls Redis: no request waits over 100 ms for it, none fails, and its books are right after."""
    namespace, url = uuid.uuid4().hex, server.url
    async with contextlib.AsyncExitStack() as stack:
        proxy = None
        if failure == "slow":
            proxy = await stack.enter_async_context(Proxy.running(server))
            url = proxy.url
        one = await stack.enter_async_context(watched(server, namespace=namespace, url=url, seconds=PROMPT))
        # the proxy shares this event loop: with many clients it would be slow by itself
        async with Load.on(one, 4 if proxy else 16) as load:
            for _ in range(2):
                await one.until("redis")
                match failure:
                    case "pause":
                        server.pause()
                    case "kill":
                        server.kill()
                        load.used = 0  # as Redis' memory
                    case "full":
                        server.cli("CONFIG", "SET", "maxmemory", "1")
                    case "slow":
                        proxy.delay = 0.5
                await one.until("local")
                await load.go_on()
                match failure:
                    case "pause":
                        server.resume()
                    case "kill":
                        server.start()
                    case "full":
                        server.cli("CONFIG", "SET", "maxmemory", "0")
                    case "slow":
                        proxy.delay = 0.0
                await one.until("redis")
        verdict = await books(server, namespace)
        charged = 1_000_000 - verdict.day.remaining
        assert verdict.running == 0
        if failure == "kill":  # up to 16 reservations died with Redis' memory at the second kill, and what it held
            assert abs(charged - load.used) <= 16 * 50
        else:
            assert charged == load.used
        assert not one.waited_too_long


async def test_flushed_scripts_are_not_noticed(server: RedisServer) -> None:
    """SCRIPT FLUSH again and again under load: Redis counts all the while, and its books are right."""
    namespace = uuid.uuid4().hex
    async with watched(server, namespace=namespace) as one:
        async with Load.on(one, 16) as load:
            for _ in range(20):
                await asyncio.to_thread(server.cli, "SCRIPT", "FLUSH")
                await load.go_on(10)
        assert one.modes == ["redis"]
        assert 1_000_000 - (await books(server, namespace)).day.remaining == load.used
        assert not one.waited_too_long


async def test_a_failover_loses_nothing(tmp_path: Path) -> None:
    """Under load the replica takes over and the primary becomes its replica, twice: the gateway finds the one that
    counts by itself, nobody waits long, and its books are right.
    """
    namespace = uuid.uuid4().hex
    ports, at_once = free_ports(2), ("--repl-diskless-sync-delay", "0")
    with running_redis(*at_once, port=ports[0]) as first, running_redis(*at_once, port=ports[1]) as second:
        second.cli("REPLICAOF", "127.0.0.1", ports[0])
        await until(lambda: b"master_link_status:up" in second.cli("INFO", "replication"))
        url = f"redis://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}"
        async with watched(first, namespace=namespace, url=url) as one:
            async with Load.on(one, 16) as load:
                for primary, replica in ((first, second), (second, first)):
                    await one.until("redis")
                    primary.cli("FAILOVER")
                    await until(lambda each=replica: b"role:master" in each.cli("INFO", "replication"))
                    await one.until("local")
                    await load.go_on()
                    await one.until("redis")
                    await until(lambda each=primary: b"master_link_status:up" in each.cli("INFO", "replication"))
            assert one.modes == ["redis", "local", "redis", "local", "redis"]
            assert 1_000_000 - (await books(first, namespace)).day.remaining == load.used
            assert not one.waited_too_long


class Proxy:
    """A Unix socket before Redis that takes its time."""

    def __init__(self, server: RedisServer) -> None:
        self.delay = 0.0
        self._server = server
        self._tasks: list[asyncio.Task[None]] = []
        self.url = f"unix://{server.folder}/proxy.sock"

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, server: RedisServer) -> AsyncIterator["Proxy"]:
        proxy = cls(server)
        listening = await asyncio.start_unix_server(proxy._serve, f"{server.folder}/proxy.sock")
        try:
            yield proxy
        finally:
            listening.close()
            for task in proxy._tasks:
                task.cancel()
            await asyncio.gather(*proxy._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.append(asyncio.current_task())
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(str(self._server.socket))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    await asyncio.sleep(self.delay)
                    sink.write(data)
            finally:
                sink.close()
                await sink.wait_closed()

        # asyncio.streams of 3.11 reports a handler that was cancelled as an error
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(pump(reader, upstream_writer), pump(upstream_reader, writer), return_exceptions=True)


async def test_open_lets_everybody_pass_and_closed_nobody(server: RedisServer) -> None:
    """The two other policies; what passed under `open` is charged to the budgets afterwards."""
    namespace = uuid.uuid4().hex
    async with watched(server, "open", namespace) as opened, watched(server, "closed", namespace) as closed:
        server.pause()
        verdicts = [await opened.acquire(str(number), 600_000) for number in range(3)]
        assert [(each.allowed, each.running) for each in verdicts] == [(True, 0), (True, 1), (True, 2)]
        for _ in range(2):
            with pytest.raises(LimiterUnavailable):
                await closed.acquire("c")
        await opened.limiter.settle({"0": 5, "1": 6})
        server.resume()
        await opened.until("redis")
        await closed.until("redis")
        assert (await books(server, namespace)).day.remaining == 1_000_000 - 600_011
        assert closed.modes == ["redis", "closed", "redis"]
        assert not opened.waited_too_long
        assert not closed.waited_too_long


async def test_a_redis_that_is_not_there_at_the_start_is_found_later(server: RedisServer) -> None:
    """The gateway starts without it, and uses it once it is there."""
    server.kill()
    async with watched(server) as one:
        assert (one.limiter.mode, one.modes) == ("local", ["local"])
        assert (await one.acquire("a")).allowed
        server.start()
        await one.until("redis")
        assert (await one.acquire("b")).running == 1


async def test_a_redis_that_comes_back_empty_is_told_who_runs(shared_server: RedisServer) -> None:
    """FLUSHALL without a broken connection: the next heartbeat enters what runs."""
    namespace = uuid.uuid4().hex
    async with watched(shared_server, namespace=namespace) as one:
        await one.acquire("a", 10)
        shared_server.cli("FLUSHALL")
        await one.limiter.renew(["a"])
        verdict = await books(shared_server, namespace)
        assert (verdict.running, verdict.day.remaining) == (1, 999_990)


async def test_a_refusal_of_redis_stays_a_refusal(shared_server: RedisServer) -> None:
    """Refused is refused: nothing is held, nothing is charged, and settling it is without effect."""
    rules = (Rule("subject:bob", Allowance(requests=Pace.of_requests(60, 1))),)
    async with watched(shared_server) as one:
        assert (await one.acquire("a", rules=rules)).allowed
        refused = await one.acquire("b", rules=rules)
        assert refused.refusal is not None
        assert refused.refusal.kind is Kind.REQUESTS
        await one.limiter.settle({"b": 100})
        assert not one.limiter._kept


async def test_two_gateways_hold_one_limit(shared_server: RedisServer) -> None:
    """Two limiters on one Redis admit together what the plan allows, and see each other's leases."""
    namespace = uuid.uuid4().hex
    rules = (Rule("subject:carol", Allowance(concurrent=5, requests=Pace.of_requests(60, 50))),)
    async with watched(shared_server, namespace=namespace) as one, watched(shared_server, namespace=namespace) as two:
        verdicts = await asyncio.gather(
            *((one, two)[number % 2].acquire(str(number), rules=rules) for number in range(20))
        )
        assert sum(each.allowed for each in verdicts) == 5
        refused = next(each for each in verdicts if not each.allowed)
        assert refused.running == 5


async def test_a_caller_who_leaves_while_redis_is_asked_holds_nothing(server: RedisServer) -> None:
    """Whatever Redis answered to nobody is given back by the settlement that follows."""
    namespace = uuid.uuid4().hex
    async with watched(server, namespace=namespace) as one:
        task = asyncio.create_task(one.acquire("gone", 500))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await one.limiter.settle({"gone": 0})
        verdict = await books(server, namespace)
        assert (verdict.running, verdict.day.remaining) == (0, 1_000_000)


class Relapsing(RedisLimiter):
    """Redis does what the way back asks for, but its first answers get lost; then something unheard of happens."""

    losses = 0

    async def enter(self, *how) -> None:
        """Done; the first two times the caller does not hear of it."""
        await super().enter(*how)
        Relapsing.losses += 1
        if Relapsing.losses <= 2:
            raise RedisAway("lost again")
        if Relapsing.losses == 3:
            raise ValueError("unheard of")


@pytest.mark.parametrize("ends", ["in the dark", "later"])
async def test_a_way_back_that_breaks_off_charges_nothing_twice(
    server: RedisServer, caplog: pytest.LogCaptureFixture, ends: str
) -> None:
    """Redis is lost again, and again, while it is told of a request that runs: it counts once, whenever that one ends."""
    namespace = uuid.uuid4().hex
    Relapsing.losses = 0
    async with watched(server, namespace=namespace, limiter=Relapsing) as one:
        server.pause()
        await one.acquire("dark", 500)
        server.resume()
        await until(lambda: Relapsing.losses >= 1)
        if ends == "in the dark":
            await one.limiter.settle({"dark": 70})
        await one.until("redis")
        if ends == "later":
            assert "the way back failed" in caplog.text
            verdict = await books(server, namespace)
            assert (verdict.running, 1_000_000 - verdict.day.remaining) == (1, 500)
            await one.limiter.settle({"dark": 70})
        verdict = await books(server, namespace)
        assert (verdict.running, 1_000_000 - verdict.day.remaining) == (0, 70)


async def test_a_debt_of_a_day_that_is_over_is_not_booked_on_the_next(server: RedisServer) -> None:
    """What was used in the dark before midnight is no charge on the day after it; the month it still belongs to has it."""
    namespace = uuid.uuid4().hex
    async with watched(server, namespace=namespace) as one:
        server.pause()
        await one.acquire("dark", 500)
        await one.limiter.settle({"dark": 70})
        for debt in one.limiter._debts.values():
            debt.day_end = 1
        server.resume()
        await one.until("redis")
        verdict = await books(server, namespace)
        assert (verdict.day.remaining, verdict.month.remaining) == (1_000_000, 2_000_000 - 70)


@pytest.mark.parametrize("method", ["renew", "settle"])
async def test_heartbeats_and_settlements_notice_the_loss_too(server: RedisServer, method: str) -> None:
    """Neither raises; both switch the mode, and what was to be settled is kept."""
    namespace = uuid.uuid4().hex
    async with watched(server, namespace=namespace) as one:
        await one.acquire("a", 500)
        server.pause()
        await (one.limiter.renew(["a"]) if method == "renew" else one.limiter.settle({"a": 3}))
        assert one.limiter.mode == "local"
        await one.limiter.renew(["a"])
        server.resume()
        await one.until("redis")
        verdict = await books(server, namespace)
        assert (verdict.running, verdict.day.remaining) == ((1, 999_500) if method == "renew" else (0, 999_997))


async def test_only_a_way_back_is_a_warning(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A start with a Redis that is there is no news; its return is, with what was delivered."""
    caplog.set_level("INFO", "gatehouse.limits")
    async with watched(server) as one:
        assert [(each.levelname, each.message) for each in caplog.records] == [("INFO", "redis: it counts")]
        server.pause()
        await one.acquire("a", 500)
        server.resume()
        await one.until("redis")
        told = [each.message for each in caplog.records if each.levelname == "WARNING"]
        assert told[0] == "redis: it counts; 1 settlements and 0 sums were delivered"  # a's, whose answer was lost


async def test_what_dies_with_the_process_is_said(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A gateway that stops while Redis is away says how many settlements it could not deliver."""
    async with watched(server) as one:
        await one.acquire("a", 500)
        server.pause()
        await one.acquire("b", 500)
        await one.limiter.settle({"a": 3, "b": 4})
    assert "3 settlements are lost" in caplog.text  # of a, of b's lost answer, and the sum that b used
    server.resume()


async def test_a_server_that_speaks_another_protocol_counts_as_away(tmp_path) -> None:
    """What is not Redis' protocol ends the connection, and local limits hold."""

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()

    path = f"/tmp/gatehouse-{uuid.uuid4().hex}.sock"
    listening = await asyncio.start_unix_server(nonsense, path)
    one = Watched(f"unix://{path}", "local", "n")
    await one.limiter.start()
    assert one.limiter.mode == "local"
    assert (await one.acquire("a")).allowed
    await one.limiter.close()
    listening.close()
    Path(path).unlink(missing_ok=True)
