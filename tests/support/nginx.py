"""The real nginx with the product's own configuration, before a gateway, on free ports of loopback.

    async with gateway(engine.url, tmp_path / "state", gateway={"trusted_proxies": ["127.0.0.1"]}) as gate:
        async with nginx_before(gate.url) as edge:
            edge.url                       # https://localhost:PORT
            edge.tls                       # an SSL context that trusts its certificate
            async with edge.session() as http: …   # aiohttp, HTTP/1.1
            edge.log_lines(), edge.error_log       # nginx's own
            await edge.reload()

Its walls (requests and connections an address) are out of the way unless a test sets them.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from gatehouse.commands.deploy import installed_nginx
from gatehouse.deploy.certificate import self_signed
from gatehouse.deploy.nginx import NginxSite, render, version_numbers
from tests.support.needs import free_ports, missing

DOMAIN = "localhost"
DEADLINE = 60.0
_ATTEMPTS = 5


class Nginx:
    """A running nginx."""

    def __init__(self, folder: Path, site: NginxSite, process: subprocess.Popen[bytes]) -> None:
        self.folder, self.site, self.process = folder, site, process
        self.port, self.http_port = site.https_port, site.http_port
        self.url = f"https://{site.authority}"
        self.plain_url = f"http://{DOMAIN}:{site.http_port}"
        self.certificate = folder / "gatehouse/tls/fullchain.pem"

    @property
    def tls(self) -> ssl.SSLContext:
        """What trusts its certificate; HTTP/1.1 is all it offers."""
        return ssl.create_default_context(cafile=str(self.certificate))

    @property
    def tls_h2(self) -> ssl.SSLContext:
        """The same, offering HTTP/2."""
        context = self.tls
        context.set_alpn_protocols(["h2"])
        return context

    @property
    def error_log(self) -> str:
        """What it complained of."""
        return (self.folder / "gatehouse-error.log").read_text("utf-8", "replace")

    def log_lines(self) -> list[dict[str, Any]]:
        """Its access log."""
        file = self.folder / "gatehouse-access.log"
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []

    async def logged(self, count: int, **fields: Any) -> list[dict[str, Any]]:
        """Wait until so many lines with these fields are in the access log."""
        async with asyncio.timeout(DEADLINE):
            while len(lines := [line for line in self.log_lines() if fields.items() <= line.items()]) < count:
                await asyncio.sleep(0.01)
        return lines

    @contextlib.asynccontextmanager
    async def session(self, **how: Any) -> AsyncIterator[aiohttp.ClientSession]:
        """An aiohttp client that trusts it; paths are relative to its URL."""
        connector = aiohttp.TCPConnector(limit=0, ssl=self.tls, family=socket.AF_INET)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(
            self.url, connector=connector, timeout=timeout, auto_decompress=False, **how
        ) as http:
            yield http

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare TLS connection, for bytes that no client library would send."""
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls, server_hostname=DOMAIN)

    def workers(self) -> set[int]:
        """The worker processes that live now."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return {int(pid) for pid in children.split()}

    async def reload(self) -> None:
        """`nginx -s reload`, until the new workers are there. Those with connections live on, and accept no more."""
        before = self.workers()
        self.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(DEADLINE):
            while not (self.workers() - before) or _accepting(before):
                await asyncio.sleep(0.01)


def nginx_path() -> str:
    """Where nginx is; a machine without it skips these tests, except in CI, where they must run."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        missing("nginx")
    return found


@contextlib.asynccontextmanager
async def nginx_before(*upstreams: str, files: dict[str, str] | None = None, **site: Any) -> AsyncIterator[Nginx]:
    """Serve before gateways (URLs, or nginx's own `unix:PATH`).

    `site` are fields of NginxSite; `files` are written beside the configuration, such as `gatehouse/htpasswd`.
    """
    servers = tuple(each if each.startswith("unix:") else urlsplit(each).netloc for each in upstreams)
    with tempfile.TemporaryDirectory(prefix="gatehouse-nginx-", dir="/tmp") as name:
        folder = Path(name)
        process, chosen = await _start(folder, servers, files or {}, site)
        try:
            yield Nginx(folder, chosen, process)
        finally:
            process.terminate()  # at once: streams end here
            process.wait(DEADLINE)


async def _start(
    folder: Path, servers: tuple[str, ...], files: dict[str, str], changes: dict[str, Any]
) -> tuple[subprocess.Popen[bytes], NginxSite]:
    """Start it; again on other ports when somebody took one meanwhile."""
    for _ in range(_ATTEMPTS):
        site = _site(folder, servers, changes)
        write_configuration(folder, site, files)
        output = (folder / "output").open("wb")
        with output:
            process = subprocess.Popen(
                [nginx_path(), "-e", "stderr", "-c", str(folder / "nginx.conf"), "-g", "daemon off;"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        if await _listens(process, site.https_port):
            return process, site
        said = (folder / "output").read_text("utf-8", "replace")
        if "Address already in use" not in said:
            break
    raise AssertionError(f"nginx does not start:\n{said}")


def write_configuration(folder: Path, site: NginxSite, files: dict[str, str]) -> None:
    """The product's files, a certificate, and what the test adds."""
    certificate, key = self_signed(site.domain)
    for name, text in {
        **render(site), site.certificate: certificate, site.certificate_key: key, **files
    }.items():  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def _site(folder: Path, servers: tuple[str, ...], changes: dict[str, Any]) -> NginxSite:
    temp = folder / "temp"
    temp.mkdir(exist_ok=True)
    https_port, http_port = free_ports(2)
    fields: dict[str, Any] = {
        "domain": DOMAIN,
        "upstreams": servers,
        "version": version_numbers(installed_nginx()),
        "addresses": ("127.0.0.1",),
        "https_port": https_port,
        "http_port": http_port,
        "user": getpass.getuser() if os.getuid() == 0 else None,
        "pid_file": str(folder / "nginx.pid"),
        "log_dir": str(folder),
        "temp_dir": str(temp),
        "static_root": str(folder / "www"),
        "acme_dir": str(folder / "acme"),
        "requests_per_second": 100_000,
        "logins_per_second": 100_000,
        "connections": 60_000,
    }
    return NginxSite(**{**fields, **changes})


async def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    async with asyncio.timeout(DEADLINE):
        while process.poll() is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return True
    return False


def _accepting(pids: set[int]) -> set[int]:
    """Those that have not been told to finish: nginx writes it into their title."""
    titles = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            titles[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
    return {pid for pid, title in titles.items() if title and b"shutting down" not in title}
