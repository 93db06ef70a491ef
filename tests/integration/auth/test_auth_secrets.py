"""A full run of the product, and then a search: no secret is anywhere but where it must be."""

import json
import os
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.stack import SIMULATED, Stack, running_stack

PASSWORD = "only ada knows this passphrase"
WRONG_PASSWORD = "nobody has this one passphrase"
DATABASE_PASSWORD = "database-hunter2-passphrase"


class Run:
    """The product in use: what it was told, and all that it said."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.secrets: dict[str, str] = {}
        self.said: dict[str, str] = {}

    def command(self, *arguments: str, stdin: str = "", wanted: int = 0, **environment: str) -> str:
        """A `gatehouse` command line; its stdout. What it says on stderr is kept for the search."""
        run = subprocess.run(
            [sys.executable, "-m", "gatehouse", *arguments, "--state-dir", str(self.stack.state_dir)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **environment},
        )
        assert run.returncode == wanted, run.stderr
        self.said[f"stderr of {arguments}"] = run.stderr
        return run.stdout

    def call(self, path: str, body: Any = None, **headers: str) -> tuple[int, str, Any]:
        """A request; what comes back is kept for the search."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {
            "Content-Type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        request = urllib.request.Request(self.stack.url + path, data, fields)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, text, got = answer.status, answer.read().decode(), answer.headers
        except urllib.error.HTTPError as error:
            status, text, got = error.code, error.read().decode(), error.headers
        self.said[f"{len(self.said)}: {path} → {status}"] = text + str(
            [(name, value) for name, value in got.items() if name.lower() != "set-cookie"]
        )
        return status, text, got


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Everything that handles a secret, once: well, wrongly, and with the database broken."""
    config = {"engine": SIMULATED, "auth": {"cookie_over_http": True}, "logging": {"stdout": True, "level": "debug"}}
    with running_stack(config) as stack:
        use = Run(stack)
        use.secrets["the signing key"] = (stack.state_dir / "jwt.key").read_text().strip()
        use.secrets["the engine's key"] = stack.engine_key
        token = use.secrets["a token"] = use.command("token", "issue", "--subject", "ci").strip()
        use.secrets["a token's signature"] = token.rpartition(".")[2]
        use.command("user", "add", "ada", "--password-stdin", stdin=PASSWORD + "\n")
        use.secrets["a password"], use.secrets["a wrong password"] = PASSWORD, WRONG_PASSWORD
        use.secrets["a password's hash"] = "$argon2"
        made = use.secrets["a password that was made"] = use.command("user", "add", "bob").strip()
        assert made
        chat = {"model": stack.model, "messages": [{"role": "user", "content": "hello"}]}
        path = "/v1/chat/completions"
        assert use.call(path, chat, Authorization=f"Bearer {token}")[0] == 200
        assert use.call(path, {**chat, "stream": True}, x_api_key=token)[0] == 200
        assert use.call(path, b"{", Authorization=f"Bearer {token}")[0] == 400
        assert use.call(path, chat, Authorization=f"Bearer {token}x")[0] == 401
        assert use.call(path, chat, Authorization=f"Basic {token}")[0] == 401
        assert use.call(path, chat, Authorization=f"Bearer {token}", x_api_key=token[:-1])[0] == 400
        own_page = {"Sec_Fetch_Site": "same-origin"}
        login = {"username": "ada", "password": PASSWORD}
        status, _, headers = use.call("/auth/login", login, **own_page)
        assert status == 200
        cookie = headers["Set-Cookie"].partition(";")[0]
        use.secrets["a session"] = cookie.partition("=")[2]
        assert use.call("/auth/session", Cookie=cookie)[0] == 200
        assert use.call(path, chat, Cookie=cookie, **own_page)[0] == 200
        assert use.call("/auth/login", {**login, "password": WRONG_PASSWORD}, **own_page)[0] == 401
        assert use.call("/auth/login", {"user": "ada", "password": PASSWORD}, **own_page)[0] == 400
        assert use.call("/auth/login", f'{{"username": "ada", "password": "{PASSWORD}'.encode(), **own_page)[0] == 400
        use.command("token", "inspect", stdin=token + "\n")
        use.said["token list"] = use.command("token", "list", "--json")
        use.said["user list"] = use.command("user", "list", "--json")
        use.command("user", "passwd", "bob", "--password-stdin", stdin="short\n", wanted=1)
        url = f"postgresql://gatehouse:{DATABASE_PASSWORD}@db.example/gatehouse"
        use.secrets["the database's password"] = DATABASE_PASSWORD
        use.said["config show"] = use.command("config", "show", GATEHOUSE_DATABASE__URL=url)
        use.command("user", "list", wanted=1, GATEHOUSE_DATABASE__URL="sqlite:///:memory:?" + DATABASE_PASSWORD)
        use.said["process list"] = process_list(stack)
        # the database fails: the errors must not say what was being done
        rename(stack, "users", "away")
        assert use.call("/auth/login", login, **own_page)[0] == 503
        use.command("token", "issue", "--subject", "ci", wanted=1)
        use.command("user", "add", "eve", "--password-stdin", stdin=PASSWORD + "\n", wanted=1)
        rename(stack, "away", "users")
        yield use


def rename(stack: Stack, before: str, after: str) -> None:
    with closing(sqlite3.connect(stack.state_dir / "gatehouse.db", timeout=30)) as connection, connection:
        connection.execute(f"ALTER TABLE {before} RENAME TO {after}")


def process_list(stack: Stack) -> str:
    """What `ps` shows of the product's processes: names and arguments."""
    root = psutil.Process(stack.process.pid)
    return "\n".join(" ".join(each.cmdline()) for each in [root, *root.children(recursive=True)])


def test_nothing_that_was_said_holds_a_secret(run: Run) -> None:
    """Neither answers nor messages nor listings nor the process list nor the effective settings hold a secret."""
    run.said["output of gatehouse up, so far"] = run.stack.said
    found = [
        (name, where) for name, secret in run.secrets.items() for where, text in run.said.items() if secret in text
    ]
    assert found == []


def test_nothing_that_was_written_holds_a_secret(run: Run) -> None:
    """Of the files in the state directory only the two key files hold the two keys; no log holds any secret."""
    allowed = {
        "the signing key": {"jwt.key"},
        "the engine's key": {"engine.key"},
        "a password's hash": {"gatehouse.db", "gatehouse.db-wal"},
    }
    found = [
        (name, file.name)
        for file in files_of(run.stack.state_dir)
        for name, secret in run.secrets.items()
        if secret.encode() in file.read_bytes() and file.name not in allowed.get(name, ())
    ]
    assert found == []
    assert {"requests.jsonl", "engine.log"} <= {file.name for file in files_of(run.stack.state_dir)}


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_search_finds_what_is_there(run: Run) -> None:
    """The same search does find a key where it belongs: it is not blind."""
    assert run.secrets["the signing key"] in (run.stack.state_dir / "jwt.key").read_text()
    assert all(len(secret) >= 7 for secret in run.secrets.values())
    assert "gatehouse" in run.said["process list"]
    assert "database" in run.said["config show"]
