"""`gatehouse up` with several workers: a private Redis, and nothing left of it all."""

import contextlib
import json
import math
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.test_up import Up, gone, until
from tests.support.redis_server import server_binary
from tests.support.stack import NO_LIMITS, SIMULATED, Stack, running_stack

TRIES = 20
TWO = {"GATEHOUSE_GATEWAY__WORKERS": "2"}
BODY = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


def losses(stack: Stack) -> int:
    """How often a worker went without Redis; a busy machine is one reason."""
    return sum("limits are local" in line.get("message", "") for line in stack.record())


def ask(stack: Stack, subject: str) -> int:
    """The status of one request, over a connection of its own."""
    headers = {"Authorization": f"Bearer {stack.token(subject)}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{stack.url}/v1/chat/completions", json.dumps(BODY).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def private_redis(process: psutil.Process) -> psutil.Process:
    """The Redis that `up` started."""
    name = Path(server_binary()).name
    return next(each for each in process.children(recursive=True) if each.name() == name)


def test_a_private_redis(tmp_path: Path) -> None:
    """Without redis.url the workers count together in a Redis of their own, which is started again when it dies.

    SIGHUP is passed on, down to each worker. At the end nothing is left.
    """
    plans = {"service": NO_LIMITS | {"requests_per_minute": 1, "request_burst": 5}}
    redis = {"timeout_seconds": 0.1}  # as long as it may be
    with running_stack({"engine": SIMULATED, "gateway": {"workers": 2}, "plans": plans, "redis": redis}) as stack:
        for turn in range(TRIES):
            lost, began = losses(stack), time.monotonic()
            answers = [ask(stack, f"caller {turn}") for _ in range(12)]
            if losses(stack) == lost:
                break
        else:
            raise AssertionError(f"Redis was lost {losses(stack)} times")
        assert 5 <= answers.count(200) <= 5 + math.ceil((time.monotonic() - began) / 60), answers
        server = private_redis(psutil.Process(stack.process.pid))
        assert not server.net_connections("tcp")
        server.kill()

        def mode() -> str:
            return next(name for name, v in stack.metrics().items() if name.startswith("gatehouse_limiter_mode{") and v)

        until(lambda: "is started again" in stack.said, "it is started again", lambda: stack.said)
        until(lambda: mode() == 'gatehouse_limiter_mode{mode="redis"}', "it counts again", mode)
        stack.process.send_signal(signal.SIGHUP)
        record = stack.state_dir / "requests.jsonl"
        until(lambda: record.read_text("utf-8").count("plans and limits are taken over") == 2, "both have reloaded")


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """`gatehouse up --demo` with two workers."""
    up = Up(tmp_path, "--demo", "--port", "0", "--admin-port", "0", env=TWO)
    yield up
    family = up.family() if up.process.poll() is None else []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    up.process.kill()
    up.process.wait()


def test_up_is_killed(up: Up) -> None:
    """SIGKILL of `up`: gateway, workers and Redis end by themselves."""
    up.until_said(r"^token ")
    family = [each for each in up.family() if "launcher.simulator" not in each.cmdline()]
    engine = [each for each in up.family() if each not in family]
    assert len([each for each in family if "--worker" in each.cmdline()]) == 2
    assert private_redis(psutil.Process(up.process.pid)) in family
    up.process.kill()
    up.process.wait()
    try:
        until(lambda: gone(family), "all have ended", lambda: [each for each in family if each.is_running()])
    finally:
        for each in engine:  # those the next launcher would clear away
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    assert not (up.state_dir / "redis.sock").exists()


def test_without_a_redis_server(tmp_path: Path) -> None:
    """Where none is installed it is said what to do, and nothing is started."""
    up = Up(tmp_path, "--demo", "--port", "0", "--admin-port", "0", env=TWO | {"PATH": str(tmp_path)})
    assert up.process.wait(60) == 1
    assert "neither redis-server nor valkey-server is on PATH" in up.said
