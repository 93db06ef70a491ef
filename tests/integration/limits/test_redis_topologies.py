"""Every way to a Redis that `redis.url` may name: real servers with passwords, TLS, sentinels, a cluster."""

import asyncio
import contextlib
import uuid
from pathlib import Path

import pytest
import redis

from bench.limits import over_http
from bench.limits.exact import until_bright
from gatehouse.deploy.certificate import self_signed
from gateway.limits.fallback import FallbackLimiter
from gateway.limits.limiter import Allowance, Rule
from gateway.limits.memory import MemoryLimiter
from gateway.limits.redis import RedisLimiter
from gateway.redis import Link
from gateway.redis.address import Address
from tests.support.needs import free_port, free_ports
from tests.support.redis_server import RedisServer, running_redis
from tests.support.stack import until

RULES = (Rule("total", Allowance(concurrent=5, tokens_per_day=1000)),)


@contextlib.asynccontextmanager
async def limiter(url: str, namespace: str = "", seconds: float = 10.0):
    """A limiter that shall count in Redis, and waits so long for it: by default even where this machine is busy."""
    name = namespace or uuid.uuid4().hex
    one = FallbackLimiter(
        lambda link: RedisLimiter(link, lease=30, time_zone="UTC", namespace=name),
        lambda on_lost: Link(Address(url), seconds, on_lost),
        MemoryLimiter(lease=30, time_zone="UTC"),
        on_failure="local",
        time_zone="UTC",
        on_mode=lambda mode: None,
    )
    await one.start()
    try:
        yield one
    finally:
        await one.close()


async def until_redis(one: FallbackLimiter) -> None:
    async with asyncio.timeout(60):
        while one.mode != "redis":
            await asyncio.sleep(0.01)


async def works(url: str) -> None:
    async with limiter(url) as one:
        await until_redis(one)
        assert [(await one.acquire(str(n), RULES, 10)).allowed for n in range(6)] == [True] * 5 + [False]
        assert one.mode == "redis"


async def test_tcp_with_a_password_and_a_database() -> None:
    """Nobody in particular, or a named user with a password full of punctuation; and SELECT."""
    port = free_port()
    with running_redis(port=port) as server:
        server.cli("ACL", "SETUSER", "gate", "on", ">s3cr:t@/", "~{*", "&*", "+@all")
        await works(f"redis://gate:s3cr%3At%40%2F@127.0.0.1:{port}/1")
        assert server.cli("DBSIZE") == 0
        await works(f"valkey://127.0.0.1:{port}")
        assert server.cli("DBSIZE") > 0
        await works(f"{server.url}?db=2")


async def test_a_wrong_password_is_said_and_local_limits_hold(caplog: pytest.LogCaptureFixture) -> None:
    """The gateway starts without Redis, says why, and never shows the password."""
    port = free_port()
    with running_redis(port=port) as server:
        server.cli("CONFIG", "SET", "requirepass", "right")
        async with limiter(f"redis://:wrong-one@127.0.0.1:{port}") as one:
            assert one.mode == "local"
            assert (await one.acquire("a", RULES, 1)).allowed
    assert "WRONGPASS" in caplog.text or "invalid username-password" in caplog.text
    assert "wrong-one" not in caplog.text


async def test_tls_is_verified(tmp_path: Path) -> None:
    """rediss:// with the server's CA works; without it nothing is sent, and local limits hold."""
    certificate, key = tmp_path / "redis.crt", tmp_path / "redis.key"
    for file, pem in zip((certificate, key), self_signed("localhost"), strict=True):
        file.write_text(pem)
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    with running_redis(*options, "--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no"):
        await works(f"rediss://localhost:{port}?ssl_ca_certs={certificate}")
        async with limiter(f"rediss://localhost:{port}") as one:
            assert one.mode == "local"


async def test_a_cluster_is_found_from_any_node() -> None:
    """Two gateways that start at different nodes of a cluster count together, on the node that owns the hash tag."""
    ports = free_ports(3)
    with contextlib.ExitStack() as stack:
        nodes = [
            stack.enter_context(running_redis("--cluster-enabled", "yes", "--cluster-node-timeout", "30000", port=port))
            for port in ports
        ]
        await asyncio.to_thread(join, nodes, ports)
        namespace = uuid.uuid4().hex
        urls = [f"redis://127.0.0.1:{ports[0]},127.0.0.1:{ports[2]}", f"redis://127.0.0.1:{ports[1]}"]
        async with limiter(urls[0], namespace) as one, limiter(urls[1], namespace) as two:
            assert (one.mode, two.mode) == ("redis", "redis")
            verdicts = await asyncio.gather(*((one, two)[n % 2].acquire(str(n), RULES, 10) for n in range(20)))
            assert sum(each.allowed for each in verdicts) == 5
            await two.settle({str(n): 7 for n in range(20)})
            await one.settle({str(n): 7 for n in range(20)})
            verdict = await one.acquire("last", RULES, 0)
            assert (verdict.running, verdict.day.remaining) == (0, 965)
        assert sorted(bool(node.cli("DBSIZE")) for node in nodes) == [False, False, True]


async def test_gateways_on_two_nodes_of_a_cluster_hold_the_limits_through_a_failover() -> None:
    """Two gateway processes, each knows another node; under load the node with the books is killed, and its replica
    takes over: what reached the engine exceeds no limit in any window, and afterwards Redis counts again for both.
    """
    ports = free_ports(4)
    with contextlib.ExitStack() as stack:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
        nodes = [stack.enter_context(running_redis(*options, port=port)) for port in ports]
        await asyncio.to_thread(join, nodes[:3], ports[:3])
        owner = await asyncio.to_thread(_with_replica, nodes, ports)
        others = [port for port in ports[:3] if port != ports[owner]]
        urls = [f"redis://127.0.0.1:{port},127.0.0.1:{ports[3]}" for port in others]
        async with over_http.loaded(32, *urls) as (load, engine):
            await _until(lambda: load.shows_something)
            nodes[owner].kill()
            passed = load.seen["200"]
            await _until(lambda: load.seen["503"] > 0)
            await _until(lambda: b"role:master" in nodes[3].cli("INFO", "replication"))
            await asyncio.to_thread(until_bright, load.fleet)
            await _until(lambda: load.seen["200"] > passed + 20)
            load.stop.set()
            await engine.until("vllm:num_requests_running", 0)
            report = over_http.judge(load, await engine.requests())
        assert report["violations"] == []


def _with_replica(nodes: list[RedisServer], ports: list[int]) -> int:
    """Makes the last node a replica of the one that has the limiter's keys; which one that is."""
    nodes[3].cli("CLUSTER", "MEET", "127.0.0.1", ports[0])
    owner = nodes[0].cli("CLUSTER", "KEYSLOT", "{gatehouse:limits:1}") * 3 // 16384
    name = nodes[owner].cli("CLUSTER", "MYID")
    until(lambda: nodes[3].cli("CLUSTER", "REPLICATE", name) == b"OK", "the replica knows its primary", 60)
    until(lambda: b"master_link_status:up" in nodes[3].cli("INFO", "replication"), "the replica has a link", 60)
    until(lambda: all(b"slave" in node.cli("CLUSTER", "NODES") for node in nodes), "all know the replica", 60)
    return owner


def join(nodes: list[RedisServer], ports: list[int]) -> None:
    """Three primaries that share the slots."""
    for number, node in enumerate(nodes):
        first, last = 16384 * number // 3, 16384 * (number + 1) // 3 - 1
        assert node.cli("CLUSTER", "ADDSLOTSRANGE", first, last) == b"OK"
        node.cli("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for port in ports:
            node.cli("CLUSTER", "MEET", "127.0.0.1", port)

    def complete() -> bool:
        return all(
            b"cluster_state:ok" in (info := node.cli("CLUSTER", "INFO")) and b"cluster_known_nodes:3" in info
            for node in nodes
        )

    until(complete, "the cluster is complete", 60)


async def test_sentinels_lead_to_the_primary_and_after_a_failover_to_the_new_one(tmp_path: Path) -> None:
    """The primary is killed: local limits hold until the sentinel has promoted the replica, which then counts."""
    primary_port, replica_port, sentinel_port = free_ports(3)
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(running_redis(port=primary_port))
        replica = stack.enter_context(running_redis("--replicaof", f"127.0.0.1 {primary_port}", port=replica_port))
        await _until(lambda: b"master_link_status:up" in replica.cli("INFO", "replication"))
        configuration = tmp_path / "sentinel.conf"
        configuration.write_text(
            f"sentinel monitor house 127.0.0.1 {primary_port} 1\n"
            "sentinel down-after-milliseconds house 1500\nsentinel failover-timeout house 2000\n"
        )
        stack.enter_context(running_redis("--sentinel", port=sentinel_port, configuration=configuration))
        async with limiter(f"redis+sentinel://127.0.0.1:{sentinel_port}/house") as one:
            await until_redis(one)
            assert (await one.acquire("a", RULES, 10)).allowed
            await _until(lambda: replica.cli("DBSIZE") == primary.cli("DBSIZE"))
            await _until(lambda: _knows_replica(sentinel_port))
            primary.kill()
            assert (await one.acquire("b", RULES, 10)).allowed
            assert one.mode == "local"
            await until_redis(one)
            assert b"role:master" in replica.cli("INFO", "replication")
            assert (await one.acquire("c", RULES, 10)).running == 2


def _knows_replica(port: int) -> bool:
    with redis.Redis(port=port, protocol=2) as sentinel:
        return len(sentinel.sentinel_slaves("house")) == 1


async def _until(condition) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1", "redis://", "redis://h:port", "redis+sentinel://h:1", "unix+sentinel:///x",
        "redis://u:hunter2@h?nonsense=1", "redis+foo://h",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_without_its_password(url: str) -> None:
    """The mistake is named, the password is not."""
    with pytest.raises(ValueError) as caught:
        Address(url)
    assert "hunter2" not in str(caught.value)
