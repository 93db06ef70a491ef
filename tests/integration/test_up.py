"""`gatehouse up` as a person runs it: what it prints, what it survives, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gatehouse.commands.up import GRACE_SECONDS
from tests.support.needs import free_port
from tests.support.stack import shared_memory

DEADLINE = 60.0
GATEHOUSE = [sys.executable, "-m", "gatehouse"]


class Up:
    """One `gatehouse up`, with its output in a file."""

    def __init__(self, tmp_path: Path, *flags: str, env: dict[str, str] | None = None) -> None:
        self.state_dir = tmp_path / "state"
        self.output = tmp_path / f"output-{time.monotonic_ns()}"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*GATEHOUSE, "up", "--state-dir", str(self.state_dir), *flags],
                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, **(env or {})},
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self.output.read_text("utf-8")

    def until_said(self, pattern: str, count: int = 1) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            matches = list(re.finditer(pattern, self.said, re.MULTILINE))
            return matches[count - 1] if len(matches) >= count else None

        return until(found, f"{pattern!r} is said", lambda: f"{self.process.poll()} {self.said}")

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, word: str) -> psutil.Process:
        return next(p for p in self.family() if word in p.cmdline())

    def engine_pid(self) -> int:
        return self.child("launcher.simulator").pid

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(DEADLINE)


def until(found: Callable[[], Any], what: str, state: Callable[[], object] = lambda: "") -> Any:
    end = time.monotonic() + DEADLINE
    while not (value := found()):
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}: {state()}"
        time.sleep(0.02)
    return value


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(*flags: str, **how: Any) -> Up:
        started.append(Up(tmp_path, *flags, **how))
        return started[-1]

    yield start
    for up in started:
        family = []
        if up.process.poll() is None:
            family = up.family()
            up.process.kill()
            up.process.wait()
        for process in family:
            if process.is_running():
                process.kill()


def test_the_demo(start: Callable[..., Up]) -> None:
    """Address, login, token and a curl line that streams when pasted; Ctrl-C leaves no process, socket or memory."""
    up = start("--demo", "--port", "0", "--admin-port", "0")
    curl = up.until_said(r"^curl .*$")[0]
    answer = subprocess.run(["bash", "-c", curl], capture_output=True, timeout=DEADLINE, check=True).stdout.decode()
    assert answer.startswith("data: {")
    assert answer.endswith("data: [DONE]\n\n")
    assert "simulated" in answer
    url = up.until_said(r"^chat +(\S+)$")[1]
    login = up.until_said(r"^login +(\S+) / (\S+)$")
    body = json.dumps({"username": login[1], "password": login[2]}).encode()
    request = urllib.request.Request(url + "auth/login", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=DEADLINE) as reply:
        assert json.loads(reply.read())["user"]["name"] == "demo"
        assert "__Host-session=" in reply.headers["Set-Cookie"]
    with urllib.request.urlopen(up.until_said(r"^metrics +(\S+)$")[1], timeout=DEADLINE) as reply:
        assert b"gatehouse_requests_total" in reply.read()
    token = up.until_said(r"^token +(\S+)$")[1]
    assert token in shlex.split(curl)[4]
    record = up.state_dir / "requests.jsonl"
    until(lambda: record.read_text().count('"request_id"') >= 2, "the answer and the login are in the record")
    family = up.family()
    assert len(family) >= 2
    memory = shared_memory(family)
    assert up.interrupt() == 0
    assert gone(family)
    assert not {path for path in memory if path.exists()}
    left = {path.name for path in up.state_dir.iterdir()}
    assert not {name for name in left if name.endswith(".sock") or name in {"gateway.json", "engine.json"}}, left


def test_five_mistakes_are_reported_at_once(start: Callable[..., Up], tmp_path: Path) -> None:
    """Every wrong key by name with what was expected; nothing is started; exit code 2."""
    config = tmp_path / "gatehouse.yaml"
    config.write_text(
        "gateway: {port: 99999, prot: 1}\nengine: {kind: tpu, extra_args: [--host, x]}\nplans: {member: {tokens_per_day: -3}}\n"
    )
    up = start("--config", str(config))
    assert up.process.wait(DEADLINE) == 2
    for problem in ("gateway.port", "gateway.prot", "engine.kind", "engine.extra_args", "plans.member.tokens_per_day"):
        assert up.said.count(problem + ":") == 1, up.said
    assert "Traceback" not in up.said
    assert not up.state_dir.exists()


def test_taken_ports_are_named(start: Callable[..., Up]) -> None:
    """Both listeners are tried before anything is started."""
    with socket.socket() as one, socket.socket() as two:
        for taken in (one, two):
            taken.bind(("127.0.0.1", 0))
            taken.listen()
        ports = [str(taken.getsockname()[1]) for taken in (one, two)]
        words = ("--demo", "--port", ports[0], "--admin-port", ports[1])
        up = start(*words)
        assert up.process.wait(DEADLINE) == 1
        argv = [sys.executable, "-m", "gatehouse", "gateway", *words, "--state-dir", str(up.state_dir)]
        gateway = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert gateway.returncode == 1
    for said in (up.said, gateway.stderr):
        assert f"gateway.port: 127.0.0.1:{ports[0]}" in said
        assert f"gateway.admin_port: 127.0.0.1:{ports[1]}" in said
        assert "--port" in said


def test_without_vllm_the_message_says_what_to_do(start: Callable[..., Up], tmp_path: Path) -> None:
    """No GPU, no vLLM: each is named with its remedy, and --demo as the way to try without."""
    config = tmp_path / "gatehouse.yaml"
    config.write_text("engine: {command: [no-such-vllm], model: /no/such/model}\n")
    up = start("--config", str(config), "--port", "0", "--admin-port", "0")
    assert up.process.wait(DEADLINE) == 1
    assert "no-such-vllm" in up.said
    assert "/no/such/model" in up.said
    assert "--demo" in up.said
    assert "Traceback" not in up.said


def age(pid: int) -> float:
    """Seconds since the process was started, by the kernel's own clock: the wall's may have been set since then."""
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def test_a_gateway_that_is_killed_comes_back(start: Callable[..., Up]) -> None:
    """The engine is not touched; a later request is served at the same address."""
    up = start("--demo", "--port", str(free_port()), "--admin-port", "0", env={"GATEHOUSE_ENGINE__RESTART_DELAY": "1"})
    curl = up.until_said(r"^curl .*$")[0]
    engine = up.engine_pid()
    gateway = up.child("gateway")
    # one that dies within its first seconds is a failed start, not a death
    until(lambda: age(gateway.pid) > GRACE_SECONDS + 0.1, "it is old enough")
    gateway.kill()
    up.until_said(r"the gateway died")
    until(
        lambda: subprocess.run(["bash", "-c", curl], capture_output=True, check=False).stdout.endswith(
            b"data: [DONE]\n\n"
        ),
        "served again",
    )
    assert up.engine_pid() == engine
    assert up.interrupt() == 0


def test_after_a_sigkill_the_next_start_clears_up(start: Callable[..., Up]) -> None:
    """`up` itself is killed: its gateway stops by itself, and the next `up` ends the engine that was left and serves."""
    first = start("--demo", "--port", "0", "--admin-port", "0")
    first.until_said(r"^curl ")
    engine, gateway = psutil.Process(first.engine_pid()), first.child("gateway")
    memory = shared_memory(first.family())
    first.process.kill()
    first.process.wait()
    until(lambda: gone([gateway]), "the gateway has stopped")
    assert engine.is_running()
    second = start("--demo", "--port", "0", "--admin-port", "0")
    second.until_said(r"^curl ")
    assert gone([engine])
    family = second.family()
    memory |= shared_memory(family)
    assert second.interrupt() == 0
    assert gone(family)
    assert not {path for path in memory if path.exists()}


def test_two_on_one_state_directory(start: Callable[..., Up]) -> None:
    """The second is refused with the pid of the first, which goes on."""
    first = start("--demo", "--port", "0", "--admin-port", "0")
    curl = first.until_said(r"^curl .*$")[0]
    second = start("--demo", "--port", "0", "--admin-port", "0")
    assert second.process.wait(DEADLINE) == 1
    assert str(first.process.pid) in second.said
    assert subprocess.run(["bash", "-c", curl], capture_output=True, check=False).stdout.endswith(b"data: [DONE]\n\n")
    assert first.interrupt() == 0


def test_ctrl_c_while_the_engine_starts(start: Callable[..., Up]) -> None:
    """Before anything is ready, too, it stops whole."""
    up = start("--demo", "--port", "0", "--admin-port", "0", env={"GATEHOUSE_ENGINE__SIMULATOR__STARTUP": "60"})
    up.until_said(r"engine starting")
    until(lambda: len(up.family()) >= 2, "both halves run")
    family = up.family()
    assert up.interrupt() == 0
    assert gone(family)


def test_a_second_ctrl_c_does_not_wait_for_streams(start: Callable[..., Up]) -> None:
    """The first lets a long stream go on, the second ends it; the tokens that were sent are in the record."""
    up = start("--demo", "--port", "0", "--admin-port", "0", env={"GATEHOUSE_ENGINE__SIMULATOR__TPS": "5"})
    curl = up.until_said(r"^curl .*$")[0]
    stream = subprocess.Popen(["bash", "-c", curl], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert stream.stdout
    for _ in range(10):
        assert stream.stdout.readline()
    up.process.send_signal(signal.SIGINT)
    up.until_said(r"stopping")
    assert up.process.poll() is None
    assert up.interrupt() == 0
    stream.stdout.close()
    stream.wait(DEADLINE)
    record = [json.loads(line) for line in (up.state_dir / "requests.jsonl").read_text().splitlines()]
    [line] = [line for line in record if "outcome" in line]  # the others are messages
    assert line["outcome"] == "shutdown"
    assert line["completion_tokens"] >= 3
