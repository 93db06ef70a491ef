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
SIZES = {"stat": (4, 4), "lines": (8, 8), "states": (8, 8)}  # width, height in Grafana's grid
TYPES = {"stat": "stat", "lines": "timeseries", "states": "state-timeline"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboards() -> list[dict[str, Any]]:
    """The source as it is written."""
    source: list[dict[str, Any]] = yaml.safe_load(SOURCE.read_text("utf-8"))
    return source


def build(dashboard: dict[str, Any]) -> dict[str, Any]:
    """One dashboard as Grafana has it."""
    return {
        "uid": f"gatehouse-{dashboard['file']}",
        "title": f"Gatehouse: {dashboard['title']}",
        "description": dashboard["about"],
        "tags": ["gatehouse"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["gatehouse"], "title": "Gatehouse", "asDropdown": True}],
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": list(_panels(dashboard["rows"])),
    }


def _panels(rows: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
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
            yield _panel(panel, number, {"x": x, "y": y, "w": width, "h": height})
            x, tallest = x + width, max(tallest, height)
        y += tallest


def _panel(panel: dict[str, Any], number: int, place: dict[str, int]) -> dict[str, Any]:
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
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + at), "expr": query, "legendFormat": legend, "datasource": DATASOURCE}
            for at, (legend, query) in enumerate(panel["queries"].items())
        ],
    }


def text_of(dashboard: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(build(dashboard), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.mkdir(exist_ok=True)
    for each in dashboards():
        (TARGET / f"{each['file']}.json").write_text(text_of(each), "utf-8")
