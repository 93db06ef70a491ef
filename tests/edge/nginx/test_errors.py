"""The product's nginx configuration before a real gateway: what nginx itself answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.engines import simulator
from tests.support.gateways import gateway
from tests.support.nginx import nginx_before


async def test_a_request_passes_through_and_both_know_the_callers_address(tmp_path: Path) -> None:
    """An answer comes through nginx; one request id and the caller's address are in nginx's log and in the record."""
    async with (
        simulator() as engine,
        gateway(engine.url, tmp_path, gateway={"trusted_proxies": ["127.0.0.0/8"]}) as gate,
        nginx_before(gate.url) as edge,
        edge.session(headers=gate.headers()) as http,
    ):
        body = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": "hello"}]}
        spoofed = {"X-Forwarded-For": "203.0.113.7", "X_Forwarded_For": "203.0.113.8", "X-Request-Id": "mine-1"}
        async with http.post("/v1/chat/completions", json=body, headers=spoofed) as answer:
            assert answer.status == 200
            assert answer.headers["X-Request-Id"] == "mine-1"
            assert answer.headers["Strict-Transport-Security"] == "max-age=63072000"
        (line,) = await edge.logged(1, request_id="mine-1")
        (record,) = await gate.logged(1, request_id="mine-1")
        assert line["client"] == record["client_ip"] == "127.0.0.1"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_a_gateway_that_is_away_is_502_in_the_apis_shape(path: str) -> None:
    """Nobody listens: 502 with Retry-After, the request id and the body that this API's clients parse."""
    async with nginx_before("http://127.0.0.1:1") as edge, edge.session() as http, http.post(path, json={}) as answer:
        assert answer.status == 502
        assert answer.content_type == "application/json"
        assert answer.headers["Retry-After"] == "1"
        body = json.loads(await answer.read())
        if path == "/v1/messages":
            assert body["type"] == "error"
            assert body["request_id"] == answer.headers["request-id"] == answer.headers["X-Request-Id"]
        else:
            assert body["error"]["code"] == "gateway_unreachable"
