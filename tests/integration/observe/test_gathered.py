"""Requests are counted and logged some time after their answer; nobody who looks can tell."""

import json
from pathlib import Path

import pytest

from gateway import ended
from tests.support.engines import simulator
from tests.support.gateways import gateway

HOUR = 3600.0


async def test_a_scrape_counts_every_request_that_was_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long they are gathered, each scrape counts all, and each of them once."""
    monkeypatch.setattr(ended, "GATHER_SECONDS", HOUR)
    async with simulator() as engine, gateway(engine.url, tmp_path) as gate:
        for number in range(1, 4):
            await gate.chat("hello")
            found = await gate.metrics()
            assert sum(found[each] for each in found if each.startswith("gatehouse_requests_total{")) == number


async def test_a_gateway_that_stops_logs_what_it_has_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that wait to be logged are in the record when it has ended."""
    monkeypatch.setattr(ended, "GATHER_SECONDS", HOUR)
    async with simulator() as engine, gateway(engine.url, tmp_path) as gate:
        answers = [await gate.chat("hello") for _ in range(3)]
        assert not gate.log_lines()
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text("utf-8").splitlines()]
    assert [line["completion_tokens"] for line in lines] == [each["usage"]["completion_tokens"] for each in answers]
