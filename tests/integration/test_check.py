"""`gatehouse check`: what a person reads before the first start, and after something broke."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import yaml
from click.testing import CliRunner, Result

from gatehouse.cli import gatehouse
from gatehouse.context import Context
from gateway.auth.keys import load_keys
from gateway.store import Store
from tests.support.needs import free_ports
from tests.support.redis_server import running_redis
from tests.support.stack import SIMULATED, running_stack


def check(*words: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(gatehouse, ["check", *words], catch_exceptions=False)


def findings(*words: str) -> dict[str, dict[str, str]]:
    """The last finding of each subject, from the JSON."""
    answer = check(*words, "--json")
    told = json.loads(answer.output)
    assert told["ok"] == (answer.exit_code == 0)
    assert all(set(one) == {"subject", "what", "remedy", "level"} for one in told["findings"])
    return {one["subject"]: one for one in told["findings"]}


def config_file(folder: Path, **sections: Any) -> str:
    path = folder / "gatehouse.yaml"
    path.write_text(yaml.safe_dump(sections))
    return str(path)


@contextlib.contextmanager
def listening(count: int) -> Iterator[list[int]]:
    """So many taken ports."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        yield [one.getsockname()[1] for one in sockets]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory in which a demo has run: keys and database are there."""
    folder = tmp_path / "state"
    config = Context(chosen_state_dir=folder, demo=True).gateway_config()
    load_keys(config)

    async def make() -> None:
        await (await Store.open(folder / "gatehouse.db")).close()

    asyncio.run(make())
    return folder


def ports(public: int = 0, admin: int = 0) -> dict[str, int]:
    return {"port": public, "admin_port": admin}


def test_a_fresh_demo_is_good_and_nothing_is_made(tmp_path: Path):
    """Before the first start: exit 0, one line each, and not even the state directory is made."""
    config = config_file(tmp_path, gateway=ports())
    answer = check("--demo", "--config", config, "--state-dir", str(tmp_path / "state"))
    assert answer.exit_code == 0
    assert "PROBLEM" not in answer.output
    assert "is made at the first start" in answer.output
    assert not (tmp_path / "state").exists()


def test_the_redis_that_is_configured_is_asked(tmp_path: Path):
    """One that runs a script is good; one that refuses, and one that is away, is named without its password."""
    with running_redis() as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("requirepass", "geheim")
        where = urlsplit(server.url)
        url = where._replace(netloc=f":geheim@{where.netloc}").geturl()
        words = ("--demo", "--state-dir", str(tmp_path / "state"), "--config")
        assert findings(*words, config_file(tmp_path, redis={"url": url}))["redis"]["level"] == "ok"
        wrong = findings(*words, config_file(tmp_path, redis={"url": server.url}))["redis"]
        assert (wrong["level"], "Authentication required" in wrong["what"]) == ("problem", True)
    away = findings(*words, config_file(tmp_path, redis={"url": url}))["redis"]
    assert away["level"] == "problem"
    assert where.netloc in away["what"]
    assert "geheim" not in away["what"]


def test_a_used_state_directory_is_good(tmp_path: Path, state: Path):
    """Keys private, database known: said with the files' names."""
    found = findings("--demo", "--config", config_file(tmp_path, gateway=ports()), "--state-dir", str(state))
    assert {one["level"] for one in found.values()} <= {"ok", "note"}
    assert found["signing key"]["what"] == f"{state}/jwt.key, private"
    assert found["engine key"]["what"] == f"{state}/engine.key, private"
    assert found["database"]["what"] == f"{state}/gatehouse.db, schema up to date"


def test_every_problem_at_once(tmp_path: Path, state: Path):
    """Nine things wrong: nine lines, each with its remedy, exit 1."""
    state.chmod(0o755)
    for name in ("jwt.key", "engine.key", "gatehouse.db"):
        (state / name).chmod(0o644)
    with contextlib.closing(sqlite3.connect(state / "gatehouse.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    with listening(3) as (public, admin, engine):
        config = config_file(
            tmp_path,
            gateway=ports(public, admin),
            engine={"command": ["no-such-vllm"], "model": "/no/such/model", "port": engine},
        )
        words = ("--config", config, "--state-dir", str(state))
        found, answer = findings(*words), check(*words)
    bad = {name for name, one in found.items() if one["level"] == "problem"}
    assert bad >= {
        *("state directory", "vLLM", "model", "engine port", "gateway.port", "gateway.admin_port"),
        *("signing key", "engine key", "database"),
    }
    assert all(found[name]["remedy"] for name in bad)
    assert answer.exit_code == 1
    assert answer.output.count("PROBLEM") >= 9
    assert f"(pid {os.getpid()})" in found["gateway.port"]["what"]
    assert "written by a newer one" in found["database"]["what"]
    assert "chmod 600" in found["engine key"]["remedy"]
    assert "chmod 700" in found["state directory"]["remedy"]


def test_wrong_keys_of_the_configuration(tmp_path: Path):
    """Each wrong key is a line; the machine is not looked at, as nobody knows what for."""
    config = config_file(tmp_path, gateway={"port": 99999}, engine={"kind": "tpu"})
    answer = check("--config", config)
    assert answer.exit_code == 1
    assert [line.split()[:3] for line in answer.output.splitlines()] == [
        ["PROBLEM", "configuration", "engine.kind:"],
        ["PROBLEM", "configuration", "gateway.port:"],
    ]


@pytest.mark.parametrize("level", ["old", "missing"])
def test_pending_migrations_are_no_problem(tmp_path: Path, state: Path, level: str):
    """The next start runs them: said, exit 0."""
    if level == "missing":
        (state / "gatehouse.db").unlink()
    else:
        with contextlib.closing(sqlite3.connect(state / "gatehouse.db")) as database, database:
            database.execute("DELETE FROM alembic_version")
    found = findings("--demo", "--config", config_file(tmp_path, gateway=ports()), "--state-dir", str(state))
    assert found["database"]["level"] == "ok"
    wanted = "is made at the first start" if level == "missing" else "the next start runs "
    assert wanted in found["database"]["what"]


def test_a_path_too_long_for_a_socket(tmp_path: Path):
    """107 bytes are the limit: said with the remedy."""
    found = findings("--demo", "--state-dir", str(tmp_path / ("x" * 100)))
    assert "too long for a Unix socket" in check("--demo", "--state-dir", str(tmp_path / ("x" * 100))).output
    assert found["state directory"]["level"] in {"ok", "problem"}


def test_an_address_of_another_machine(tmp_path: Path):
    """gateway.host must be an address of this machine."""
    config = config_file(tmp_path, gateway={"host": "192.0.2.1", "admin_port": 0})
    found = findings("--demo", "--config", config, "--state-dir", str(tmp_path / "state"))
    assert "cannot be used" in found["gateway.port"]["what"]


def test_while_it_runs_its_own_ports_are_good(monkeypatch):
    """A running Gatehouse is no obstacle to itself: its engine's port and its gateway's are its own."""
    engine, public, admin = free_ports(3)
    with running_stack({"engine": {**SIMULATED, "port": engine}, "gateway": ports(public, admin)}) as stack:
        words = ("--config", str(stack.state_dir.parent / "gatehouse.yaml"), "--state-dir", str(stack.state_dir))
        found = findings(*words)
        assert {one["level"] for one in found.values()} <= {"ok", "note"}, found
        assert found["running"]["what"].startswith(f"pid {stack.process.pid} runs the engine")
        public = int(stack.url.rpartition(":")[2])
        monkeypatch.setenv("GATEHOUSE_GATEWAY__PORT", str(public))
        assert "served by this gateway" in findings(*words)["gateway.port"]["what"]
