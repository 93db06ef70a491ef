"""One document of all scenarios: report.json, report.md and throughput.png in the folder of their results.

usage: python bench/two_gpus/report.py FOLDER      (FOLDER has what compare.py wrote: ready.json, streams.json, …)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
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
Row = dict[str, Any]


def value(row: Row, name: str, share: str = "p50") -> float | None:
    """A percentile of a row."""
    found = row[name][share]
    return None if found is None else found["value"]


COLUMNS: dict[str, Callable[[Row], Any]] = {
    "server": lambda row: row["target"],
    "at once": lambda row: row["concurrency"],
    "tok/s": lambda row: row["output_tokens_per_second"],
    "req/min": lambda row: row["requests_per_minute"],
    "tok/s of a stream": lambda row: value(row, "tokens_per_second_of_a_stream"),
    "TTFT p50 ms": lambda row: value(row, "ttft_ms"),
    "p95": lambda row: value(row, "ttft_ms", "p95"),
    "p99": lambda row: value(row, "ttft_ms", "p99"),
    "next token p50 ms": lambda row: value(row, "itl_ms"),
    "p99 ": lambda row: value(row, "itl_ms", "p99"),
    "failed": lambda row: sum(row["errors"].values()),
    "gateway CPU µs/token": lambda row: row.get("gateway_cpu_us_per_token"),
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
    "throughput lost %": lambda row: row["throughput_lost_percent"],
    "round by round": lambda row: ", ".join(f"{each:.2g}" for each in row["throughput_lost_percent_by_round"]),
    "TTFT added p50 ms": lambda row: row["ttft_added_ms_p50"],
    "p99": lambda row: row["ttft_added_ms_p99"],
    "next token added p50 ms": lambda row: row["itl_added_ms_p50"],
    "p99 ": lambda row: row["itl_added_ms_p99"],
}


def at_once(rows: list[Row], name: str) -> int:
    """The most streams at which the 95th percentile of TTFT stayed within two seconds."""
    return max(
        (row["concurrency"] for row in rows if row["target"] == name and value(row, "ttft_ms", "p95") <= TTFT_LIMIT_MS),
        default=0,
    )


def article(found: dict[str, Any]) -> str:
    """The article's table, with ours beside it."""
    streams, plain = found["streams"]["results"], found["plain"]["results"]
    most = [*streams, *found.get("most", {}).get("results", [])]
    names = {"A": plain[0]["target"], "B": streams[0]["target"], "C": streams[1]["target"]}
    one = {letter: next(r for r in [*plain, *streams] if r["target"] == name) for letter, name in names.items()}
    engine = sum(found["ready"]["gpu_mib"]) / 1024
    memory = {"A": sum(found["plain"]["gpu_mib"]) / 1024, "B": engine, "C": engine}
    ours: dict[str, dict[str, Any]] = {
        "TTFT, ms": {each: value(row, "ttft_ms") for each, row in one.items()},
        "tok/s of one request": {each: value(row, "tokens_per_second_of_a_stream") for each, row in one.items()},
        "requests at once": {each: at_once([*plain, *most], name) for each, name in names.items()},
        "GPU memory, GB": memory,
        "requests/min": {
            each: max(row["requests_per_minute"] for row in [*plain, *most] if row["target"] == name)
            for each, name in names.items()
        },
    }
    lines = ["| | article: Transformers | article: vLLM | A | B | C | ratio there | ratio B:A |", "|" + "---|" * 8]
    for title, (first, second) in ARTICLE.items():
        a, b = ours[title]["A"], ours[title]["B"]
        ratios = [f"{second / first:.2g}", f"{b / a:.2g}" if a and b else ""]
        cells = [_cell(ours[title][each]) for each in "ABC"]
        lines.append("| " + " | ".join([title, str(first), str(second), *cells, *ratios]) + " |")
    return "\n".join(lines)


def fairness(found: dict[str, Any]) -> str:
    """What one user waits for while 256 streams are there."""
    rows = [{"way": way, **row["user"]} for way, row in found.items() if isinstance(row, dict)]
    columns: dict[str, Callable[[Row], Any]] = {"the user": lambda row: row["way"]}
    columns |= {name: COLUMNS[name] for name in ("TTFT p50 ms", "p95")} | {"asked": lambda row: row["requests"]}
    return table(rows, columns)


def main(folder: Path) -> None:
    """Write the three files."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json")) if file.stem != "report"}
    parts = ["# Two GPUs: what was measured", ""]
    if "ready" in found:
        ready = found["ready"]
        parts += [f"Ready after {ready['ready_s']} s; MiB in use on each GPU: {ready['gpu_mib']}.", ""]
        parts += [table([ready["phases"]], {name: (lambda row, n=name: row[n]) for name in ready["phases"]}), ""]
    if "streams" in found and "plain" in found:
        parts += ["## Beside the article", "", article(found), ""]
    if "plain" in found:
        parts += ["## A, plain Transformers", "", table(found["plain"]["results"]), ""]
    for name in ("usage", "streams", "arrivals", "workers"):
        if name in found:
            parts += [f"## {name.capitalize()}", "", table(found[name]["results"]), ""]
            parts += [table(found[name]["differences"], DIFFERENCES), ""]
    for name, shape in found.get("shapes", {}).items():
        if isinstance(shape, dict):
            parts += [f"## {name}", "", table(shape["results"]), "", table([shape["difference"]], DIFFERENCES), ""]
    if "most" in found:
        parts += ["## More streams", "", table(found["most"]["results"]), ""]
    if "fairness" in found:
        parts += ["## A user among 256 streams", "", fairness(found["fairness"]), ""]
    if "cut" in found:
        parts += ["## Cut off", "", "```", json.dumps(found["cut"]), "```", ""]
    if "reference" in found:
        parts += ["## `vllm bench serve` on the same server", "", table(found["reference"]["ours"]), ""]
        parts += ["```", found["reference"]["theirs"].strip(), "```", ""]
    (folder / "report.md").write_text("\n".join(parts))
    (folder / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    if "streams" in found:
        plot(found["streams"]["results"], folder / "throughput.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
