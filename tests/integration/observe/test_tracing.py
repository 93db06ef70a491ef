"""Traces: the caller's goes on in the gateway's span and in the engine; spans reach a collector, or cost nobody anything."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.app import Gateway
from gateway.config import Config, EngineTarget, TracingSettings
from gateway.tracing import TracingUnavailableError, export
from tests.support.collector import SERVER, Collector, collector
from tests.support.engines import MODEL, Simulator, simulator
from tests.support.gateways import RunningGateway, gateway
from tests.unit.gatehouse.test_docs import first_cells, section

TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "vendor=t61rcWkgMzE"}
UNSAMPLED = {"traceparent": TRACE["traceparent"][:-1] + "0"}
BODY = {"model": MODEL, "prompt": "hello", "max_tokens": 4}


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(60):
        while not (found := condition()):
            await asyncio.sleep(0.01)
    return found


async def ask(gate: RunningGateway, request_id: str, body: dict[str, Any] = BODY, **headers: str) -> int:
    async with gate.post("/v1/completions", body, **{"X-Request-Id": request_id, **headers}) as answer:
        await answer.read()
        return answer.status


async def reached(engine: Simulator) -> dict[str, dict[str, str]]:
    """The trace headers that the engine got, by request id."""
    found = {}
    for each in await engine.requests():
        fields = {key.lower(): value for key, value in each["headers"]}
        found[fields.get("x-request-id", "")] = {key: fields[key] for key in TRACE if key in fields}
    return found


async def test_the_callers_trace_reaches_the_engine(tmp_path: Path) -> None:
    """No collector: `traceparent` and `tracestate` pass as they came; without them the engine gets none."""
    async with simulator() as engine, gateway(engine.url, tmp_path) as gate:
        assert await ask(gate, "with", **TRACE) == 200
        assert await ask(gate, "without") == 200
        seen = await reached(engine)
        assert seen["with"] == TRACE
        assert seen["without"] == {}


async def test_a_span_stands_between_the_caller_and_the_engine(tmp_path: Path) -> None:
    """Its parent is the caller's, the engine's parent is it; it has the phases in their order, and the record's figures."""
    with collector() as otlp:
        tracing = {"endpoint": otlp.endpoint}
        async with simulator() as engine, gateway(engine.url, tmp_path, tracing=tracing) as gate:
            assert await ask(gate, "r1", {**BODY, "stream": True}, **TRACE) == 200
            [line] = await gate.logged(1)
            [span] = await until(lambda: otlp.of("r1"))
            passed = (await reached(engine))["r1"]
    assert (span.trace_id, span.parent_id) == tuple(TRACE["traceparent"].split("-")[1:3])
    assert passed == {"traceparent": f"00-{span.trace_id}-{span.span_id}-01", "tracestate": TRACE["tracestate"]}
    assert (span.service, span.name, span.kind, span.failed) == ("gatehouse", "POST /v1/completions", SERVER, False)
    assert list(span.events) == ["authenticated", "admitted", "sent", "first_token"]
    moments = [span.start, *span.events.values(), span.end]
    assert moments == sorted(moments)
    assert (span.end - span.start) / 1e6 == pytest.approx(line["duration_ms"], abs=0.01)
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "enduser.id": "tester",
        "gatehouse.outcome": "complete",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": line["prompt_tokens"],
        "gen_ai.usage.output_tokens": line["completion_tokens"],
    }
    assert {name: span.attributes[name] for name in expected} == expected


async def test_what_is_sampled(tmp_path: Path) -> None:
    """The caller's decision stands, and the engine hears it; the share is of the traces that begin here."""
    with collector() as otlp:
        tracing = {"endpoint": otlp.endpoint, "sample_ratio": 0}
        async with simulator() as engine, gateway(engine.url, tmp_path, tracing=tracing) as gate:
            await ask(gate, "asked-not-to", **UNSAMPLED)
            await ask(gate, "begins-here")
            await ask(gate, "malformed", traceparent="00-short-1-01", tracestate="whose=it")
            await ask(gate, "asked-to", **TRACE)
            await until(lambda: otlp.of("asked-to"))
            seen = await reached(engine)
        assert {span.attributes["gatehouse.request_id"] for span in otlp.spans} == {"asked-to"}
    assert seen["asked-not-to"]["traceparent"].startswith(UNSAMPLED["traceparent"][:35])
    for name in ("asked-not-to", "begins-here", "malformed"):
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", seen[name]["traceparent"])
        assert "tracestate" not in seen[name]


async def test_refusals_and_failures_have_spans_too(tmp_path: Path) -> None:
    """What went wrong through the engine is an error of the span, a refusal is none; the code is `error.type`."""
    with collector() as otlp:
        tracing = {"endpoint": otlp.endpoint}
        async with simulator() as engine, gateway(engine.url, tmp_path, tracing=tracing) as gate:
            assert await ask(gate, "refused", {**BODY, "model": "another"}) == 404
            await engine.knobs(fault="error_frame", fault_after=2)
            await ask_broken(gate, "broken")
            await until(lambda: otlp.of("refused") and otlp.of("broken"))
        [refused], [broken] = otlp.of("refused"), otlp.of("broken")
    assert (refused.failed, refused.attributes["error.type"]) == (False, "model_not_found")
    assert list(refused.events) == ["authenticated"]
    assert (broken.failed, broken.attributes["error.type"]) == (True, "engine_failed")
    assert broken.attributes["gatehouse.outcome"] == "engine_failed"


async def ask_broken(gate: RunningGateway, request_id: str) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        await ask(gate, request_id, {**BODY, "max_tokens": 50, "stream": True})


async def test_the_attributes_are_documented(tmp_path: Path) -> None:
    """docs/observability.md has a row for each attribute and phase, and no other."""
    with collector() as otlp:
        tracing = {"endpoint": otlp.endpoint}
        async with simulator() as engine, gateway(engine.url, tmp_path, tracing=tracing) as gate:
            await engine.knobs(fault="error_frame", fault_after=2)
            token = gate.token("alice", team="red")
            with pytest.raises(aiohttp.ClientPayloadError):
                await ask(gate, "all", {**BODY, "max_tokens": 50, "stream": True}, Authorization=f"Bearer {token}")
            [span] = await until(lambda: otlp.of("all"))
    documented = first_cells(section("docs/observability.md", "### What a span says"))
    assert sorted(documented) == sorted([*span.attributes, *span.events])


@pytest.mark.parametrize("how", ["refuses", "silent", "nobody"])
async def test_a_collector_that_is_away_costs_nothing(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests and the end of the gateway wait for nothing; lost spans are counted and said once; what comes later arrives again."""
    monkeypatch.setattr(export, "GATHER_SECONDS", 0.01)
    with collector() as otlp:
        endpoint = otlp.endpoint if how != "nobody" else "http://127.0.0.1:9/v1/traces"
        # who listens and is slow because the machine is shall not pass for one that is away
        patience = 1 if how == "silent" else 60
        tracing = {"endpoint": endpoint, "queue_spans": 4, "timeout_seconds": patience}
        match how:
            case "refuses":
                otlp.status = 400
            case "silent":
                otlp.open.clear()
        async with simulator() as engine, gateway(engine.url, tmp_path, tracing=tracing) as gate:
            for number in range(12):
                assert await ask(gate, f"lost-{number}") == 200
            await gate.logged(12)
            await until_lost(gate)
            if how != "nobody":
                otlp.status = 200
                otlp.open.set()
                await arrives_again(gate, otlp)
            begin = time.monotonic()
        assert time.monotonic() - begin < 30  # it ends in time, whatever the collector does
    said = [record.getMessage() for record in caplog.records if record.name == "gatehouse.tracing"]
    assert sum("does not take spans" in text for text in said) == 1
    assert ("takes spans again" in said[-1]) == (how != "nobody")


async def arrives_again(gate: RunningGateway, otlp: Collector) -> None:
    """Ask until a span of what was asked since has arrived."""
    async with asyncio.timeout(60):
        for number in itertools.count():
            await ask(gate, f"later-{number}")
            if any(span.attributes["gatehouse.request_id"].startswith("later") for span in otlp.spans):
                return
            await asyncio.sleep(0.02)


async def until_lost(gate: RunningGateway) -> None:
    """Wait until the collector has failed to take a span."""
    async with asyncio.timeout(60):
        while not (await gate.metrics())['gatehouse_spans_dropped_total{reason="collector"}']:
            await asyncio.sleep(0.02)


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that is to make spans and cannot does not start, and says what to install."""
    monkeypatch.setattr(export, "find_spec", lambda _name: None)
    config = Config(
        state_dir=tmp_path,
        engine=EngineTarget(url="http://127.0.0.1:1"),
        tracing={"endpoint": "http://127.0.0.1:4318/v1/traces"},
    )
    with pytest.raises(TracingUnavailableError, match=r"pip install 'vllm-gatehouse\[otlp\]'"):
        Gateway(config)


@pytest.mark.parametrize(
    "endpoint", ["localhost:4318", "http://localhost:4318", "http:///v1/traces", "grpc://c:4317/x"]
)
def test_an_endpoint_without_its_path_is_a_mistake(endpoint: str) -> None:
    """A collector would answer each batch with 404."""
    with pytest.raises(ValueError, match="must be a URL with its path"):
        TracingSettings(endpoint=endpoint)
