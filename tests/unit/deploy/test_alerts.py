"""The alert rules as they are shipped: each fires and falls silent when it should, and tells people what to do."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.promql import known_metrics, metrics_of

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
FILES = ("alerts.yml", "certificates.yml")


def rules() -> list[dict[str, Any]]:
    groups = [yaml.safe_load((PROMETHEUS / file).read_text("utf-8"))["groups"] for file in FILES]
    return [rule for file in groups for group in file for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_accepts_rules_and_configuration() -> None:
    """`promtool check` of all files."""
    found = re.findall(r"(\d+) rules found", promtool("check", "rules", *(PROMETHEUS / file for file in FILES)))
    assert sum(map(int, found)) == len(rules())
    assert "SUCCESS" in promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_each_alert_fires_and_falls_silent() -> None:
    """`promtool test rules`: at each time of each case these alerts fire, and no others."""
    files = [PROMETHEUS / file.replace(".yml", ".test.yml") for file in FILES]
    assert promtool("test", "rules", *files).count("SUCCESS") == len(files)
    cases = [case for file in files for case in yaml.safe_load(file.read_text("utf-8"))["tests"]]
    fired, silent = set(), set()
    for case in cases:
        times = [
            {label for sample in check["exp_samples"] for label in re.findall(r'alertname="(\w+)"', sample["labels"])}
            for check in case["promql_expr_test"]
            if "ALERTS" in check["expr"]
        ]
        somewhere = set().union(*times)
        fired |= somewhere
        # silent in the very case that makes it fire at another time
        silent |= {alert for alert in somewhere if any(alert not in then for then in times)}
    assert fired == silent == ALERTS.keys()


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    """Severity, summary, description, and a chapter of the runbook with the same severity."""
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert {"summary", "description", "runbook_url"} == alert["annotations"].keys()
    assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    chapter = (ROOT / "docs/runbook.md").read_text("utf-8").split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]
    assert chapter.strip().startswith(f"**{alert['labels']['severity']}.**")
    assert "\n- Look: " in chapter
    assert "\n- Do: " in chapter


def test_the_runbook_has_no_chapter_without_an_alert() -> None:
    """Both ways."""
    chapters = re.findall(r"^## (\w+)$", (ROOT / "docs/runbook.md").read_text("utf-8"), re.MULTILINE)
    assert set(chapters) == ALERTS.keys()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_for_metrics_that_exist(rule: dict[str, Any]) -> None:
    """Each name in an expression is exposed by the gateway, the launcher, vLLM, Prometheus or its prober, or recorded here."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert metrics_of(rule["expr"]) <= known_metrics() | recorded


def test_alertmanager_accepts_its_example() -> None:
    """`amtool check-config`; what it holds back and whom it calls are alerts and severities that exist."""
    file = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
    done = subprocess.run(["amtool", "check-config", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    named = re.findall(r"Gatehouse[\w.*]+", file.read_text("utf-8"))
    assert named
    assert all(any(re.fullmatch(pattern, alert) for alert in ALERTS) for pattern in named)
