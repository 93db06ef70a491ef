"""Requests are counted and logged some time after their answer; nobody who looks can tell."""

import json
from pathlib import Path

import pytest

from gateway import ended
from tests.support.engines import MODEL, simulator
from tests.support.gateways import gateway
from tests.support.scripted import Script, chunked, scripted_engine

HOUR = 3600.0
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "word "}, "token_ids": [1]}]}\n\n'
BEGUN = chunked([EVENT, EVENT], "content-type: text/event-stream", end=b"")


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


async def test_what_runs_at_the_end_is_logged_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that a gateway does not wait for ends with it, and has its line all the same."""
    monkeypatch.setattr(ended, "GATHER_SECONDS", HOUR)
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    async with scripted_engine() as engine:
        engine.answer = lambda _head, _body: Script([BEGUN], hang=True)
        async with gateway(engine.url, tmp_path, gateway={"drain_seconds": 0.01}) as gate:
            answer = await gate.post("/v1/chat/completions", body)
            assert await answer.content.readline()
    (line,) = (json.loads(line) for line in (tmp_path / "requests.jsonl").read_text("utf-8").splitlines())
    assert line["outcome"] == "shutdown"
