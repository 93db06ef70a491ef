"""What `gatehouse top` shows: one look at the admin listener, and a picture of it. Pure but for `look`."""

import http.client
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gatehouse.commands.logs import brief
from gatehouse.record import Line

CALL_SECONDS = 5.0
SHOWN_REQUESTS = 15
STATES = {"ready": "green", "failed": "red", "stalled": "red", "unreachable": "red"}  # others: yellow
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass(frozen=True)
class Look:
    """Everything at one moment."""

    at: float  # monotonic
    status: dict[str, Any]
    requests: list[dict[str, Any]]
    series: Series = field(default_factory=dict)

    def sum(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels."""
        wanted = set(labels.items())
        return sum(value for (found, having), value in self.series.items() if found == name and wanted <= having)

    def which(self, name: str, label: str) -> str:
        """The label's value on the series that is 1."""
        for (found, having), value in self.series.items():
            if found == name and value == 1:
                return dict(having).get(label, "-")
        return "-"


def look(admin_url: str) -> Look:
    """Ask the admin listener. Raises OSError or http.client.HTTPException where there is none."""
    at = time.monotonic()
    series = _series(_get(admin_url, "/metrics"))
    try:
        engine = _series(_get(admin_url, "/engine/metrics"))
    except _RefusedError:  # neither the launcher nor vLLM answers
        engine = {}
    # both have a gatehouse_engine_state: the gateway's counts here
    return Look(
        at, json.loads(_get(admin_url, "/engine/status")), json.loads(_get(admin_url, "/requests")), engine | series
    )


def picture(now: Look, before: Look | None, errors: list[Line]) -> RenderableType:
    """The screen: engine, rates since `before`, requests in flight, last errors."""
    return Group(
        Panel(Group(_engine(now), Text(), _figures(now, before)), title="gatehouse", title_align="left"),
        Panel(_requests(now.requests), title=f"in flight: {len(now.requests)}", title_align="left"),
        Panel(
            Text("\n").join(brief(line) for line in errors) if errors else Text("none", style="dim"),
            title="last errors", title_align="left",
        ),
    )  # fmt: skip


def _engine(now: Look) -> Text:
    state = now.which("gatehouse_engine_state", "state")
    text = Text(f"engine {state}", style=STATES.get(state, "yellow"))
    if now.status.get("phase"):
        text.append(f" {now.status['phase']} {now.status.get('percent', 0)} %")
    for name in ("model", "version", "reason"):
        if value := now.status.get(name):
            text.append(f"  {value}", style="not bold default")
    if now.status.get("kind") == "simulated":
        text.append("  simulated", style="magenta")
    if restarts := now.status.get("restarts"):
        text.append(f"  {restarts} restarts", style="yellow")
    return text


def _figures(now: Look, before: Look | None) -> Table:
    def rate(name: str, **labels: str) -> str:
        if before is None or now.at <= before.at:
            return "-"
        # a gateway that was started anew counts from 0
        return f"{max(0.0, now.sum(name, **labels) - before.sum(name, **labels)) / (now.at - before.at):.1f}"

    failed = ("engine_failed", "timeout")
    # tokens are the engine's figures, for it counts them as they come, the gateway when a request has ended
    limiter = now.which("gatehouse_limiter_mode", "mode")
    rows = [
        ("requests/s", rate("gatehouse_requests_total"), "running", f"{now.sum('vllm:num_requests_running'):.0f}"),
        ("  failed/s", " + ".join(rate("gatehouse_requests_total", outcome=each) for each in failed),
         "waiting", f"{now.sum('vllm:num_requests_waiting'):.0f}"),
        ("  refused/s", rate("gatehouse_rejections_total"),
         "KV cache", f"{100 * now.sum('vllm:kv_cache_usage_perc'):.0f} %"),
        ("prompt tokens/s", rate("vllm:prompt_tokens_total"), "limiter", limiter),
        ("generated tokens/s", rate("vllm:generation_tokens_total"),
         "log lines lost", f"{now.sum('gatehouse_log_lines_dropped_total'):.0f}"),
    ]  # fmt: skip
    table = Table.grid(padding=(0, 3))
    for row in rows:
        table.add_row(*row)
    return table


def _requests(requests: list[dict[str, Any]]) -> RenderableType:
    if not requests:
        return Text("none", style="dim")
    table = Table(box=None, pad_edge=False)
    for title in ("age", "subject", "route", "model", "doing", "bytes", "request id"):
        table.add_column(title, justify="right" if title in {"age", "bytes"} else "left", no_wrap=True)
    for each in requests[:SHOWN_REQUESTS]:
        table.add_row(
            f"{each['age_s']:.1f} s", Text(each["subject"] or "-"), each["route"], Text(each["model"] or "-"),
            each["doing"], f"{each['bytes_out']:,}", Text(each["request_id"]),
        )  # fmt: skip
    if more := len(requests) - SHOWN_REQUESTS:
        table.caption = f"and {more} younger" if more > 0 else None
    return table


def _series(text: bytes) -> Series:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


class _RefusedError(Exception):
    pass


def _get(url: str, path: str) -> bytes:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=CALL_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise _RefusedError(path)
    return body
