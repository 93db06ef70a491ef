"""What a gateway that serves has imported. A module that comes back is noticed by nobody: it takes memory and time only.

docs/performance.md says what each of them takes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.support.processes import clean_environment

DEADLINE = 60.0
HEAVY = {
    "cryptography": "public keys of other issuers",
    "jwt": "public keys of other issuers",
    "sqlalchemy.orm": "nobody",
    "sqlalchemy.dialects.postgresql": "PostgreSQL",
    "alembic": "a migration that is pending",
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The packages and modules, in the order in which they were there, that `gatehouse gateway` has imported when it serves, on a state folder in use."""
    folder = tmp_path_factory.mktemp("start")
    settings = {
        "engine": {"kind": "external", "url": "http://127.0.0.1:9"},
        "gateway": {"port": 0, "admin_port": 0},
        "logging": {"stdout": False},
    }
    (folder / "gatehouse.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    where = ["--config", str(folder / "gatehouse.yaml"), "--state-dir", str(folder / "state")]
    subprocess.run([sys.executable, "-m", "gatehouse", "user", "list", *where], check=True, env=clean_environment())
    environment = clean_environment() | {"PYTHONPROFILEIMPORTTIME": "1"}
    with (folder / "imports").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gatehouse", "gateway", *where], stderr=output, env=environment
        )
    try:
        end = time.monotonic() + DEADLINE
        while not (folder / "state" / "gateway.json").exists():
            assert process.poll() is None
            assert time.monotonic() < end, "the gateway does not start"
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(DEADLINE)
    lines = (folder / "imports").read_text("utf-8").splitlines()
    return [line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")]


@pytest.mark.parametrize("module", HEAVY)
def test_what_takes_much_is_imported_by_those_who_need_it(imported: list[str], module: str) -> None:
    """A gateway with tokens of its own, a database that is up to date, and no other feature has none of it."""
    assert "gateway.server" in imported
    assert module not in imported, f"{module} is for {HEAVY[module]}"


def test_aiohttp_comes_without_the_machines_certificates(imported: list[str]) -> None:
    """Nothing has imported it before the command does so in its own way (`gatehouse.lean`)."""
    assert imported.index("aiohttp") > imported.index("gateway.listening")  # the last that the command's module needs
