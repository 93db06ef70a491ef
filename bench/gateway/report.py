"""What came out: the table, the budget of the layers, the plots."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

from gatehouse.bench.stats import percentile

mpl.use("Agg")  # no display
from matplotlib import pyplot as plt

Results = dict[str, dict[str, dict[str, list[float | None]]]]  # measure → peer → figure → a value for each pass
Lines = Mapping[str, Sequence[tuple[float, float]]]  # label → points

LEAST = {"cpu_us", "kb_each"}  # other work and earlier passes only add to these
NOT_DRAWN = {"redis", "failed", "lost", "never"}
WAITS = {"latency", "first_chunk"}  # measures of how long a client waits: what counts is what a peer adds to it
NOBODY = "direct"
FULL, BARE = "gatehouse", "gatehouse, none of these"
BUDGET: dict[str, tuple[str, ...]] = {
    FULL: (),
    "gatehouse, no record": ("record",),
    "gatehouse, no metrics": ("metrics",),
    "gatehouse, no tokens": ("tokens",),
    "gatehouse, usage left in": ("usage",),
    "gatehouse, limits in process": ("redis",),
    BARE: ("record", "metrics", "tokens", "usage", "redis"),
}


def typical(figure: str, values: list[float | None]) -> float | None:
    """The median of what was measured; of CPU time and memory the least."""
    known = [value for value in values if value is not None]
    return (min if figure in LEAST else statistics.median)(known) if known else None


def with_added(found: Results) -> Results:
    """The same, and for each wait what it is longer than without anybody between, pass by pass."""
    more: Results = {}
    for measure, peers in found.items():
        more[measure] = {name: dict(figures) for name, figures in peers.items()}
        if measure not in WAITS or NOBODY not in peers:
            continue
        for name, figures in more[measure].items():
            for point in ("p50_ms", "p99_ms"):
                pairs = zip(peers[name][point], peers[NOBODY][point], strict=True)
                figures[f"added_{point}"] = [None if a is None or b is None else a - b for a, b in pairs]
    return more


def table(found: Results) -> str:
    """All of it, as Markdown: a line for each peer."""
    columns = _columns(found)
    names = list(next(iter(found.values())))
    cells = [[show(typical(figure, found[measure][name][figure])) for measure, figure in columns] for name in names]
    return _markdown(
        ["", *(f"{measure} {figure}" for measure, figure in columns)],
        [[name, *row] for name, row in zip(names, cells, strict=True)],
    )


def budget(found: Results) -> str:
    """What each layer costs: CPU microseconds with it less those without, as Markdown.

    The median of the differences within a pass, for a machine is never as fast twice; in brackets between what it lies
    with 95 % confidence. Only what is further from 0 than that is known.
    """
    measures = [measure for measure, peers in found.items() if "cpu_us" in peers[FULL]]
    rows = [[f"without: {', '.join(BUDGET[name])}", *(_saved(found[measure], name) for measure in measures)]
            for name in BUDGET if name != FULL]  # fmt: skip
    rows += [[f"{name}, in all", *(show(typical("cpu_us", found[each][name]["cpu_us"])) for each in measures)]
             for name in ("nginx", FULL)]  # fmt: skip
    return _markdown(["CPU us saved", *measures], rows)


def _saved(peers: dict[str, dict[str, list[float | None]]], name: str) -> str:
    pairs = zip(peers[FULL]["cpu_us"], peers[name]["cpu_us"], strict=True)
    found = percentile([full - without for full, without in pairs if full is not None and without is not None], 0.5)
    return "–" if found is None else f"{show(found.value)} ({show(found.low)} to {show(found.high)})"


def bars(found: Results, file: Path) -> None:
    """Draw a panel for each figure: a bar for each peer, a dot for each pass."""
    columns = [(measure, figure) for measure, figure in _columns(found) if figure not in NOT_DRAWN]
    names = list(next(iter(found.values())))
    across = min(3, len(columns))
    down = math.ceil(len(columns) / across)
    figure, axes = plt.subplots(
        down, across, figsize=(5 * across, (0.8 + 0.35 * len(names)) * down), layout="constrained", squeeze=False
    )
    for axis, (measure, name) in zip(axes.flat, columns, strict=False):
        for at, peer in enumerate(names):
            values = [value for value in found[measure][peer][name] if value is not None]
            axis.barh(at, typical(name, [*values]) or 0, color="tab:orange" if FULL in peer else "tab:gray", alpha=0.6)
            axis.plot(values, [at] * len(values), "k.", markersize=3)
        axis.set(title=f"{measure}: {name}", yticks=range(len(names)), yticklabels=names)
        axis.invert_yaxis()
    for axis in axes.flat[len(columns) :]:
        axis.remove()
    _save(figure, file)


def lines(panels: Mapping[str, Lines], xlabel: str, file: Path) -> None:
    """Draw a panel for each of these, lines over the same x."""
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.5), layout="constrained", squeeze=False)
    for axis, (title, content) in zip(axes.flat, panels.items(), strict=True):
        for label, points in content.items():
            axis.plot(*zip(*points, strict=True), label=label)
        axis.set(title=title, xlabel=xlabel)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if len(content) > 1:
            axis.legend()
    _save(figure, file)


def show(value: float | None) -> str:
    """Three digits that count; a dash where nothing was measured."""
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _save(figure: "plt.Figure", file: Path) -> None:
    figure.savefig(file, dpi=100)
    plt.close(figure)


def _columns(found: Results) -> list[tuple[str, str]]:
    return [(measure, figure) for measure, peers in found.items() for figure in next(iter(peers.values()))]


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))
