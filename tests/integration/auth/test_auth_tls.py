"""Whom the gateway trusts when it fetches keys: what this machine trusts, although it has imported aiohttp without that."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from pathlib import Path

from aiohttp import web

from gatehouse.deploy.certificate import self_signed
from tests.support.needs import free_port

# the order of the command's own process
FETCH = """
import asyncio, os, sys
from gatehouse.lean import import_aiohttp
before = dict(os.environ)
import_aiohttp()
assert dict(os.environ) == before
import aiohttp
from gateway.auth.fetch import Fetcher

async def fetch():
    fetcher = Fetcher()
    try:
        print((await fetcher.get(sys.argv[1])).body.decode())
    finally:
        await fetcher.close()

async def as_aiohttp_comes():
    async with aiohttp.ClientSession() as session, session.get(sys.argv[1]) as answer:
        print(await answer.text())

asyncio.run(globals()[sys.argv[2]]())
"""


async def fetched(url: str, how: str, trusted: Path | None) -> str:
    """What a process that trusts a certificate gets from there; or the last line of its traceback."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if trusted is not None:
        environment["SSL_CERT_FILE"] = str(trusted)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FETCH, url, how,
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return output.decode().strip().rpartition("\n")[2]


async def test_keys_are_fetched_from_whom_the_machine_trusts(tmp_path: Path) -> None:
    """A certificate that this machine trusts is accepted, another is not; a client that brings none trusts nobody."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    for file, pem in zip((certificate, key), self_signed("localhost"), strict=True):
        file.write_text(pem, "ascii")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    app = web.Application()

    async def keys(_request: web.Request) -> web.Response:
        return web.Response(text="the keys")

    app.router.add_get("/keys", keys)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "localhost", port, ssl_context=context).start()
    url = f"https://localhost:{port}/keys"
    try:
        assert await fetched(url, "fetch", certificate) == "the keys"
        assert "FetchError" in await fetched(url, "fetch", None)
        assert "certificate verify failed" in await fetched(url, "as_aiohttp_comes", certificate)
    finally:
        await runner.cleanup()
