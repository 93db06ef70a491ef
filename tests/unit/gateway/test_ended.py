"""Requests that have ended, until they are counted and logged."""

import asyncio

import pytest

from gateway import ended
from gateway.context import Exchange
from gateway.ended import Ended
from tests.unit.gateway.exchanges import finished

HOUR = 3600.0


async def test_they_are_recorded_together_and_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one moment after it, those of the next after that; each once."""
    monkeypatch.setattr(ended, "GATHER_SECONDS", 0.0)
    recorded: asyncio.Queue[Exchange] = asyncio.Queue()
    requests = Ended(recorded.put_nowait)
    for _ in range(2):
        exchanges = [finished(number) for number in range(3)]
        for exchange in exchanges:
            requests.add(exchange)
        assert recorded.empty()
        assert [await recorded.get() for _ in exchanges] == exchanges
        assert recorded.empty()


async def test_who_cannot_wait_has_them_recorded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a scrape, or the end: nothing of them is left to be recorded again."""
    monkeypatch.setattr(ended, "GATHER_SECONDS", HOUR)
    recorded: list[Exchange] = []
    requests = Ended(recorded.append)
    exchange = finished()
    requests.add(exchange)
    requests.record()
    requests.record()
    assert recorded == [exchange]


async def test_one_that_cannot_be_recorded_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is named in the messages."""
    recorded: list[Exchange] = []

    def record(exchange: Exchange) -> None:
        if exchange.request_id == "r1":
            raise LookupError
        recorded.append(exchange)

    requests = Ended(record)
    for number in range(3):
        requests.add(finished(number))
    requests.record()
    assert [exchange.request_id for exchange in recorded] == ["r0", "r2"]
    assert "r1: the record of this request is incomplete" in caplog.text
