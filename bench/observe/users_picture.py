"""The picture of "Users and teams": two weeks of made-up usage in a real PostgreSQL, by the panels' SQL."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import random
from pathlib import Path
from typing import Any

import psycopg
from matplotlib import dates, figure
from matplotlib.axes import Axes

from gateway.store import Store
from gateway.store.usage import UsageKey, UsageSum
from tests.support.postgresql import running_postgresql

TEAMS = {"research": ["ada", "bob", "carol"], "support": ["dave", "erin"], "": ["nightly-report"]}
DAYS = 14
CELL = (0.78, 0.42)  # inches of one of Grafana's cells


def made_up(today: dt.date) -> dict[UsageKey, UsageSum]:
    """Usage of two weeks: weekends are quiet."""
    dice = random.Random(20261122)
    found = {}
    for back in range(DAYS):
        day = today - dt.timedelta(days=back)
        for team, people in TEAMS.items():
            for person in people:
                requests = dice.randint(0, 40 if day.weekday() < 5 else 4) * (3 if team == "support" else 1)
                if requests:
                    prompt = requests * dice.randint(300, 900)
                    found[UsageKey(day.isoformat(), person, team, "gpt-oss-20b")] = UsageSum(
                        requests, dice.randint(0, requests // 8), prompt, int(prompt * dice.uniform(0.2, 0.7)),
                        requests * dice.randint(80, 300), requests * dice.randint(20, 80),
                    )  # fmt: skip
    return found


def draw_users(dashboard: dict[str, Any], target: Path) -> None:
    """Draw it where its grid has the panels."""
    today = dt.datetime.now(dt.UTC).date()
    macros = {"$__timeFrom()": f"'{today - dt.timedelta(days=DAYS)}T00:00:00Z'", "$__timeTo()": f"'{today}T23:59:59Z'"}
    with running_postgresql() as server:
        url = server.new_database()

        async def fill() -> None:
            store = await Store.open(url)
            await store.usage.add("made-up", 0, 1, made_up(today))
            await store.close()

        asyncio.run(fill())
        rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
        picture = figure.Figure(figsize=(24 * CELL[0], (rows + 2) * CELL[1]))
        picture.text(0.01, 1 - 1.2 / (rows + 2), dashboard["title"], fontsize=15, weight="bold")
        with psycopg.connect(url) as connection:
            for panel in dashboard["panels"]:
                place = panel["gridPos"]
                left, bottom = place["x"] / 24, 1 - (place["y"] + place["h"] + 2) / (rows + 2)
                width, height = place["w"] / 24, place["h"] / (rows + 2)
                if panel["type"] == "row":
                    picture.text(left + 0.01, bottom + height * 0.2, panel["title"], fontsize=11, color="dimgray")
                    continue
                inside = (left + 0.035, bottom + 1.1 / (rows + 2), width - 0.05, height - 2.2 / (rows + 2))
                axes = picture.add_axes(inside)
                axes.set_title(panel["title"], fontsize=9, loc="left")
                query = panel["targets"][0]["rawSql"]
                for macro, literal in macros.items():
                    query = query.replace(macro, literal)
                cursor = connection.execute(query)
                columns = [column.name for column in cursor.description or ()]
                (table if panel["type"] == "table" else days)(axes, panel, columns, cursor.fetchall())
    picture.savefig(target, dpi=70)


def table(axes: Axes, _panel: dict[str, Any], columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    """A table of what was found."""
    axes.set_axis_off()
    cells = [[f"{each:,}" if not isinstance(each, str) else each for each in row] for row in rows]
    drawn = axes.table(
        cells,
        colLabels=columns,
        loc="upper left",
        cellLoc="left",
        edges="horizontal",
        bbox=(0, 1 - 0.1 * (len(cells) + 1), 1, 0.1 * (len(cells) + 1)),
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7.5)


def days(axes: Axes, panel: dict[str, Any], columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    """Bars on top of each other, day by day; lines for shares."""
    names = sorted({row[1] for row in rows}) if "metric" in columns else [""]
    floor: dict[dt.datetime, float] = {}
    share = panel["fieldConfig"]["defaults"]["unit"] == "percentunit"
    for name in names:
        values = {row[0].astimezone(dt.UTC): float(row[-1] or 0) for row in rows if row[1] == name or not name}
        if share:
            axes.plot(list(values), [value * 100 for value in values.values()], marker=".", label=name)
        else:
            axes.bar(list(values), list(values.values()), bottom=[floor.get(at, 0.0) for at in values], label=name)
        floor |= {at: floor.get(at, 0.0) + value for at, value in values.items()}
    axes.xaxis.set_major_formatter(dates.DateFormatter("%m-%d"))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f} %" if share else f"{value:,.6g}")
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.2)
    if names != [""]:
        axes.legend(fontsize=6.5, loc="upper left", ncols=3, framealpha=0.6)


if __name__ == "__main__":
    root = Path(__file__).parents[2]
    source = json.loads((root / "deploy" / "grafana" / "dashboards" / "users.json").read_text("utf-8"))
    draw_users(source, root / "docs" / "dashboard-users.png")
