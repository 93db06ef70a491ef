"""A real Prometheus, and a real Alertmanager with somebody who listens to it, on free ports of loopback.

    with prometheus(stack.admin_url, tmp_path, alertmanager_url) as metrics:
        metrics.query("sum(gatehouse_in_flight)")     # [({}, 0.0)]

The configuration is the shipped one, with the addresses and intervals of a test.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.support.needs import free_port
from tests.support.stack import until

DEPLOY = Path(__file__).parents[2] / "deploy"
READY_SECONDS = 60.0
EVERY = "1s"  # scrapes and evaluations
Sample = tuple[dict[str, str], float]


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def api(self, call: str, **query: Any) -> Any:
        """`data` of an API call."""
        with urllib.request.urlopen(f"{self.url}/api/v1/{call}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return json.loads(answer.read())["data"]

    def query(self, expression: str) -> list[Sample]:
        """What an expression is now."""
        result = self.api("query", query=expression)["result"]
        return [(each["metric"], float(each["value"][1])) for each in result]

    def number(self, expression: str) -> float:
        """The one value of an expression; 0 where it has none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else 0.0

    def range(self, expression: str, start: float, end: float) -> dict[str, list[tuple[float, float]]]:
        """Finite values by series, second by second; series without any are left out."""
        result = self.api("query_range", query=expression, start=start, end=end, step=1)["result"]
        found = {}
        for each in result:
            values = [(at, float(value)) for at, value in each["values"] if value not in {"NaN", "+Inf", "-Inf"}]
            if values:
                found[json.dumps(each["metric"], sort_keys=True)] = values
        return found

    def scraped_after(self, moment: float) -> bool:
        """Whether every target was scraped after a moment (Unix time), without an error."""
        targets = self.api("targets")["activeTargets"]
        return bool(targets) and all(
            target["health"] == "up" and _seconds(target["lastScrape"]) > moment for target in targets
        )

    def settle(self) -> None:
        """Wait until it has seen everything that has happened until now."""
        now = time.time()
        until(lambda: self.scraped_after(now), "every target is scraped", every=0.1)


@contextlib.contextmanager
def prometheus(admin_url: str, folder: Path, alertmanager_url: str | None = None) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes an admin listener and evaluates the shipped rules."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": EVERY, "evaluation_interval": EVERY}
    config["rule_files"] = [str(DEPLOY / "prometheus" / file) for file in config["rule_files"]]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [_host(admin_url)]}]
    managers = [_host(alertmanager_url)] if alertmanager_url else []
    config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": managers}]}]}
    folder.mkdir(exist_ok=True)
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(config), "utf-8")  # JSON is YAML
    port = free_port()
    argv = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    argv += [f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=1d"]
    url = f"http://127.0.0.1:{port}"
    with running(argv, folder / "prometheus.log", f"{url}/-/ready"):
        yield Prometheus(url)


@contextlib.contextmanager
def alertmanager(webhook_url: str, folder: Path) -> Iterator[str]:
    """Run an Alertmanager as shipped, which tells only the webhook, at once; returns its URL."""
    config = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text("utf-8"))
    del config["global"]
    config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    for receiver in config["receivers"]:
        del receiver["email_configs"]
        for webhook in receiver.get("webhook_configs", ()):
            webhook["url"] = webhook_url
    folder.mkdir(exist_ok=True)
    file = folder / "alertmanager.yml"
    file.write_text(json.dumps(config), "utf-8")
    port = free_port()
    argv = ["prometheus-alertmanager", f"--config.file={file}", f"--storage.path={folder / 'data'}"]
    argv += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
    url = f"http://127.0.0.1:{port}"
    with running(argv, folder / "alertmanager.log", f"{url}/-/ready"):
        yield url


@contextlib.contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Listen for what Alertmanager sends: its address, and the alerts that have come."""
    alerts: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            alerts.extend(json.loads(body)["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/alerts", alerts
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def running(argv: list[str], log: Path, ready_url: str) -> Iterator[None]:
    """Run a program that listens, from when an address of it answers 200 to the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    try:
        until(lambda: _answers(ready_url), f"{argv[0]} is ready", READY_SECONDS, alive=process, every=0.05)
        yield
    except BaseException:
        print(log.read_text("utf-8", "replace")[-3000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc


def _seconds(timestamp: str) -> float:
    """Unix time of RFC 3339 with nanoseconds, which Python does not know; the year 1 is never."""
    whole, _, fraction = timestamp.partition(".")
    moment = dt.datetime.fromisoformat(whole[:19] + "+00:00")
    assert timestamp.endswith("Z"), timestamp
    return moment.timestamp() + float("0." + (fraction.rstrip("Z") or "0")) if moment.year > 1 else 0.0
