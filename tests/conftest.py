"""What all tests share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from gateway.auth.passwords import Passwords
from tests.support.deaths import table_of_deaths

# no verdict on a fact may depend on how busy the machine is
settings.register_profile("gatehouse", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gatehouse")

ENGINE = "tests/engine/"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the tests that passed have measured: the table of deaths, and what they printed."""
    table_of_deaths(terminalreporter)
    printed = [report for report in terminalreporter.stats.get("passed", []) if getattr(report, "capstdout", "")]
    if printed:
        terminalreporter.section("measured")
    for report in printed:
        terminalreporter.write_line(report.nodeid)
        for line in report.capstdout.splitlines():
            terminalreporter.write_line(f"    {line}")


class _Scheduling(LoadScopeScheduling):
    """Which tests stay together where they run in several processes."""

    def _split_scope(self, nodeid: str) -> str:
        return ENGINE if nodeid.startswith(ENGINE) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """A file stays whole, and so do all tests of the one real engine."""
    return _Scheduling(config, log)


COSTLY = vars(Passwords)["_hasher"]


@pytest.fixture(scope="session", autouse=True)
def _cheap_passwords() -> Iterator[None]:
    """Argon2 as it is, but for its cost: members are made and sign in all the time, for 0.2 s of CPU each."""
    cheap = PasswordHasher(time_cost=1, memory_cost=2048, parallelism=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Passwords, "_hasher", cheap)
        yield


@pytest.fixture
def costly_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2 at the cost that it has in use."""
    monkeypatch.setattr(Passwords, "_hasher", COSTLY)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder with a short name: a Unix socket's path has at most 107 characters, pytest's own folders take 60."""
    with tempfile.TemporaryDirectory(prefix="gatehouse-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
