"""The dashboards as they are shipped: made of their source, asking only for what exists, nothing over anything else."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.promql import known_metrics, metrics_of

ROOT = Path(__file__).parents[3]
GRAFANA = ROOT / "deploy" / "grafana"
BUILD: dict[str, Any] = runpy.run_path(str(GRAFANA / "build.py"))
DASHBOARDS = {each["file"]: each for each in BUILD["dashboards"]()}
OF_METRICS = [name for name, each in DASHBOARDS.items() if not each.get("database")]


def test_the_files_are_what_the_source_makes() -> None:
    """`make dashboards` would change nothing, and no other file lies there."""
    made = {f"{name}.json": BUILD["text_of"](dashboard) for name, dashboard in DASHBOARDS.items()}
    assert {file.name: file.read_text("utf-8") for file in (GRAFANA / "dashboards").iterdir()} == made


@pytest.mark.parametrize("name", OF_METRICS)
def test_a_dashboard_asks_for_metrics_that_exist(name: str) -> None:
    """Each name in a query is exposed by the gateway, the launcher or vLLM, or recorded by alerts.yml."""
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8"))["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}
    for panels in DASHBOARDS[name]["rows"].values():
        for panel in panels:
            for query in panel["queries"].values():
                assert metrics_of(query), query
                assert metrics_of(query) <= known_metrics() | recorded


def test_every_metric_is_on_a_dashboard_or_in_an_alert() -> None:
    """What is measured is shown; but for the figures that belong to one shown."""
    asked = {
        metric
        for name in OF_METRICS
        for panels in DASHBOARDS[name]["rows"].values()
        for panel in panels
        for query in panel["queries"].values()
        for metric in metrics_of(query)
    }
    ours = {name.removesuffix("_bucket") for name in known_metrics() if name.startswith("gatehouse_")}
    ours = {name for name in ours if not name.endswith(("_sum", "_count"))}
    unseen = {"gatehouse_process_virtual_memory_bytes", "gatehouse_process_start_time_seconds"}
    assert ours - {name.removesuffix("_bucket") for name in asked} == unseen


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_lie_beside_each_other(name: str) -> None:
    """Within 24 columns, none over another, each with an id and a name of its own in its row."""
    panels = json.loads((GRAFANA / "dashboards" / f"{name}.json").read_text("utf-8"))["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
