"""Fixtures of the store's tests: the same suite on both databases."""

from pathlib import Path

import pytest

from tests.support.postgresql import PostgresqlServer, postgresql

__all__ = ["postgresql"]


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """Where a database is, or can be, that holds nothing yet."""
    if request.param == "sqlite":
        return tmp_path / "gatehouse.db"
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return server.new_database()
