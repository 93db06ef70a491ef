"""Draws the dashboards as Grafana would lay them out, with matplotlib, from a real Prometheus over the simulated engine
under two minutes of load with faults. Writes docs/dashboard-*.png.

usage: python -m bench.observe.pictures [SECONDS]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import matplotlib as mpl
from matplotlib import dates, figure
from matplotlib.axes import Axes

from bench.observe.users_picture import draw_users
from tests.support.prometheus import Prometheus, prometheus
from tests.support.stack import SIMULATED, Stack, running_stack
from tests.support.traffic import APIS, Request

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"
CELL = (0.78, 0.42)  # inches of one of Grafana's cells
WINDOW = "10s"  # for $__rate_interval
PLAN = {"requests_per_minute": 60, "request_burst": 4}
CONFIG: dict[str, Any] = {
    "engine": {
        **SIMULATED,
        "simulator": {"control": True, "ttft": 0.08, "tps": 60},
        "max_num_seqs": 24,
    },
    "limits": {"team": {"red": {}, "blue": {}}},
    "plans": {"member": PLAN},
    "gateway": {"hold_seconds": 5},
}


async def load(stack: Stack, seconds: float) -> None:
    """Callers come in waves; some leave, some are refused, some answers break off, and once the engine dies."""
    dice = random.Random(20261122)
    began = time.monotonic()
    callers = [
        stack.token(
            f"caller{n}", team=dice.choice(["red", "red", "blue", "green"]), plan=dice.choice(["service", "member"])
        )
        for n in range(12)
    ]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def one() -> None:
            request = Request(dice.choice(APIS), stream=dice.random() < 0.8, max_tokens=dice.randint(20, 200))
            body = request.body(stack.model, "Tell me about gates. " * dice.choice([1, 1, 5, 40]))
            headers = {"Authorization": f"Bearer {dice.choice(callers)}"}
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                patience = dice.uniform(0.2, 1.5) if dice.random() < 0.08 else 60
                async with (
                    asyncio.timeout(patience),
                    http.post(stack.url + request.path, json=body, headers=headers) as got,
                ):
                    await got.read()

        async def fault(at: float, **knobs: Any) -> None:
            await asyncio.sleep(at * seconds)
            key = {"Authorization": f"Bearer {stack.engine_key}"}
            async with http.post(stack.engine_url + "/sim/knobs", json=knobs, headers=key):
                pass

        async def die(at: float) -> None:
            await asyncio.sleep(at * seconds)
            os.kill(stack.status()["pid"], signal.SIGKILL)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fault(0.25, fault="error_frame", fault_after=5, fault_times=12))
            tasks.create_task(die(0.62))
            while (passed := (time.monotonic() - began) / seconds) < 1:
                tasks.create_task(one())
                wave = 1 + 4 * max(0, 1 - abs(passed - 0.42) / 0.16) + (1.5 if passed > 0.8 else 0)
                await asyncio.sleep(dice.expovariate(4 * wave))


def draw(dashboard: dict[str, Any], source: Prometheus, start: float, end: float, target: Path) -> None:
    """One dashboard, panel by panel where its grid has it."""
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    size = (24 * CELL[0], (rows + 2) * CELL[1])
    picture = figure.Figure(figsize=size)
    picture.text(0.01, 1 - 1.2 * CELL[1] / size[1], dashboard["title"], fontsize=15, weight="bold")
    for panel in panels:
        place = panel["gridPos"]
        left, bottom = place["x"] / 24, 1 - (place["y"] + place["h"] + 2) / (rows + 2)
        width, height = place["w"] / 24, place["h"] / (rows + 2)
        if panel["type"] == "row":
            picture.text(
                left + 0.01, bottom + height * 0.2, panel["title"], fontsize=11, color="dimgray", weight="bold"
            )
            continue
        axes = picture.add_axes(
            (left + 0.035, bottom + 0.55 * CELL[1] / size[1] * 2, width - 0.05, height - 2.2 * CELL[1] / size[1])
        )
        axes.set_title(panel["title"], fontsize=9, loc="left")
        series = {
            label(target["legendFormat"], json.loads(metric)): values
            for target in panel["targets"]
            for metric, values in source.range(target["expr"].replace("$__rate_interval", WINDOW), start, end).items()
        }
        {"stat": stat, "timeseries": lines, "state-timeline": states}[panel["type"]](axes, panel, series)
    picture.savefig(target, dpi=70)


Series = dict[str, list[tuple[float, float]]]


def lines(axes: Axes, panel: dict[str, Any], series: Series) -> None:
    stacked = "stacking" in panel["fieldConfig"]["defaults"]["custom"]
    moments = sorted({at for values in series.values() for at, _ in values})
    floor = dict.fromkeys(moments, 0.0)
    for name, values in sorted(series.items()):
        if stacked:
            known = dict(values)
            roof = {at: floor[at] + known.get(at, 0.0) for at in moments}
            axes.fill_between(
                days(moments), list(floor.values()), list(roof.values()), alpha=0.6, label=name, step=None
            )
            floor = roof
        else:
            axes.plot(days([at for at, _ in values]), [value for _, value in values], label=name, linewidth=1.2)
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["color"] == "red" and axes.get_ylim()[1] > step["value"]:
            axes.axhline(step["value"], color="red", linewidth=0.7, linestyle="--")
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.15 if any(map(max_of, series.values())) else 1)
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, panel))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S"))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(maxticks=5))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if series:
        axes.legend(fontsize=6.5, loc="upper left", ncols=2, framealpha=0.6)


def max_of(values: list[tuple[float, float]]) -> float:
    return max(value for _, value in values)


def states(axes: Axes, _panel: dict[str, Any], series: Series) -> None:
    seen = sorted(name for name, values in series.items() if any(value for _, value in values))
    for row, name in enumerate(seen):
        spans = [(days([at])[0], 1.1 / 86_400) for at, value in series[name] if value]
        axes.broken_barh(spans, (row + 0.1, 0.8))
    axes.set_yticks([row + 0.5 for row in range(len(seen))], seen, fontsize=7)
    axes.tick_params(labelsize=7)
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S"))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(maxticks=8))


def stat(axes: Axes, panel: dict[str, Any], series: Series) -> None:
    axes.set_axis_off()
    latest = max(series.items(), key=lambda item: item[1][-1][0], default=None)
    if latest is None:
        text = "no data"
    else:
        text = latest[0] if panel["options"]["textMode"] == "name" else shown(latest[1][-1][1], panel)
    axes.text(0.5, 0.4, text, fontsize=16, ha="center", va="center", weight="bold")


def shown(value: float, panel: dict[str, Any]) -> str:
    match panel["fieldConfig"]["defaults"]["unit"]:
        case "s":
            return f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
        case "percentunit":
            return f"{value * 100:.3g} %"
        case "bytes":
            return f"{value / 2**20:.0f} MiB"
        case "reqps":
            return f"{value:.3g}/s"
        case _:
            return f"{value:,.6g}"


def label(template: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def days(moments: list[float]) -> list[float]:
    """Unix time as matplotlib counts, in days."""
    return [at / 86_400 for at in moments]


def main(seconds: float) -> None:
    mpl.rcParams["font.family"] = "DejaVu Sans"
    with (
        tempfile.TemporaryDirectory(prefix="pictures-", dir="/tmp") as folder,
        running_stack(CONFIG) as stack,
        prometheus(stack.admin_url, Path(folder) / "prometheus") as source,
    ):
        source.settle()
        start = time.time()
        asyncio.run(load(stack, seconds))
        source.settle()
        end = time.time()
        for file in sorted(DASHBOARDS.glob("*.json")):
            target = ROOT / "docs" / f"dashboard-{file.stem}.png"
            dashboard = json.loads(file.read_text("utf-8"))
            if file.stem == "users":
                draw_users(dashboard, target)
            else:
                draw(dashboard, source, start, end, target)
            print(target.relative_to(ROOT))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 100)
