"""W3C trace context: the caller's trace goes on in the engine."""

from pathlib import Path

from tests.support.engines import simulator
from tests.support.gateways import gateway

TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "vendor=t61rcWkgMzE"}


async def test_the_callers_trace_reaches_the_engine(tmp_path: Path) -> None:
    """`traceparent` and `tracestate` pass as they came, beside the request id; without them the engine gets none."""
    async with simulator() as engine, gateway(engine.url, tmp_path) as gate:
        body = {"model": "gpt-oss-20b", "prompt": "hello", "max_tokens": 2}
        for name, headers in (("with", TRACE), ("without", {})):
            async with gate.post("/v1/completions", body, **{"X-Request-Id": name, **headers}) as answer:
                assert answer.status == 200
        seen = {}
        for each in await engine.requests():
            fields = {key.lower(): value for key, value in each["headers"]}
            seen[fields.get("x-request-id")] = {key: fields[key] for key in TRACE if key in fields}
        assert seen["with"] == TRACE
        assert seen["without"] == {}
