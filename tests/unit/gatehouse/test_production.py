"""`gatehouse check --production`: each unsafe setting is a problem of its own, and a safe machine has none."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from gatehouse.checks import read_only_config
from gatehouse.cli import gatehouse
from gatehouse.commands.check import findings
from gatehouse.context import Context
from gatehouse.production import _open_sockets, production
from gatehouse.settings import load
from gateway.auth.keys import make_secret_file
from launcher.findings import Level

SAFE: dict[str, Any] = {"gateway": {"trusted_proxies": ["127.0.0.1"]}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory with a key of its own, as a first start makes it."""
    for name in list(os.environ):
        if name.startswith(("GATEHOUSE_", "VLLM_")):
            monkeypatch.delenv(name)
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    make_secret_file(state / "jwt.key")
    return tmp_path


def unsafe(folder: Path, sections: dict[str, Any]) -> dict[str, str]:
    """The problems and notes with these sections on top of the safe ones: subject → text, as a person reads it.

    That of the user is left out: who runs the tests may be root.
    """
    merged = {name: {**SAFE.get(name, {}), **sections.get(name, {})} for name in SAFE.keys() | sections.keys()}
    file = folder / "gatehouse.yaml"
    if not file.exists():
        file.touch(0o640)
    file.write_text(yaml.safe_dump(merged))
    context = Context(config_file=file, chosen_state_dir=folder / "state")
    found = production(load(file), read_only_config(context), file, None)
    bad = [each for each in found if each.level is not Level.OK and each.subject != "user"]
    assert all(each.remedy and ("expected" in each.what or each.level is Level.NOTE) for each in bad)
    return {each.subject: str(each) for each in bad}


def test_a_safe_machine_has_no_finding(folder: Path) -> None:
    """The defaults, a key made at the first start, and a proxy on this machine."""
    assert unsafe(folder, {}) == {}


@pytest.mark.parametrize(
    ("sections", "subject", "text"),
    [
        ({"gateway": {"admin_host": "0.0.0.0"}}, "gateway.admin_host", "asks for no credential"),
        ({"gateway": {"host": "::"}}, "gateway.host", "without TLS"),
        ({"gateway": {"host": "10.0.0.5"}}, "gateway.host", "127.0.0.1"),
        ({"gateway": {"trusted_proxies": []}}, "TLS", "proxy with TLS"),
        ({"gateway": {"trusted_proxies": ["0.0.0.0/0"]}}, "gateway.trusted_proxies", "0.0.0.0/0"),
        ({"gateway": {"trusted_proxies": ["10.0.0.0/16"]}}, "gateway.trusted_proxies", "10.0.0.0/16"),
        ({"gateway": {"trusted_proxies": ["fd00::/64"]}}, "gateway.trusted_proxies", "fd00::/64"),
        ({"auth": {"cookie_over_http": True}}, "auth.cookie_over_http", "expected false"),
        ({"auth": {"public_url": "http://chat.example.com"}}, "auth.public_url", "https"),
        ({"engine": {"host": "0.0.0.0"}}, "engine.host", "vLLM's routes"),
        ({"engine": {"kind": "external", "url": "http://10.0.0.7:8000"}}, "engine.url", "without TLS"),
        ({"engine": {"kind": "simulated"}}, "engine.kind", "made up"),
        ({"engine": {"env": {"VLLM_SERVER_DEV_MODE": "1"}}}, "engine.env", "debugging"),
        ({"engine": {"extra_args": ["--enable-log-requests"]}}, "engine.extra_args", "prompts"),
        ({"logging": {"level": "debug"}}, "logging.level", "debug"),
        ({"logging": {"bodies": {"enabled": True}}}, "logging.bodies", "prompts"),
        ({"redis": {"url": "redis://10.0.0.9:6379/0"}}, "redis.url", "without a password"),
        ({"redis": {"url": "redis+sentinel://a:1,b:2/main"}}, "redis.url", "without a password"),
        ({"redis": {"url": "redis://:pw@10.0.0.9"}}, "redis.url", "without TLS"),
        ({"database": {"url": "postgresql://g:pw@db.example/g"}}, "database.url", "sslmode=prefer"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_an_unsafe_setting_is_found(folder: Path, sections: dict[str, Any], subject: str, text: str) -> None:
    """It is the only finding, and names what was found; no password is repeated."""
    found = unsafe(folder, sections)
    assert list(found) == [subject]
    assert text in found[subject]
    assert "pw" not in found[subject].replace("gatehouse", "")


@pytest.mark.parametrize(
    "sections",
    [
        {"redis": {"url": "redis://127.0.0.1:6379/0"}},
        {"redis": {"url": "redis://localhost"}},
        {"redis": {"url": "unix:///run/redis/redis.sock"}},
        {"redis": {"url": "rediss://user:pw@10.0.0.9"}},
        {"database": {"url": "postgresql://g:pw@127.0.0.1/g"}},
        {"database": {"url": "postgresql://g:pw@db.example/g?sslmode=verify-full"}},
        {"gateway": {"trusted_proxies": ["10.0.0.1", "10.0.1.0/28", "::1"]}},
        {"auth": {"public_url": "https://chat.example.com"}},
        {"engine": {"kind": "external", "url": "https://engine.example"}},
    ],
    ids=json.dumps,
)
def test_a_safe_setting_is_not_found(folder: Path, sections: dict[str, Any]) -> None:
    """Loopback, Unix sockets, TLS with a password, single proxies: nothing to say."""
    assert unsafe(folder, sections) == {}


@pytest.mark.parametrize(
    ("content", "mode", "text"),
    [
        (b"short", 0o600, "5 bytes"),
        (b"ab" * 30, 0o600, "repeats"),
        (b"change-me-to-something-long-and-random-please", 0o600, "typed or copied"),
        (b"0123456789" * 5, 0o600, "typed or copied"),
        (hashlib.sha512(b"good").digest(), 0o644, "0644"),
    ],
)
def test_a_weak_or_readable_signing_key_is_found(folder: Path, content: bytes, mode: int, text: str) -> None:
    """Too short, too regular, a word from an example, or readable by others; the previous keys too."""
    key = folder / "own.key"
    key.touch(mode)
    key.write_bytes(content)
    key.chmod(mode)
    assert text in unsafe(folder, {"auth": {"secret_file": str(key)}})["signing key"]
    assert text in unsafe(folder, {"auth": {"previous_secret_files": [str(key)]}})["signing key"]


@pytest.mark.parametrize("kind", ["hex", "base64"])
def test_a_random_key_is_never_called_typed(folder: Path, kind: str) -> None:
    """What `openssl rand` prints passes, in both codings, a hundred times."""
    key = folder / "own.key"
    key.touch(0o600)
    for _ in range(100):
        raw = os.urandom(32)
        key.write_bytes(raw.hex().encode() if kind == "hex" else base64.b64encode(raw))
        assert unsafe(folder, {"auth": {"secret_file": str(key)}}) == {}


def test_files_that_others_may_read_are_found(folder: Path) -> None:
    """Client secrets and engine keys anywhere in the settings; a configuration with a password; what others may write."""
    secret = folder / "corp.secret"
    secret.write_text("x" * 40)
    secret.chmod(0o644)
    issuer = {
        "name": "corp", "issuer": "https://id.example.com", "audience": "gatehouse", "discovery": True,
        "sso": {"client_id": "gatehouse", "client_secret_file": str(secret)},
    }  # fmt: skip
    found = unsafe(folder, {"auth": {"issuers": [issuer], "public_url": "https://chat.example.com"}})
    assert f"chmod 0600 {secret}" in found["auth.issuers.0.sso.client_secret_file"]
    secret.chmod(0o600)
    file = folder / "gatehouse.yaml"
    file.chmod(0o644)
    assert unsafe(folder, {}) == {}
    assert "a password is in it" in unsafe(folder, {"redis": {"url": "rediss://:pw@10.0.0.9"}})["configuration"]
    file.chmod(0o660)
    assert "owner alone" in unsafe(folder, {})["configuration"]


def test_the_database_in_an_open_folder_is_found(folder: Path) -> None:
    """A state directory that others may enter does not hide a readable database."""
    database = folder / "state/gatehouse.db"
    database.touch()
    database.chmod(0o644)
    assert unsafe(folder, {}) == {}
    (folder / "state").chmod(0o755)
    assert f"chmod 0600 {database}" in unsafe(folder, {})["gatehouse.db"]


def test_a_state_directory_of_roots_is_found(folder: Path) -> None:
    """It means that the services run as root; a folder of another user is none."""
    file = folder / "gatehouse.yaml"
    file.write_text(yaml.safe_dump(SAFE))
    context = Context(config_file=file, chosen_state_dir=folder / "state")
    found = {each.subject: each for each in production(load(file), read_only_config(context), file, None)}
    assert ("user" in found) == (os.geteuid() == 0)


@pytest.fixture
def open_process() -> Iterator[tuple[int, int]]:
    """A process, standing for the engine's, with a child that listens on all interfaces: pid and port."""
    code = (
        "import socket, subprocess, sys, time\n"
        "one = socket.create_server(('0.0.0.0', 0)); print(one.getsockname()[1], flush=True); time.sleep(600)"
    )
    parent = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"]
    process = subprocess.Popen(parent, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    port = int(process.stdout.readline())
    yield process.pid, port
    os.killpg(process.pid, 9)
    process.wait()
    process.stdout.close()


def test_a_port_that_the_engine_opens_to_all_is_named(open_process: tuple[int, int]) -> None:
    """torch's TCPStore listens on all interfaces whatever is configured: a note, for the firewall may close it."""
    pid, port = open_process
    (found,) = _open_sockets(pid)
    assert found.level is Level.NOTE
    assert f":{port}" in found.what
    assert list(_open_sockets(None)) == []


def test_the_command_exits_with_1(folder: Path) -> None:
    """With --production the same configuration is refused that passes without it."""
    file = folder / "gatehouse.yaml"
    file.write_text(
        yaml.safe_dump({"gateway": {"port": 0, "admin_port": 0}, "engine": {"kind": "simulated", "port": 0}})
    )
    words = ["check", "--config", str(file), "--state-dir", str(folder / "state")]
    runner = CliRunner()
    assert runner.invoke(gatehouse, words).exit_code == 0
    refused = runner.invoke(gatehouse, [*words, "--production"])
    assert refused.exit_code == 1
    assert "engine.kind" in refused.output
    assert "TLS" in refused.output
    context = Context(config_file=file, chosen_state_dir=folder / "state")
    assert {"engine.kind", "TLS"} <= {each.subject for each in findings(context, production=True)}
