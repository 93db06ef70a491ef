"""The product's nginx configuration before a real gateway: what nginx itself answers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gateway.config import GatewaySettings
from tests.support.engines import MODEL, simulator
from tests.support.gateways import gateway
from tests.support.http2 import connection
from tests.support.nginx import DOMAIN, Nginx, nginx_before

BEHIND_NGINX = {"trusted_proxies": ["127.0.0.0/8"]}
BRIEF = GatewaySettings(total_seconds=1, first_token_seconds=1, next_token_seconds=1, hold_seconds=0)
NOBODY = "http://127.0.0.1:1"


async def raw(edge: Nginx, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes; status, header fields and body of the answer."""
    reader, writer = await edge.connect()
    writer.write(request)
    try:
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return int(status.split()[1]), fields, await reader.readexactly(int(fields.get("content-length", 0)))
    finally:
        writer.close()


async def test_a_request_passes_through_and_both_know_the_callers_address(tmp_path: Path) -> None:
    """An answer comes through nginx; one request id and the caller's address are in nginx's log and in the record."""
    async with (
        simulator() as engine,
        gateway(engine.url, tmp_path, gateway=BEHIND_NGINX) as gate,
        nginx_before(gate.url) as edge,
        edge.session(headers=gate.headers()) as http,
    ):
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
        spoofed = {"X-Forwarded-For": "203.0.113.7", "X_Forwarded_For": "203.0.113.8", "X-Request-Id": "mine-1"}
        async with http.post("/v1/chat/completions?secret=1", json=body, headers=spoofed) as answer:
            assert answer.status == 200
            assert answer.headers["X-Request-Id"] == "mine-1"
            assert answer.headers["Strict-Transport-Security"] == "max-age=63072000"
        (line,) = await edge.logged(1, request_id="mine-1")
        (record,) = await gate.logged(1, request_id="mine-1")
        assert line["client"] == record["client_ip"] == "127.0.0.1"
        assert line["path"] == "/v1/chat/completions"
        assert "secret" not in json.dumps(line)


async def test_an_id_that_nginx_made_is_the_gateways_too(tmp_path: Path) -> None:
    """Without a sane X-Request-Id nginx makes one, and the record has the same."""
    async with (
        simulator() as engine,
        gateway(engine.url, tmp_path) as gate,
        nginx_before(gate.url) as edge,
        edge.session(headers=gate.headers()) as http,
        http.get("/v1/models", headers={"X-Request-Id": "not sane!"}) as answer,
    ):
        made = answer.headers["X-Request-Id"]
        assert await edge.logged(1, request_id=made)
        assert await gate.logged(1, request_id=made)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens?beta=true"])
async def test_a_gateway_that_is_away_is_502_in_the_apis_shape(path: str) -> None:
    """Nobody listens: 502 with Retry-After, the request id and the body that this API's clients parse."""
    async with nginx_before(NOBODY) as edge, edge.session() as http, http.post(path, json={}) as answer:
        assert answer.status == 502
        assert answer.content_type == "application/json"
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["Strict-Transport-Security"] == "max-age=63072000"
        body = json.loads(await answer.read())
        if "messages" in path:
            assert body["type"] == "error"
            assert body["error"]["type"] == "api_error"
            assert body["request_id"] == answer.headers["request-id"] == answer.headers["X-Request-Id"]
        else:
            assert body["error"]["code"] == "gateway_unreachable"
            assert "request-id" not in answer.headers


async def test_a_gateway_that_says_nothing_is_504(tmp_path: Path) -> None:
    """It takes the connection and is silent for longer than nginx waits: 504 in the API's shape, and not sent again."""
    seen = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with (
            nginx_before(f"http://127.0.0.1:{port}", settings=BRIEF, seconds_longer=1) as edge,
            edge.session() as http,
        ):
            async with http.post("/v1/chat/completions", json={}) as answer:
                assert answer.status == 504
                assert (await answer.json())["error"]["code"] == "gateway_timeout"
            assert seen == 1


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, "invalid_request", id="no Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\n\r\n", 400, "invalid_request", id="Host twice"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400, "invalid_request", id="CL and TE",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            400, "invalid_request", id="two lengths",
        ),
        pytest.param(
            b"POST /v1/completions HTTP/1.1\r\nHost: HOST\r\nContent-Length: 8388609\r\n\r\n",
            413, "request_too_large", id="body too large",
        ),
        pytest.param(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n", 414, "uri_too_long", id="long URI"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: HOST\r\nX-Long: " + b"a" * 9000 + b"\r\n\r\n",
            431, "headers_too_large", id="long header",
        ),
        pytest.param(b"GET / HTTP/2.0\r\nHost: HOST\r\n\r\n", 505, "version_not_supported", id="another version"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: gzip\r\n\r\n",
            501, "not_implemented", id="another coding",
        ),
        pytest.param(b"TRACE / HTTP/1.1\r\nHost: HOST\r\n\r\n", 405, "method_not_allowed", id="TRACE"),
        pytest.param(b"GET /metrics HTTP/1.1\r\nHost: HOST\r\n", 404, "route_not_found", id="/metrics"),
        pytest.param(b"POST /engine/restart HTTP/1.1\r\nHost: HOST\r\n", 404, "route_not_found", id="/engine/restart"),
        pytest.param(b"POST /sessions/revoke HTTP/1.1\r\nHost: HOST\r\n", 404, "route_not_found", id="/sessions"),
        pytest.param(b"GET /%6detrics HTTP/1.1\r\nHost: HOST\r\n", 404, "route_not_found", id="encoded /metrics"),
        pytest.param(b"GET /gatehouse-error/502 HTTP/1.1\r\nHost: HOST\r\n", 404, "route_not_found", id="error page"),
    ],
)  # fmt: skip
async def test_nginxs_own_refusals(request_: bytes, status: int, code: str) -> None:
    """What nginx refuses itself has the API's shape, too, and nothing of it reaches the gateway."""
    async with nginx_before(NOBODY) as edge:
        request_ = request_.replace(b"HOST", edge.site.authority.encode())
        if not request_.endswith(b"\r\n\r\n") and b"\r\n\r\n" not in request_:
            request_ += b"Connection: close\r\n\r\n"
        answered, fields, body = await raw(edge, request_)
        assert (answered, fields["content-type"]) == (status, "application/json"), body
        assert json.loads(body)["error"]["code"] == code
        assert fields["server"] == "nginx"
        (line,) = await edge.logged(1)
        assert line["gateway"] == ""


async def test_paths_reach_the_gateway_as_they_were_sent(tmp_path: Path) -> None:
    """No slash is merged, nothing decoded, no `..` resolved: the gateway sees the client's bytes."""
    seen: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readline()).split()[1])
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    paths = [b"//v1/models", b"/v1//models", b"/v1/./models", b"/v1/x/../models", b"/v1%2fmodels", b"/v1/models;a=1",
             b"/v1/%6dodels", b"/v1/models?a=//&b=%2e", b"/static/../v1/models", b"/static/x%2f..", b"/a\\b"]  # fmt: skip
    server = await asyncio.start_server(note, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with nginx_before(f"http://127.0.0.1:{port}") as edge:
            for path in paths:
                head = b"GET " + path + b" HTTP/1.1\r\nHost: " + edge.site.authority.encode()
                status, _, _ = await raw(edge, head + b"\r\nConnection: close\r\n\r\n")
                assert status == 204, path
    assert seen == paths


async def test_floods_from_one_address_are_429(tmp_path: Path) -> None:
    """Beyond the outer wall: 429 with Retry-After in the API's shape; the gateway is not asked."""
    async with nginx_before(NOBODY, requests_per_second=1) as edge, edge.session() as http:
        statuses = []
        while 429 not in statuses:
            async with http.get("/v1/models") as answer:
                statuses.append(answer.status)
                body, fields = await answer.json(), answer.headers
        assert statuses[0] == 502
        assert len(statuses) >= 5  # four seconds' worth at once
        assert body["error"]["code"] == "too_many_from_address"
        assert fields["Retry-After"] == "1"


async def test_connections_beyond_the_wall_are_429(tmp_path: Path) -> None:
    """More requests at the same time than one address may have: 429, while those that run go on."""
    release, arrived = asyncio.Event(), asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await release.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with (
            nginx_before(f"http://127.0.0.1:{port}", connections=1) as edge,
            connection(edge.port, edge.tls_h2, DOMAIN) as http,
        ):
            first = await http.get("/v1/models")
            await arrived.wait()
            assert await (await http.get("/v1/models")).status == 429
            release.set()
            assert await first.status == 204


async def test_other_names_get_no_answer() -> None:
    """A handshake for another name is refused; a Host that is not ours inside ours gets the connection closed."""
    async with nginx_before(NOBODY) as edge:
        with pytest.raises(OSError, match=r"unrecognized name|UNRECOGNIZED_NAME"):
            await asyncio.open_connection("127.0.0.1", edge.port, ssl=edge.tls, server_hostname="evil.example")
        reader, writer = await edge.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert await reader.read() == b""
        writer.close()


async def test_plain_http_leads_to_https_except_the_certificates_challenge() -> None:
    """Port 80 answers certbot's challenge, and sends everything else to HTTPS, method and path kept."""
    files = {"acme/.well-known/acme-challenge/token": "proof"}
    async with nginx_before(NOBODY, files=files) as edge, edge.session() as http:
        async with http.get(f"{edge.plain_url}/.well-known/acme-challenge/token") as answer:
            assert (answer.status, await answer.read()) == (200, b"proof")
        async with http.post(f"{edge.plain_url}/v1/models?a=1", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (308, f"{edge.url}/v1/models?a=1")


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"GET /\x00 HTTP/1.1\r\nHost: HOST\r\n\r\n", 400, "invalid_request"),
        (b"GET / HTTP/2.0\r\nHost: HOST\r\n\r\n", 505, "version_not_supported"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n", 414, "uri_too_long"),
        (b"GET /.well-known/acme-challenge/none HTTP/1.1\r\nHost: HOST\r\n\r\n", 404, "route_not_found"),
    ],
    ids=["400", "505", "414", "404"],
)
async def test_refusals_of_plain_http(request_: bytes, status: int, code: str) -> None:
    """Port 80 has the API's shape, too, and no Strict-Transport-Security, which browsers must not be sent there."""
    async with nginx_before(NOBODY) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.http_port)
        writer.write(request_.replace(b"HOST", edge.site.authority.encode()))
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
        writer.close()
        assert head.startswith(f"http/1.1 {status} ")
        assert json.loads(body)["error"]["code"] == code
        assert "strict-transport-security" not in head


@pytest.mark.parametrize(
    ("condition", "status", "code"),
    [
        ({"If-Match": '"another"'}, 412, "precondition_failed"),
        ({"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:01 GMT"}, 412, "precondition_failed"),
        ({"Range": "bytes=100-"}, 416, "range_not_satisfiable"),
    ],
)
async def test_files_that_are_not_as_asked_for(condition: dict[str, str], status: int, code: str) -> None:
    """A condition that does not hold, or a range that a file does not have: in the API's shape."""
    files = {"www/static/b/a.js": "0"}
    async with (
        nginx_before(NOBODY, files=files) as edge,
        edge.session() as http,
        http.get("/static/b/a.js", headers=condition) as answer,
    ):
        assert (answer.status, answer.content_type) == (status, "application/json")
        assert (await answer.json())["error"]["code"] == code


async def test_https_asked_for_by_http_is_400() -> None:
    """Plain HTTP on the HTTPS port: 400 in the API's shape."""
    async with nginx_before(NOBODY) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: " + edge.site.authority.encode() + b"\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400")
