#!/usr/bin/env python3
"""Makes Grafana's JSON of dashboards.yml: one file a dashboard, into deploy/grafana/dashboards.

usage: python deploy/grafana/build.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SOURCE, TARGET = HERE / "dashboards.yml", HERE / "dashboards"
COLUMNS = 24
SIZES = {"stat": (4, 4), "lines": (8, 8), "states": (8, 8), "days": (8, 8), "table": (12, 10)}  # in Grafana's grid
TYPES = {"stat": "stat", "lines": "timeseries", "states": "state-timeline", "days": "timeseries", "table": "table"}
PROMETHEUS, POSTGRESQL = "prometheus", "grafana-postgresql-datasource"


def dashboards() -> list[dict[str, Any]]:
    """The source as it is written."""
    source: list[dict[str, Any]] = yaml.safe_load(SOURCE.read_text("utf-8"))
    return source


def build(dashboard: dict[str, Any]) -> dict[str, Any]:
    """One dashboard as Grafana has it."""
    database = dashboard.get("database", False)
    kind = POSTGRESQL if database else PROMETHEUS
    return {
        "uid": f"gatehouse-{dashboard['file']}",
        "title": f"Gatehouse: {dashboard['title']}",
        "description": dashboard["about"],
        "tags": ["gatehouse"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "5m" if database else "15s",
        "time": {"from": "now-30d" if database else "now-1h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["gatehouse"], "title": "Gatehouse", "asDropdown": True}],
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": kind}]},
        "panels": list(_panels(dashboard["rows"], {"type": kind, "uid": "${datasource}"})),
    }


def _panels(rows: dict[str, list[dict[str, Any]]], datasource: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Rows one below the other, their panels from left to right."""
    number, y = 0, 0
    for title, panels in rows.items():
        number += 1
        yield {"id": number, "type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}}
        x, y, tallest = 0, y + 1, 0
        for panel in panels:
            number += 1
            width, height = SIZES[panel.get("kind", "lines")]
            width = panel.get("wide", width)
            if x + width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            yield _panel(panel, number, {"x": x, "y": y, "w": width, "h": height}, datasource)
            x, tallest = x + width, max(tallest, height)
        y += tallest


def _panel(panel: dict[str, Any], number: int, place: dict[str, int], datasource: dict[str, str]) -> dict[str, Any]:
    kind = panel.get("kind", "lines")
    defaults: dict[str, Any] = {"unit": panel.get("unit", "none"), "min": 0}
    steps = [{"color": "green", "value": None}]
    steps += [
        {"color": color, "value": panel[key]} for key, color in (("warn", "orange"), ("bad", "red")) if key in panel
    ]
    defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    options: dict[str, Any] = {}
    match kind:
        case "lines":
            defaults["custom"] = {"fillOpacity": 10, "showPoints": "never", "spanNulls": False}
            if panel.get("stack"):
                defaults["custom"] |= {"stacking": {"mode": "normal"}, "fillOpacity": 40}
            if "bad" in panel:
                defaults["custom"]["thresholdsStyle"] = {"mode": "line"}
            options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
        case "stat":
            reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
            options = {"reduceOptions": reduce, "graphMode": "area", "textMode": "name" if "text" in panel else "value"}
        case "days":
            defaults["custom"] = {"drawStyle": "bars", "fillOpacity": 60, "stacking": {"mode": "normal"}}
            if panel["unit"] == "percentunit":  # shares do not add up
                defaults["custom"] = {"drawStyle": "line", "showPoints": "always"}
            options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
        case "table":
            options = {"cellHeight": "sm", "footer": {"show": False}}
        case "states":
            colors = {"0": {"color": "transparent", "text": " "}, "1": {"color": "blue", "text": "yes"}}
            defaults["mappings"] = [{"type": "value", "options": colors}]
            options = {"showValue": "never", "legend": {"showLegend": False}}
    return {
        "id": number,
        "type": TYPES[kind],
        "title": panel["title"],
        **({"description": panel["about"]} if "about" in panel else {}),
        "gridPos": place,
        "datasource": datasource,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + at), **_asked(kind, legend, query), "datasource": datasource}
            for at, (legend, query) in enumerate(panel["queries"].items())
        ],
    }


def _asked(kind: str, legend: str, query: str) -> dict[str, Any]:
    """A target's query: SQL for what comes from the database, else PromQL."""
    if kind not in {"days", "table"}:
        return {"expr": query, "legendFormat": legend}
    return {
        "rawSql": query,
        "rawQuery": True,
        "editorMode": "code",
        "format": "time_series" if kind == "days" else "table",
    }


def text_of(dashboard: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(build(dashboard), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.mkdir(exist_ok=True)
    for each in dashboards():
        (TARGET / f"{each['file']}.json").write_text(text_of(each), "utf-8")
