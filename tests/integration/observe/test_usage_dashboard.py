"""The dashboard of users and teams: each query of it, as Grafana sends it, on a real PostgreSQL, as the role that is shipped."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gateway.store import Store
from gateway.store.usage import UsageKey, UsageSum
from tests.support.postgresql import PostgresqlServer, postgresql

__all__ = ["postgresql"]

GRAFANA = Path(__file__).parents[3] / "deploy" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "users.json").read_text("utf-8"))
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
ROLE = "gatehouse_grafana"
# Grafana's macros are these literals: https://grafana.com/docs/grafana/latest/datasources/postgres/#macros
MACROS = {"$__timeFrom()": "'2026-11-01T00:00:00Z'", "$__timeTo()": "'2026-11-30T23:59:59Z'"}
USAGE = {
    UsageKey("2026-10-31", "alice", "red", "m"): UsageSum(requests=1000, prompt_tokens=1000),  # outside
    UsageKey("2026-11-01", "alice", "red", "m"): UsageSum(
        requests=3, rejected=1, prompt_tokens=100, cached_tokens=40, completion_tokens=50
    ),
    UsageKey("2026-11-01", "bob", "", "m"): UsageSum(
        requests=1, prompt_tokens=10, completion_tokens=5, reasoning_tokens=2
    ),
    UsageKey("2026-11-02", "carol", "red", "n"): UsageSum(
        requests=2, prompt_tokens=100, cached_tokens=0, completion_tokens=1
    ),
}


@pytest.fixture
async def database(postgresql: PostgresqlServer) -> str:
    """One that holds usage, and the shipped role; its URL."""
    url = postgresql.new_database()
    store = await Store.open(url)
    await store.usage.add("file", 0, 1, USAGE)
    await store.close()
    return url


@pytest.fixture
def grafana(postgresql: PostgresqlServer, database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection as Grafana has it."""
    psql = [postgresql.bin / "psql", database, "-q", "-v", "ON_ERROR_STOP=1", "-v", "password=let me in"]
    subprocess.run([*psql, "-f", GRAFANA / "usage_role.sql"], check=True, timeout=60)
    info = psycopg.conninfo.conninfo_to_dict(database)
    with psycopg.connect(**{**info, "user": ROLE, "password": "let me in"}, autocommit=True) as connection:
        yield connection
    postgresql.execute(database, f"DROP OWNED BY {ROLE}")
    postgresql.execute(database, f"DROP ROLE {ROLE}")


def asked(connection: psycopg.Connection[Any], title: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Columns and rows of a panel."""
    [target] = PANELS[title]["targets"]
    query = target["rawSql"]
    for macro, literal in MACROS.items():
        query = query.replace(macro, literal)
    assert "$" not in query
    cursor = connection.execute(query)
    assert cursor.description
    return [column.name for column in cursor.description], cursor.fetchall()


async def test_each_panel_has_what_it_shows(grafana: psycopg.Connection[Any]) -> None:
    """Series have a time, in order, and a value; tables the sums of the chosen days, the greatest first."""
    for title, panel in PANELS.items():
        columns, rows = asked(grafana, title)
        assert rows, title
        if panel["targets"][0]["format"] == "time_series":
            assert columns in (["time", "metric", "value"], ["time", "value"]), title
            assert [row[0] for row in rows] == sorted(row[0] for row in rows)
            assert all(row[0].tzinfo is not None and isinstance(row[-1], (int, float, Decimal)) for row in rows)


async def test_the_figures_are_those_of_the_usage(grafana: psycopg.Connection[Any]) -> None:
    """By user, by team, by day; who has no team is shown as such; days outside the choice do not count."""
    columns, rows = asked(grafana, "Users")
    users = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [(each["user"], each["team"], each["tokens"]) for each in users] == [
        ("alice", "red", 150),
        ("carol", "red", 101),
        ("bob", "no team", 15),
    ]
    assert (users[0]["requests"], users[0]["refused"], users[0]["cached"]) == (3, 1, 40)
    columns, rows = asked(grafana, "Teams")
    assert [(row[0], row[-2], row[-1]) for row in rows] == [("red", 251, 2), ("no team", 15, 1)]
    _, rows = asked(grafana, "Tokens of a day by team")
    assert {(row[0].astimezone(dt.UTC).date().isoformat(), *row[1:]) for row in rows} == {
        ("2026-11-01", "no team", 15),
        ("2026-11-01", "red", 150),
        ("2026-11-02", "red", 101),
    }
    _, rows = asked(grafana, "Prompt from the cache, by team")
    assert sorted((row[1], row[2]) for row in rows) == [("no team", 0.0), ("red", 0.0), ("red", 0.4)]


async def test_grafana_may_read_usage_and_nothing_else(grafana: psycopg.Connection[Any]) -> None:
    """No other table, and no word that writes."""
    tables = [row[0] for row in grafana.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    assert {"usage", "users", "sessions", "issued_tokens"} <= set(tables)
    for table in set(tables) - {"usage"}:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            grafana.execute(f"SELECT * FROM {table}")
    for statement in ("DELETE FROM usage", "SET default_transaction_read_only = off; DELETE FROM usage"):
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)):
            grafana.execute(statement)
