"""The whole of it under a load with faults: the record, the metrics, the engine's counters, and a real Prometheus over
them, whose panels have data and whose alert reaches a person.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import runpy
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.support.needs import free_port
from tests.support.prometheus import Prometheus, alertmanager, prometheus, webhook
from tests.support.stack import SIMULATED, Stack, running_stack, until
from tests.support.traffic import APIS, GENERATED, PROMPT, Request, Traffic, traffic

ROOT = Path(__file__).parents[3]
BUILD: dict[str, Any] = runpy.run_path(str(ROOT / "deploy" / "grafana" / "build.py"))
RULES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text("utf-8"))["groups"]
FIRST_TOKEN_SECONDS = 4
TIMEOUTS = 5

# what no load brings about here, and why
ALONE = "one process serves alone; of several: tests/integration/workers"
NEVER = {
    'gatehouse_requests_total{status="500"}': "no bug of the gateway's was met",
    'gatehouse_limiter_mode{mode=~"local|open|closed"}': "there is no Redis that could go",
    "gatehouse_worker_deaths_total": ALONE,
    'gatehouse_workers{state="running"}': ALONE,
    'gatehouse_workers{state="wanted"}': ALONE,
}
_SELECTOR = re.compile(r"(?:gatehouse[_:]|vllm:)[\w:]+(?:\{[^}]*\})?|\bup\{[^}]*\}")


@dataclass
class Scene:
    """A product that was under load, and who watched it."""

    stack: Stack
    prometheus: Prometheus
    alerts: list[dict[str, Any]]
    began: float
    engine_before: dict[str, float]
    engine_calm: dict[str, float]  # after the part of the load without faults
    calm_lines: int


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("observe")
    config = {
        "engine": {**SIMULATED, "simulator": {"control": True, "ttft": 0.0, "tps": 200}},
        "gateway": {"first_token_seconds": FIRST_TOKEN_SECONDS},
        "limits": {"team": {"red": {}}},
    }
    with (
        webhook() as (hook, alerts),
        alertmanager(hook, folder / "alertmanager") as manager,
        running_stack(config) as stack,
        prometheus(stack.admin_url, folder / "prometheus", manager) as watching,
    ):
        watching.settle()
        before = stack.engine_metrics()
        found = Scene(stack, watching, alerts, time.time(), before, {}, 0)
        asyncio.run(load(found))
        yield found


async def load(scene: Scene) -> None:
    """First all goes well; then clients leave, callers are refused, answers break off; at last the engine is silent."""
    async with traffic(scene.stack) as send:
        red = scene.stack.token("carol", team="red")
        for turn in range(3):
            await asyncio.gather(
                *(
                    send.whole(Request(api, stream), "hello " * (turn + 1), f"calm-{turn}-{api}-{stream}-{copy}")
                    for api in APIS
                    for stream in (True, False)
                    for copy in range(2)
                )
            )
            await speak(scene.stack, send.http, red)
            scene.prometheus.settle()  # rates need scrapes between requests
        scene.stack.logged("calm-2-messages-False-1")
        await send.until_idle(time.monotonic())
        scene.engine_calm = scene.stack.engine_metrics()
        scene.calm_lines = len(scene.stack.log_lines())
        await asyncio.gather(*(left(send, api) for api in APIS))
        once = scene.stack.token("dave", plan="once")
        for _ in range(3):
            await speak(scene.stack, send.http, once)
            scene.prometheus.settle()
        await knobs(scene.stack, send.http, fault="error_frame", fault_after=3, fault_times=4)
        for number in range(4):
            await broken_off(send, f"broken-{number}")
        await knobs(scene.stack, send.http, fault="none", ttft=600)
        await asyncio.gather(*(broken_off(send, f"silent-{number}") for number in range(TIMEOUTS)))
        await knobs(scene.stack, send.http, ttft=0)
        await send.until_idle(time.monotonic())
    until(lambda: scene.stack.metrics()["gatehouse_in_flight"] == 0, "nothing is in flight")
    scene.stack.logged(f"silent-{TIMEOUTS - 1}")
    scene.prometheus.settle()


async def left(send: Traffic, api: str) -> None:
    """A client that leaves in mid-answer."""
    async with send.post(Request(api, stream=True, max_tokens=400, endless=True), "long", f"cut-{api}") as answer:
        await answer.content.readany()


async def broken_off(send: Traffic, request_id: str) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        async with send.post(Request("chat", stream=True), "hello", request_id) as answer:
            await answer.read()


async def speak(stack: Stack, http: aiohttp.ClientSession, token: str) -> None:
    body = Request("chat", stream=True).body(stack.model, "hello")
    async with http.post(
        stack.url + "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {token}"}
    ) as answer:
        await answer.read()


async def knobs(stack: Stack, http: aiohttp.ClientSession, **values: Any) -> None:
    headers = {"Authorization": f"Bearer {stack.engine_key}"}
    async with http.post(stack.engine_url + "/sim/knobs", json=values, headers=headers) as answer:
        assert answer.status == 200, await answer.text()


def panels() -> Iterator[tuple[str, str]]:
    for dashboard in BUILD["dashboards"]():
        if dashboard.get("database"):  # test_usage_dashboard.py
            continue
        for row in dashboard["rows"].values():
            for panel in row:
                for query in panel["queries"].values():
                    yield f"{dashboard['title']}: {panel['title']}", query


def test_five_timeouts_in_a_row_call_somebody_and_an_answer_ends_it(scene: Scene) -> None:
    """From the gateway through Prometheus and Alertmanager to a webhook; and the all-clear the same way."""

    def told(status: str) -> list[dict[str, Any]]:
        return [
            each
            for each in scene.alerts
            if each["labels"]["alertname"] == "GatehouseFiveTimeouts" and each["status"] == status
        ]

    alert = until(lambda: told("firing"), "the alert has reached the webhook")[0]
    assert alert["labels"]["severity"] == "critical"
    assert alert["annotations"]["summary"] == f"{TIMEOUTS} requests in a row timed out"
    assert alert["annotations"]["runbook_url"] == "docs/runbook.md#gatehousefivetimeouts"

    async def answered() -> None:
        async with traffic(scene.stack) as send:
            await send.whole(Request("chat", stream=False), "again", "again")

    asyncio.run(answered())
    until(lambda: told("resolved"), "the all-clear has reached the webhook", 60)
    scene.stack.logged("again")
    scene.prometheus.settle()


def test_without_faults_all_sums_are_equal(scene: Scene) -> None:
    """Log and engine agree to the token on what was answered in full."""
    lines = [line for line in scene.stack.log_lines()[: scene.calm_lines] if line["model"]]
    assert {line["outcome"] for line in lines} == {"complete"}
    for field, counter in (("prompt_tokens", PROMPT), ("completion_tokens", GENERATED)):
        grown = scene.engine_calm[counter] - scene.engine_before[counter]
        assert sum(line[field] for line in lines) == grown > 0


def test_the_record_the_metrics_and_prometheus_have_the_same_sums(scene: Scene) -> None:
    """Requests by outcome and status, tokens by kind, refusals by reason: log = /metrics = Prometheus, faults and all.

    The engine has made a few tokens more: those between a disconnect and its abort.
    """
    lines = scene.stack.log_lines()
    outcomes = {line["outcome"] for line in lines}
    assert outcomes == {"complete", "client_gone", "rejected", "engine_failed", "timeout"}
    for outcome in outcomes:
        expected = sum(line["outcome"] == outcome for line in lines)
        assert scene.prometheus.number(f'sum(gatehouse_requests_total{{outcome="{outcome}"}})') == expected
    for code in {line["error_code"] for line in lines if line["outcome"] == "rejected"}:
        expected = sum(line["error_code"] == code and line["outcome"] == "rejected" for line in lines)
        assert scene.prometheus.number(f'sum(gatehouse_rejections_total{{reason="{code}"}})') == expected
    own = scene.stack.metrics()
    for kind in ("prompt", "cached", "completion", "reasoning"):
        expected = sum(line[f"{kind}_tokens"] for line in lines)
        counted = sum(
            value
            for name, value in own.items()
            if name.startswith("gatehouse_tokens_total") and f'kind="{kind}"' in name
        )
        assert counted == expected
        assert scene.prometheus.number(f'sum(gatehouse_tokens_total{{kind="{kind}"}})') == expected
    durations = scene.prometheus.number("sum(gatehouse_request_duration_seconds_sum)")
    assert durations == pytest.approx(sum(line["duration_ms"] for line in lines) / 1000, abs=0.001 * len(lines))
    after = scene.stack.engine_metrics()
    assert scene.prometheus.number(f"sum({GENERATED})") == after[GENERATED]
    generated = after[GENERATED] - scene.engine_before[GENERATED]
    charged = sum(line["completion_tokens"] for line in lines)
    print(f"\n{len(lines)} requests: {charged} tokens charged, {generated:.0f} generated")
    assert charged <= generated


def test_every_panel_has_data(scene: Scene) -> None:
    """Each query of each dashboard has finite values, by the very text that Grafana gets."""
    end = time.time()
    empty = [
        (where, query)
        for where, query in panels()
        if not scene.prometheus.range(query.replace("$__rate_interval", "10s"), scene.began - 5, end)
    ]
    assert empty == [(where, query) for where, query in panels() if "gatehouse_worker" in query]  # as in NEVER


def test_every_alert_can_be_evaluated_and_has_data(scene: Scene) -> None:
    """Prometheus evaluates each rule without error; each series that one looks at has come, or cannot and it says why."""
    groups = scene.prometheus.api("rules")["groups"]
    loaded = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert loaded.keys() == {rule.get("alert") or rule["record"] for group in RULES for rule in group["rules"]}
    unwell = {name: rule.get("lastError") for name, rule in loaded.items() if rule["health"] != "ok"}
    assert unwell == {}
    selectors = {found for group in RULES for rule in group["rules"] for found in _SELECTOR.findall(rule["expr"])}
    empty = {each for each in selectors if not scene.prometheus.query(f"present_over_time({each}[10m])")}
    assert empty == NEVER.keys()


def test_nothing_else_called(scene: Scene) -> None:
    """Under this load these alerts are right, and no others fired: most requests timed out or broke off at its end."""
    fired = {each["alertname"] for each, _ in scene.prometheus.query('max_over_time(ALERTS{alertstate="firing"}[10m])')}
    assert fired <= {"GatehouseFiveTimeouts", "GatehouseErrorsFast"}


def test_top_shows_what_runs_and_what_failed(scene: Scene) -> None:
    """`gatehouse top --once` while a stream runs: the engine, the stream with its caller, the last errors."""
    argv = [sys.executable, "-m", "gatehouse", "top", "--once"]
    argv += ["--state-dir", str(scene.stack.state_dir)]

    async def look() -> str:
        async with traffic(scene.stack) as send:
            await knobs(scene.stack, send.http, tps=10)
            async with send.post(Request("chat", stream=True, max_tokens=400, endless=True), "long", "long-one"):
                await send.until_running(1)
                shown = await asyncio.create_subprocess_exec(
                    *argv, stdout=subprocess.PIPE, env={**os.environ, "COLUMNS": "150"}
                )
                text = (await shown.communicate())[0].decode()
                assert shown.returncode == 0
            await knobs(scene.stack, send.http, tps=200)
            return text

    text = asyncio.run(look())
    assert re.search(r"engine ready +gpt-oss-20b", text)
    assert re.search(r"in flight: 1 ", text)
    assert re.search(r"\d s +tester +/v1/chat/completions +gpt-oss-20b +answering +[\d,]+ +long-one", text)
    assert re.search(r"running +1", text)
    assert re.search(r"generated tokens/s +[1-9]", text)
    assert re.search(r"limiter +memory", text)
    assert text.count("timeout (engine_timeout)") == TIMEOUTS


def test_top_without_a_gateway(tmp_path: Path) -> None:
    """It says so, with exit code 3."""
    argv = [sys.executable, "-m", "gatehouse", "top", "--once"]
    for more in (["--state-dir", str(tmp_path)], ["--url", f"http://127.0.0.1:{free_port()}"]):
        done = subprocess.run([*argv, *more], capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith("gatehouse top: no gateway ")


def test_the_metrics_are_fit_for_prometheus(scene: Scene) -> None:
    """`promtool check metrics` finds nothing wrong with the gateway's own."""
    with urllib.request.urlopen(scene.stack.admin_url + "/metrics") as answer:
        text = answer.read()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b""), json.dumps((done.stdout + done.stderr).decode())
