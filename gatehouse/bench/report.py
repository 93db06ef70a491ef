"""What rounds of load come to: figures, a table, the JSON and a plot."""

import datetime as dt
import json
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatehouse.bench.client import Answer
from gatehouse.bench.load import Round
from gatehouse.bench.stats import percentile
from gatehouse.bench.workload import Workload

if TYPE_CHECKING:
    from rich.table import Table

SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_MS = 1000.0


def figures(rounds: list[Round]) -> dict[str, Any]:
    """Sum up rounds of one load on one server. Times are ms; tokens are those that the server reported.

    `output_tokens_per_second` and `requests_per_minute` count from a round's first request to its last answer's end,
    `full_tokens_per_second_by_round` only while all streams ran, `user_tokens_per_second_by_round` over the time from a
    request to its answer's end; requests that failed are in none of the figures but `errors`.
    """
    answers = [answer for each in rounds for answer in each.answers]
    good = [answer for answer in answers if answer.error is None]
    seconds = sum(each.seconds for each in rounds)
    each_round = [sum(answer.completion_tokens for answer in _good(each)) / each.seconds for each in rounds]
    full = [each.full_tokens_per_second for each in rounds]
    return {
        "target": rounds[0].target,
        "concurrency": rounds[0].load.concurrency,
        "rate": rounds[0].load.rate,
        "rounds": len(rounds),
        "requests": len(answers),
        "errors": dict(Counter(answer.error for answer in answers if answer.error is not None)),
        "seconds": round(seconds, 3),
        "requests_per_minute": round(len(good) / seconds * 60, 1),
        "input_tokens": sum(answer.prompt_tokens for answer in good),
        "output_tokens": sum(answer.completion_tokens for answer in good),
        "output_tokens_per_second": round(sum(answer.completion_tokens for answer in good) / seconds, 2),
        "output_tokens_per_second_by_round": [round(each, 2) for each in each_round],
        "full_tokens_per_second_by_round": None if None in full else [round(each or 0.0, 2) for each in full],
        "user_tokens_per_second_by_round": [_user_speed(_good(each)) for each in rounds],
        "ttft_ms_p50_by_round": [_median(answer.ttft for answer in _good(each)) for each in rounds],
        "tokens_per_second_of_a_stream": _percentiles(_speeds(good), 1.0),
        "ttft_ms": _percentiles((answer.ttft for answer in good), _MS),
        "itl_ms": _percentiles((gap for answer in good for gap in answer.gaps), _MS),
        "tpot_ms": _percentiles((answer.per_token for answer in good), _MS),
        "duration_ms": _percentiles((answer.ended - answer.began for answer in good), _MS),
    }


def _median(samples: Iterable[float | None]) -> float | None:
    known = [sample * _MS for sample in samples if sample is not None]
    return round(statistics.median(known), 3) if known else None


def _user_speed(answers: list[Answer]) -> float | None:
    """Tokens/s of one who waits for each answer and then asks again: times all users, what the server gives."""
    seconds = sum(answer.ended - answer.began for answer in answers)
    return round(sum(answer.completion_tokens for answer in answers) / seconds, 3) if seconds else None


def _good(each: Round) -> list[Answer]:
    return [answer for answer in each.answers if answer.error is None]


def _speeds(answers: list[Answer]) -> list[float]:
    return [1 / per_token for answer in answers if (per_token := answer.per_token)]


def _percentiles(samples: Iterable[float | None], unit: float) -> dict[str, Any]:
    known = [sample * unit for sample in samples if sample is not None]
    found = {name: percentile(known, share) for name, share in SHARES.items()}
    return {
        "mean": round(statistics.fmean(known), 3) if known else None,
        **{
            name: None
            if each is None
            else {field: None if value is None else round(value, 3) for field, value in each._asdict().items()}
            for name, each in found.items()
        },
    }


def _typical(rounds: list[float]) -> dict[str, float | None] | None:
    """Of what was found in each round, one server beside the other: the median and how sure it is."""
    found = percentile(rounds, 0.5)
    return None if found is None else found._asdict()


def difference(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """How the second server does beside the first, under the same load in the same run.

    `…_typical` is the median of the rounds, each of the one beside the same round of the other: what a machine does
    faster or slower from round to round is not in it. Where the two had different loads at the same time, what each
    gave in all says nothing, and is left out.
    """
    alike = (first["concurrency"], first["requests"]) == (second["concurrency"], second["requests"])

    def lost(one: float, other: float) -> float | None:
        return round((1 - other / one) * 100, 3) if one else None

    def added(name: str, share: str) -> float | None:
        one, other = first[name][share], second[name][share]
        return None if one is None or other is None else round(other["value"] - one["value"], 3)

    def by_round(name: str, apart: Callable[[float, float], float | None]) -> list[float]:
        if first[name] is None or second[name] is None:
            return []
        pairs = zip(first[name], second[name], strict=True)
        found = (apart(one, other) for one, other in pairs if one is not None and other is not None)
        return [each for each in found if each is not None]

    lost_by_round = by_round("output_tokens_per_second_by_round", lost) if alike else []
    full_lost = by_round("full_tokens_per_second_by_round", lost) if alike else []
    user_lost = by_round("user_tokens_per_second_by_round", lost)
    ttft_added = by_round("ttft_ms_p50_by_round", lambda one, other: round(other - one, 3))
    return {
        "of": second["target"],
        "beside": first["target"],
        "concurrency": first["concurrency"],
        "throughput_lost_percent": (
            lost(first["output_tokens_per_second"], second["output_tokens_per_second"]) if alike else None
        ),
        "throughput_lost_percent_by_round": lost_by_round,
        "throughput_lost_percent_typical": _typical(lost_by_round),
        "full_throughput_lost_percent_by_round": full_lost,
        "full_throughput_lost_percent_typical": _typical(full_lost),
        "user_throughput_lost_percent_by_round": user_lost,
        "user_throughput_lost_percent_typical": _typical(user_lost),
        "ttft_added_ms_p50_by_round": ttft_added,
        "ttft_added_ms_p50_typical": _typical(ttft_added),
        **{f"ttft_added_ms_{share}": added("ttft_ms", share) for share in SHARES},
        **{f"itl_added_ms_{share}": added("itl_ms", share) for share in SHARES},
    }


def document(workload: Workload, results: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Put everything measured into one document, to be kept as JSON."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "client": {"python": platform.python_version(), "machine": platform.platform()},
        "workload": asdict(workload),
        **more,
        "results": results,
    }


def table(results: list[dict[str, Any]]) -> "Table":
    """For a terminal. Percentiles are followed by half the width of their 95 % confidence interval (?: unbounded)."""
    from rich.table import Table  # noqa: PLC0415 - most commands draw no table

    rows = Table(box=None, pad_edge=False, header_style="bold")
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "at once": lambda row: f"{row['concurrency']}" if row["rate"] is None else f"{row['rate']:g}/s",
        "TTFT p50 ms": lambda row: _shown(row["ttft_ms"]["p50"]),
        "p99": lambda row: _shown(row["ttft_ms"]["p99"]),
        "next token p50 ms": lambda row: _shown(row["itl_ms"]["p50"]),
        "p99 ": lambda row: _shown(row["itl_ms"]["p99"]),
        "tok/s a stream": lambda row: _shown(row["tokens_per_second_of_a_stream"]["p50"]),
        "tok/s": lambda row: f"{row['output_tokens_per_second']:,.0f}",
        "req/min": lambda row: f"{row['requests_per_minute']:,.0f}",
        "failed": lambda row: f"{sum(row['errors'].values())} of {row['requests']}",
    }
    rows.add_column("server")
    for title in columns:
        rows.add_column(title.rstrip(), justify="right")
    for row in results:
        rows.add_row(row["target"], *(show(row) for show in columns.values()))
    return rows


def _shown(found: dict[str, float | None] | None) -> str:
    if found is None:
        return "–"
    value, low, high = found.values()
    return f"{value:.4g} ±?" if low is None or high is None else f"{value:.4g} ±{(high - low) / 2:.2g}"


class PlotError(Exception):
    """The plot cannot be drawn."""


def plot(results: list[dict[str, Any]], file: Path) -> None:
    """Draw throughput and time to first token over the number of requests at once, a line for each server.

    The file's ending (.svg, .png, .pdf) says the format. Raises PlotError without matplotlib, or for another ending.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an optional library
    except ImportError:
        raise PlotError("a plot needs matplotlib: pip install matplotlib") from None
    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    panels: list[tuple[str, Callable[[dict[str, Any]], float | None]]] = [
        ("output tokens/s", lambda row: row["output_tokens_per_second"]),
        ("TTFT p50, ms", lambda row: (row["ttft_ms"]["p50"] or {}).get("value")),
        ("TTFT p99, ms", lambda row: (row["ttft_ms"]["p99"] or {}).get("value")),
        ("next token p50, ms", lambda row: (row["itl_ms"]["p50"] or {}).get("value")),
    ]
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.5), layout="constrained")
    for axis, (title, value) in zip(axes, panels, strict=True):
        for name in dict.fromkeys(row["target"] for row in results):
            rows = [row for row in results if row["target"] == name]
            over = [row["rate"] or row["concurrency"] for row in rows]
            axis.plot(over, [value(row) for row in rows], marker="o", label=name)
        axis.set(title=title, xlabel="requests at once" if results[0]["rate"] is None else "requests/s", xscale="log")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend()
    try:
        figure.savefig(file)
    except ValueError as error:
        raise PlotError(f"{file}: {error}") from None
    finally:
        plt.close(figure)


def write(file: Path, content: dict[str, Any]) -> None:
    """Write the document as JSON."""
    file.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
