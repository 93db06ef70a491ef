"""One document of all scenarios: report.md and throughput.png in the folder of their results.

usage: python bench/two_gpus/report.py FOLDER [SMALL]

FOLDER has what compare.py wrote: ready.json, streams.json, …; SMALL what it wrote of an engine with less memory.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatehouse.bench.report import plot

# figures of the article that this comparison repeats: two RTX 4090D, 48 GB in all
ARTICLE = {
    "TTFT, ms": (980, 320),
    "tok/s of one request": (48, 135),
    "requests at once": (16, 63),
    "GPU memory, GB": (42, 31),
    "requests/min": (210, 680),
}
TTFT_LIMIT_MS = 2000.0
A, B, C = "A plain Transformers", "B vLLM", "C Gatehouse"
TITLES = {
    "ways": "256 long streams: where a difference comes from",
    "closed": "256 users",
    "arrivals": "Requests that come one by one",
    "streams": "Fewer and more users",
    "most": "Bursts",
    "workers": "More gateway workers",
    "together": "256 users of the gateway and 32 of the engine at the same moment",
}
Row = dict[str, Any]


def value(row: Row, name: str, share: str = "p50") -> float | None:
    """A percentile of a row."""
    found = row[name][share]
    return None if found is None else found["value"]


def rounds(row: Row, name: str) -> str:
    """The median of rounds, with its 95 % confidence interval or, of too few for one, with all that they came to."""
    found, each = row.get(f"{name}_typical"), row.get(f"{name}_by_round", [])
    if found is None:
        return ""
    if found["low"] is None or found["high"] is None:
        return f"{found['value']:.3g} of " + ", ".join(f"{one:.3g}" for one in each)
    return f"{found['value']:.3g} ({found['low']:.3g} to {found['high']:.3g})"


COLUMNS: dict[str, Callable[[Row], Any]] = {
    "server": lambda row: row["target"],
    "at once": lambda row: row["concurrency"] if row["rate"] is None else f"{row['rate']:g}/s",
    "rounds": lambda row: row["rounds"],
    "tok/s": lambda row: row["output_tokens_per_second"],
    "while all run": lambda row: (
        row.get("full_tokens_per_second_by_round") and statistics.median(row["full_tokens_per_second_by_round"])
    ),
    "req/min": lambda row: row["requests_per_minute"],
    "tok/s of a stream": lambda row: value(row, "tokens_per_second_of_a_stream"),
    "TTFT p50 ms": lambda row: value(row, "ttft_ms"),
    "p95": lambda row: value(row, "ttft_ms", "p95"),
    "p99": lambda row: value(row, "ttft_ms", "p99"),
    "next token p50 ms": lambda row: value(row, "itl_ms"),
    "p99 ": lambda row: value(row, "itl_ms", "p99"),
    "ms a token p50": lambda row: value(row, "tpot_ms"),
    "failed": lambda row: sum(row["errors"].values()),
    "gateway CPU µs/token": lambda row: row.get("gateway_cpu_us_per_token"),
    "kernels made": lambda row: sum(row.get("kernels_made_by_round", [])),
}


def table(rows: Iterable[Row], columns: dict[str, Callable[[Row], Any]] = COLUMNS) -> str:
    """Markdown of these rows."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(show(row)) for show in columns.values()) + " |" for row in rows]
    return "\n".join(lines)


def _cell(found: Any) -> str:
    if found is None:
        return ""
    return found if isinstance(found, str) else f"{found:,.0f}" if abs(found) >= 1000 else f"{found:.4g}"


DIFFERENCES: dict[str, Callable[[Row], Any]] = {
    "of": lambda row: row["of"],
    "streams": lambda row: row["concurrency"],
    "tok/s lost %": lambda row: row["throughput_lost_percent"],
    "typical round %": lambda row: rounds(row, "throughput_lost_percent"),
    "while all run %": lambda row: rounds(row, "full_throughput_lost_percent"),
    "a user's %": lambda row: rounds(row, "user_throughput_lost_percent"),
    "TTFT added p50 ms": lambda row: row["ttft_added_ms_p50"],
    "typical round ms": lambda row: rounds(row, "ttft_added_ms_p50"),
    "p99": lambda row: row["ttft_added_ms_p99"],
    "next token added p50 ms": lambda row: row["itl_added_ms_p50"],
    "p99 ": lambda row: row["itl_added_ms_p99"],
}


def at_once(rows: list[Row], name: str) -> int:
    """The most streams at which the 95th percentile of TTFT stayed within two seconds."""
    return max(
        (
            row["concurrency"]
            for row in rows
            if row["target"] == name and (value(row, "ttft_ms", "p95") or math.inf) <= TTFT_LIMIT_MS
        ),
        default=0,
    )


@dataclass(frozen=True)
class Figure:
    """One figure of the article, measured here; None where it was not."""

    value: float | None
    load: str = ""

    def __str__(self) -> str:
        return f"{_cell(self.value)} ({self.load})" if self.load else _cell(self.value)


def ours(found: dict[str, Any], name: str) -> dict[str, Figure]:
    """The article's figures of one server. Requests/min are those of the load that gave most of them, which is told."""
    rows = [
        row for part in ("plain", "streams", "closed") for row in found.get(part, {}).get("results", [])
        if row["target"] == name
    ]  # fmt: skip
    most = [row for row in found.get("plain", found).get("most", []) if row["target"] == name]
    one = next((row for row in rows if row["concurrency"] == 1), None)
    best = max(rows or most, key=lambda row: row["requests_per_minute"])
    tokens = best["output_tokens"] / (best["requests"] - sum(best["errors"].values()))
    return {
        "TTFT, ms": Figure(one and value(one, "ttft_ms")),
        "tok/s of one request": Figure(one and value(one, "tokens_per_second_of_a_stream")),
        "requests at once": Figure(at_once([*rows, *most], name)),
        "GPU memory, GB": memory(found),
        "requests/min": Figure(best["requests_per_minute"], f"{best['concurrency']} at once, {tokens:.0f} tokens each"),
    }


def memory(found: dict[str, Any]) -> Figure:
    """What is in use on both GPUs; of plain Transformers after all answers, for it keeps what they took."""
    if "plain" not in found:
        return Figure(_gigabytes(found["ready"]["gpu_mib"]))
    loaded = _cell(_gigabytes(found["plain"]["gpu_mib_loaded"]))
    return Figure(_gigabytes(found["plain"]["gpu_mib"]), f"loaded: {loaded}")


def _gigabytes(mib: Iterable[int]) -> float:
    return sum(mib) * 2**20 / 1e9


def article(found: dict[str, Any], small: dict[str, Any]) -> str:
    """The article's table, with ours beside it."""
    engines = {"": found, ", small": small} if {"ready", "most"} <= small.keys() else {"": found}
    columns = {"A": ours({"plain": found["plain"]}, A)} if "plain" in found else {}
    for more, of in engines.items():
        engine = {key: each for key, each in of.items() if key != "plain"}
        engine["most"] = of.get("most", {}).get("results", [])
        columns |= {name[0] + more: ours(engine, name) for name in (B, C)}
    lines = [f"| | article: Transformers | article: vLLM | {' | '.join(columns)} | ratio there | ratio B:A |"]
    lines.append("|" + "---|" * (len(columns) + 5))
    for title, (first, second) in ARTICLE.items():
        cells = {name: column[title] for name, column in columns.items()}
        ratio = round(cells["B"].value / cells["A"].value, 2) if "A" in cells else None
        shown = [title, str(first), str(second), *map(str, cells.values()), f"{second / first:.2g}", _cell(ratio)]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def first_users(engines: dict[str, dict[str, Any]]) -> str:
    """The TTFT of those who come first, with and without warm-up."""
    rows = [
        {"engine": name, "users": users, "time": at, **each}
        for name, found in engines.items()
        for users, times in found["ready"]["first_users"].items()
        for at, each in enumerate(times, 1)
    ]
    columns: dict[str, Callable[[Row], Any]] = {name: (lambda row, n=name: row[n]) for name in ("engine", "users")}
    columns |= {"time": lambda row: row["time"], "TTFT p50 ms": lambda row: value(row, "ttft_ms")}
    columns |= {"p95": lambda row: value(row, "ttft_ms", "p95"), "kernels made": lambda row: row["kernels_made"]}
    return table(rows, columns)


def fairness(found: dict[str, Any]) -> str:
    """What one user waits for while 256 streams are there."""
    rows = [{"way": way, **row["user"]} for way, row in found.items() if isinstance(row, dict)]
    columns: dict[str, Callable[[Row], Any]] = {"the user": lambda row: row["way"]}
    columns |= {name: COLUMNS[name] for name in ("TTFT p50 ms", "p95")} | {"asked": lambda row: row["requests"]}
    return table(rows, columns)


def read(folder: Path) -> dict[str, Any]:
    """What compare.py wrote, by scenario; without those that failed."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    return {name: each for name, each in found.items() if isinstance(each, dict) and "error" not in each}


def sections(found: dict[str, Any]) -> list[str]:
    """Markdown of everything that was measured on one engine."""
    parts = []
    if "ready" in found:
        ready = found["ready"]
        parts += [f"Ready after {ready['ready_s']} s; MiB in use on each GPU: {ready['gpu_mib']}.", ""]
        parts += [table([ready["phases"]], {name: (lambda row, n=name: row[n]) for name in ready["phases"]}), ""]
    if "warm" in found:
        made = ", ".join(f"{each['load']}: {each['kernels']}" for each in found["warm"]["passes"])
        parts += [f"Kernels made by load, {found['warm']['seconds']} s in all: {made}.", ""]
    for name, title in TITLES.items():
        if name in found:
            parts += [f"### {title}", "", table(found[name]["results"]), ""]
            if "differences" in found[name]:
                parts += [table(found[name]["differences"], DIFFERENCES), ""]
    for name, shape in found.get("shapes", {}).items():
        if isinstance(shape, dict):
            parts += [f"### {name}", "", table(shape["results"]), "", table([shape["difference"]], DIFFERENCES), ""]
    if "fairness" in found:
        parts += ["### Users among 256 streams", "", fairness(found["fairness"]), ""]
    if "cut" in found:
        parts += ["### Cut off", "", "```", json.dumps(found["cut"]), "```", ""]
    if "reference" in found:
        parts += ["### `vllm bench serve` on the same server", "", table(found["reference"]["ours"]), ""]
        parts += ["```", found["reference"]["theirs"].strip(), "```", ""]
    if "stop" in found:
        parts += [f"Stopped in {found['stop']['seconds']} s; left: {found['stop']['left'] or 'nothing'}; "]
        parts += [f"MiB in use on each GPU: {found['stop']['gpu_mib']}.", ""]
    return parts


def main(folder: Path, other: Path | None = None) -> None:
    """Write the two files."""
    found, small = read(folder), read(other) if other else {}
    parts = ["# Two GPUs: what was measured", ""]
    if {"ready", "streams"} <= found.keys():
        parts += ["## Beside the article", "", article(found, small), ""]
    if "plain" in found:
        parts += ["## A, plain Transformers", "", table([*found["plain"]["results"], *found["plain"]["most"]]), ""]
    engines = {"full": found, "small": small}
    if ready := {name: each for name, each in engines.items() if "ready" in each}:
        parts += ["## First users, before anything else was asked", "", first_users(ready), ""]
    parts += ["## The engine", "", *sections(found)]
    if small:
        parts += ["## The engine with less memory and 32 places", "", *sections(small)]
    (folder / "report.md").write_text("\n".join(parts))
    if "streams" in found:
        rows = [*found["streams"]["results"], *found.get("closed", {}).get("results", [])]
        plot(sorted(rows, key=lambda row: row["concurrency"]), folder / "throughput.png")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
