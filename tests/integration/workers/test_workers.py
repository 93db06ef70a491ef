"""Several workers as one gateway: connections spread, deaths and restarts that others do not notice, sums that are true."""

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.engines import Simulator
from tests.support.redis_server import RedisServer
from tests.support.workers import CHAT, WorkersGateway, chat, eventually, workers

STREAM = {"stream": True, "ignore_eos": True}
RUNNING = "vllm:num_requests_running"
DONE = b"data: [DONE]"


async def stream(gate: WorkersGateway, worker: int | None = None, **fields: Any) -> tuple[bool, bytes]:
    """Whether a stream came to its end, and what came of it."""
    got = b""
    try:
        async with gate.post(CHAT, chat(**STREAM, **fields), worker=worker) as answer:
            assert answer.status == 200, await answer.text()
            async for piece in answer.content.iter_any():
                got += piece
    except aiohttp.ClientError:
        return False, got
    return DONE in got, got


async def test_connections_are_spread(engine: Simulator, redis: RedisServer) -> None:
    """Each of 3 workers has a fair part of 240 connections to the port, and each answers on its own Unix socket.

    `gatehouse check` knows them for its own.
    """
    async with workers(engine.url, redis.url, 3) as gate:
        connections = await asyncio.gather(
            *(asyncio.open_connection("127.0.0.1", int(gate.url.rpartition(":")[2])) for _ in range(240))
        )
        pids = await gate.pids()

        async def shares() -> dict[int, int] | None:
            found = {number: len(gate.connections(pid)) for number, pid in pids.items()}
            return found if sum(found.values()) >= len(connections) else None

        found = await eventually(shares, "all are accepted")
        print(f"240 connections: {found}")
        # each falls to each worker with probability 1/3: fewer than 40 of 240 once in 10^8 runs
        assert min(found.values()) >= 40, found
        checked = await asyncio.to_thread(
            gate.command, "check", env={"GATEHOUSE_GATEWAY__PORT": gate.url.rpartition(":")[2]}
        )
        assert f"served by this gateway (pid {gate.process.pid})" in checked.stdout
        for number in pids:
            assert (gate.sockets / f"worker-{number}.sock").stat().st_mode & 0o777 == 0o660
            async with gate.to_worker(number).get("http://gateway/healthz") as answer:
                assert answer.status == 200
        for _, writer in connections:
            writer.close()


async def test_a_killed_worker_takes_its_own_streams_only(engine: Simulator, redis: RedisServer) -> None:
    """SIGKILL of one of two workers under 16 streams: its 8 break, the other 8 end well, its successor serves.

    Its leases run out: the plan's places are all free again.
    """
    plan = {"plans": {"service": {"concurrent_requests": 16, "requests_per_minute": None, "tokens_per_minute": None}}}
    async with workers(engine.url, redis.url, **plan, limits={"lease_seconds": 2}) as gate:
        await engine.knobs(tps=100)
        streams = [asyncio.create_task(stream(gate, 1 + number % 2, max_tokens=2000)) for number in range(16)]
        await engine.until(RUNNING, 16)
        await gate.kill(1)
        await engine.knobs(tps=5000)  # let the others end
        ended = [(await each)[0] for each in streams]
        assert ended == [False, True] * 8
        await engine.until(RUNNING, 0)

        async def free() -> bool:
            return all(await asyncio.gather(*(_accepted(gate, 1 + number % 2) for number in range(16))))

        await eventually(free, "16 requests at once are admitted again")
        # it dies again soon: its sockets are closed for a moment, then it serves on them as before
        await gate.kill(1)
        await gate.kill(1)
        assert await _accepted(gate, 1)


async def test_a_worker_that_hangs_is_replaced(engine: Simulator, redis: RedisServer) -> None:
    """One that is stopped (SIGSTOP) neither answers nor dies: it is killed, which is said, and its successor serves."""
    async with workers(engine.url, redis.url, gateway={"worker_hang_seconds": 3}) as gate:
        old = (await gate.pids())[1]
        os.kill(old, signal.SIGSTOP)
        await gate.followed(1, old)
        assert await _accepted(gate, 1)
        assert f"worker 1 (pid {old}) hangs: no answer for 3 s; it is killed" in gate.said
        assert f"worker 1 (pid {old}) died: exit -9" in gate.said
        assert (await gate.metrics())['gatehouse_worker_deaths_total{exit="hung"}'] >= 1


async def test_ready_while_one_worker_is(engine: Simulator, redis: RedisServer) -> None:
    """The admin listener's /readyz is 200 while one of two workers answers, 503 when none does, and 200 again after."""
    async with workers(engine.url, redis.url, gateway={"worker_hang_seconds": 600}) as gate:
        pids = await gate.pids()

        async def says(status: int) -> dict[str, Any] | None:
            async with gate.http.get(gate.admin_url + "/readyz") as answer:
                body = await answer.json()
                assert body["ready"] == (answer.status == 200) == (not body["reasons"])
                return body if answer.status == status else None

        os.kill(pids[1], signal.SIGSTOP)
        await eventually(lambda: says(200), "one worker is ready")
        os.kill(pids[2], signal.SIGSTOP)
        reasons = (await eventually(lambda: says(503), "none is"))["reasons"]
        assert sorted(reasons) == ["worker 1 does not answer", "worker 2 does not answer"]
        async with gate.http.get(gate.admin_url + "/healthz") as answer:
            assert (answer.status, (await answer.json())["status"]) == (200, "ok")
        for pid in pids.values():
            os.kill(pid, signal.SIGCONT)
        await eventually(lambda: says(200), "both go on")


async def _accepted(gate: WorkersGateway, worker: int) -> bool:
    async with gate.post(CHAT, chat(), worker=worker) as answer:
        await answer.read()
        return answer.status == 200


async def test_replacing_all_workers_loses_nothing(engine: Simulator, redis: RedisServer) -> None:
    """`gatehouse gateway restart` under load: no request fails, long streams end well on their old workers.

    Nothing waits for them: the successors serve meanwhile. Then the same by SIGUSR2.
    """
    async with workers(engine.url, redis.url, gateway={"drain_seconds": 2}) as gate:
        before = await gate.pids()
        await engine.knobs(tps=100)
        long = [asyncio.create_task(stream(gate, 1 + number % 2, max_tokens=8000)) for number in range(6)]
        await engine.until(RUNNING, 6)
        stop, answers = asyncio.Event(), Counter[str]()

        async def client(number: int) -> None:
            chooser = random.Random(number)
            while not stop.is_set():
                worker = chooser.choice((None, 1, 2))
                if chooser.random() < 0.3:
                    answers["streams"] += 1
                    assert (await stream(gate, worker, max_tokens=20))[0]
                else:
                    answers["in one piece"] += 1
                    async with gate.post(CHAT, chat(), worker=worker) as answer:
                        assert answer.status == 200, await answer.text()
                        await answer.read()

        async def replaced() -> bool:
            now = await gate.pids()
            return now.keys() == before.keys() and not set(now.values()) & set(before.values())

        clients = [asyncio.create_task(client(number)) for number in range(8)]
        said = await asyncio.to_thread(gate.command, "gateway", "restart")
        assert said.returncode == 0, said.stderr
        await eventually(replaced, "all workers are replaced")
        assert not any(each.done() for each in long)
        before = await gate.pids()
        gate.process.send_signal(signal.SIGUSR2)
        await eventually(replaced, "all workers are replaced again")
        await engine.knobs(tps=5000)  # let the long ones end
        stop.set()
        await asyncio.gather(*clients)
        assert all(well for well, _ in await asyncio.gather(*long))
        print(f"while all workers were replaced twice: {dict(answers)}, none lost")
        assert answers.total() > 20

        async def alone() -> bool:
            return len(await gate.admin("/workers")) == 2

        await eventually(alone, "the old workers have ended")
        outcomes = Counter(line["outcome"] for line in gate.log_lines())
        assert outcomes == {"complete": len(gate.log_lines())}


async def test_a_successor_that_cannot_start_replaces_nobody(engine: Simulator, redis: RedisServer) -> None:
    """With a broken configuration a restart ends at the first successor; the old workers serve on."""
    async with workers(engine.url, redis.url) as gate:
        before = await gate.pids()
        gate.config_file.write_text("gateway: {no_such_key: 1}", "utf-8")
        await gate.admin("/workers/restart", "POST")

        async def given_up() -> bool:
            return "its successor could not start" in gate.said + (gate.state_dir / "requests.jsonl").read_text("utf-8")

        await eventually(given_up, "the restart is given up")
        assert await gate.pids() == before
        async with gate.http.get(gate.url + "/healthz") as answer:
            assert answer.status == 200


async def test_metrics_and_requests_of_all(engine: Simulator, redis: RedisServer) -> None:
    """The admin listener tells of all workers as of one: sums equal the record and never go back, also past deaths."""
    async with workers(engine.url, redis.url) as gate:
        seen: dict[str, float] = {}

        async def look() -> dict[str, float]:
            found = await gate.metrics()
            counted = {
                name: value
                for name, value in found.items()
                if name.partition("{")[0].endswith(("_total", "_count", "_bucket", "_sum"))
            }
            back = {name: (value, counted.get(name)) for name, value in seen.items() if counted.get(name, -1.0) < value}
            assert not back, back
            seen.update(counted)
            return found

        async def equal(requests: int) -> bool:
            found = await look()
            lines = gate.log_lines()
            counts = {
                "requests": sum(v for n, v in found.items() if n.startswith("gatehouse_requests_total{")),
                "prompt": _tokens(found, "prompt"),
                "completion": _tokens(found, "completion"),
            }
            return counts == {
                "requests": requests,
                "prompt": sum(line["prompt_tokens"] for line in lines),
                "completion": sum(line["completion_tokens"] for line in lines),
            }

        sent = 0
        for killed in (1, 2):
            for number in range(20):
                assert (await stream(gate, 1 + number % 2, max_tokens=5 + number))[0]
            sent += 20
            await eventually(lambda sent=sent: equal(sent), "the sums are the record's")
            await gate.kill(killed)
            assert await equal(sent), "what a dead worker had counted stays"
            assert seen['gatehouse_worker_deaths_total{exit="killed"}'] == killed
        # in order: what a worker counted up to its last moment counts, asked for or not
        assert (await stream(gate, 1, max_tokens=5))[0]
        gate.process.send_signal(signal.SIGUSR2)
        await eventually(lambda: equal(sent + 1), "the sums are the record's")

        await engine.knobs(tps=50)
        tasks = [asyncio.create_task(stream(gate, number, max_tokens=2000)) for number in (1, 2)]
        await engine.until(RUNNING, 2)

        async def listed() -> bool:
            return len(await gate.admin("/requests")) == 2

        await eventually(listed, "both workers' requests are listed")
        found = await gate.admin("/requests")
        assert [each["route"] for each in found] == [CHAT, CHAT]
        assert found[0]["age_s"] >= found[1]["age_s"]
        sums = await look()
        assert sums["gatehouse_in_flight"] == 2
        assert [sums[f'gatehouse_workers{{state="{state}"}}'] for state in ("running", "wanted")] == [2, 2]
        assert sum(value for name, value in sums.items() if name.startswith("gatehouse_worker_deaths_total")) == 2
        shown = await asyncio.to_thread(gate.command, "top", "--once", "--every", "0.1")
        assert shown.returncode == 0, shown.stderr
        assert "in flight: 2" in shown.stdout
        for task in tasks:
            task.cancel()
        await engine.until(RUNNING, 0)


def _tokens(found: dict[str, float], kind: str) -> float:
    return sum(value for name, value in found.items() if name.startswith(f'gatehouse_tokens_total{{kind="{kind}"'))


async def test_the_address_behind_a_unix_socket(engine: Simulator, redis: RedisServer) -> None:
    """Who connects to a worker's socket is a proxy: its X-Forwarded-For is believed, from the right."""
    async with workers(engine.url, redis.url) as gate:
        headers = gate.headers(**{"X-Forwarded-For": "192.0.2.66, 198.51.100.7", "X-Request-Id": "forwarded"})
        async with gate.post(CHAT, chat(), worker=1, headers=headers) as answer:
            assert answer.status == 200

        async def logged() -> list[dict[str, Any]]:
            return [line for line in gate.log_lines() if line["request_id"] == "forwarded"]

        (line,) = await eventually(logged, "its line is written")
        assert line["client_ip"] == "198.51.100.7"


@pytest.mark.parametrize("how", ["SIGTERM", "SIGTERM twice", "SIGKILL"])
async def test_nothing_is_left(engine: Simulator, redis: RedisServer, how: str) -> None:
    """SIGTERM lets streams end; a second one, or the death of the parent, does not wait for ever; then nothing is left."""
    async with workers(engine.url, redis.url, gateway={"drain_seconds": 60 if how != "SIGKILL" else 1}) as gate:
        await engine.knobs(tps=100 if how == "SIGTERM" else 10)
        endless = 100 if how == "SIGTERM" else 8000
        streams = [asyncio.create_task(stream(gate, number, max_tokens=endless)) for number in (1, 2)]
        await engine.until(RUNNING, 2)
        gate.process.send_signal(signal.SIGKILL if how == "SIGKILL" else signal.SIGTERM)
        if how == "SIGTERM twice":
            await _until_draining(gate)
            gate.process.send_signal(signal.SIGTERM)
        ended = [(await each)[0] for each in streams]
        assert ended == [how == "SIGTERM"] * 2
    await engine.until(RUNNING, 0)
    outcomes = {json.loads(line).get("outcome") for line in gate_lines(gate)}
    assert outcomes <= {None, "complete", "shutdown", "rejected"}


async def _until_draining(gate: WorkersGateway) -> None:
    async def refused() -> bool:
        async with gate.post(CHAT, chat(), worker=1) as answer:
            return answer.status == 503

    async def said() -> bool:
        async with gate.http.get(gate.admin_url + "/readyz") as answer:
            return "the gateway is shutting down" in (await answer.json())["reasons"]

    await eventually(refused, "new requests are refused")
    await eventually(said, "the parent says so")


def gate_lines(gate: WorkersGateway) -> list[str]:
    file: Path = gate.state_dir / "requests.jsonl"
    return file.read_text("utf-8").splitlines() if file.exists() else []


async def test_workers_need_redis(engine: Simulator, tmp_path: Path) -> None:
    """Without redis.url several workers are refused, with the key that is missing."""
    config = {"engine": {"kind": "external", "url": engine.url}, "gateway": {"workers": 2}}
    (tmp_path / "gatehouse.yaml").write_text(json.dumps(config), "utf-8")
    process = await asyncio.create_subprocess_exec(
        "gatehouse", "gateway", "--config", str(tmp_path / "gatehouse.yaml"), "--state-dir", str(tmp_path / "state"),
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"gateway.workers: 2 workers need redis.url" in said
