"""The page through the real nginx: files from disk, and Basic auth."""

from __future__ import annotations

import base64
import gzip
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.chat.pages import SECURITY_HEADERS, find_static_dir, page_files
from tests.support.engines import MODEL, Simulator, simulator
from tests.support.gateways import gateway
from tests.support.nginx import Nginx, nginx_before

NOBODY = "http://127.0.0.1:1"
QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
async def engine() -> AsyncIterator[Simulator]:
    async with simulator() as running:
        yield running


def export(edge: Nginx) -> dict[str, bytes]:
    """What `gatehouse deploy static` writes."""
    files = dict(page_files(find_static_dir()))
    for name, content in files.items():
        path = Path(edge.site.static_root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return files


async def test_files_come_from_disk_compressed_and_for_ever() -> None:
    """With the gateway away nginx serves a build's files: gzipped where taken, immutable, with the page's own headers."""
    async with nginx_before(NOBODY) as edge, edge.session() as http:
        files = export(edge)
        name = next(name for name in files if name.endswith("/js/main.js"))
        async with http.get(f"/{name}", headers={"Accept-Encoding": "gzip"}) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(await answer.read()) == files[name]
            assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
            assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert answer.headers["Vary"] == "Accept-Encoding"
            assert {field: answer.headers.get(field) for field in SECURITY_HEADERS} == SECURITY_HEADERS
            assert answer.headers["Strict-Transport-Security"] == "max-age=63072000"
        async with http.get(f"/{name}", headers={"Accept-Encoding": "identity"}) as answer:
            assert "Content-Encoding" not in answer.headers
            assert await answer.read() == files[name]


async def test_the_gateway_and_nginx_send_the_same_file(engine: Simulator, tmp_path: Path) -> None:
    """Every file of the page, from the gateway and from disk: same bytes, type, caching and security headers."""
    same = ["Content-Type", "Cache-Control", "Content-Encoding", "Vary", *SECURITY_HEADERS]
    async with (
        gateway(engine.url, tmp_path) as gate,
        nginx_before(gate.url) as edge,
        edge.session(headers={"Accept-Encoding": "gzip"}) as http,
    ):
        found = []
        for _ in range(2):
            sent = {}
            for name in dict(page_files(find_static_dir())):
                if not name.endswith(".gz"):
                    async with http.get(f"/{name}") as answer:
                        assert answer.status == 200, name
                        body = await answer.read()
                        plain = gzip.decompress(body) if "Content-Encoding" in answer.headers else body
                        sent[name] = (plain, [answer.headers.get(field) for field in same])
            found.append(sent)
            export(edge)  # the second time from disk
        assert found[0] == found[1]
        assert all(line["gateway"] == "" for line in edge.log_lines()[-len(found[1]) :])


async def test_what_is_not_on_disk_the_gateway_has(engine: Simulator, tmp_path: Path) -> None:
    """config.json, and a build that was not written yet, come from the gateway, config.json never cached."""
    plain = {"Accept-Encoding": "identity"}
    async with (
        gateway(engine.url, tmp_path) as gate,
        nginx_before(gate.url) as edge,
        edge.session(headers=plain) as http,
    ):
        async with http.get("/static/config.json") as answer:
            assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-cache")
            build = (await answer.json())["build"]
        async with http.get(f"/static/{build}/js/main.js") as answer:
            assert (answer.status, answer.headers["Server"]) == (200, "nginx")
        async with http.get(f"/static/{build}/../../../nginx.conf") as answer:
            assert answer.status == 404


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def htpasswd(*names: str) -> str:
    """Each with their name as the password, hashed as docs/nginx.md says."""
    hashes = (subprocess.check_output(["openssl", "passwd", "-6", name], text=True).strip() for name in names)
    return "".join(f"{name}:{hashed}\n" for name, hashed in zip(names, hashes, strict=True))


async def test_basic_auth_is_an_outer_wall_and_names_the_subject(engine: Simulator, tmp_path: Path) -> None:
    """Without the password 401; who is in tokens.map counts as that subject; who is not needs a token of their own."""
    async with gateway(engine.url, tmp_path / "state") as gate:
        files = {
            "gatehouse/htpasswd": htpasswd("alice", "bob"),
            "gatehouse/tokens.map": f'alice "{gate.token("alice")}";\n',
        }
        async with nginx_before(gate.url, basic_auth=True, files=files) as edge, edge.session() as http:
            for wrong in ({}, basic("alice", "wrong"), {"Authorization": f"Bearer {gate.token('alice')}"}):
                async with http.post("/v1/chat/completions", json=QUESTION, headers=wrong) as answer:
                    assert answer.status == 401
                    assert answer.headers["WWW-Authenticate"] == 'Basic realm="Gatehouse"'
                    assert (await answer.json())["error"]["code"] == "password_required"
            async with http.post("/v1/chat/completions", json=QUESTION, headers=basic("alice", "alice")) as answer:
                assert answer.status == 200, await answer.text()
            (line,) = await gate.logged(1, route="/v1/chat/completions")
            assert line["subject"] == "alice"
            async with http.post("/v1/chat/completions", json=QUESTION, headers=basic("bob", "bob")) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (401, "token_missing")
            own = {**basic("bob", "bob"), "x-api-key": gate.token("bob")}
            async with http.post("/v1/chat/completions", json=QUESTION, headers=own) as answer:
                assert answer.status == 200
            assert (await gate.logged(1, subject="bob"))[0]["outcome"] == "complete"
            own = {**basic("alice", "alice"), "x-api-key": gate.token("carol")}
            async with http.post("/v1/chat/completions", json=QUESTION, headers=own) as answer:
                assert answer.status == 200
            assert await gate.logged(1, subject="carol")  # one's own token goes before the map
            async with http.get("/healthz") as answer:
                assert answer.status == 200  # monitoring needs no password
