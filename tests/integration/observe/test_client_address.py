"""Whose address is in the record: by the peer, by X-Forwarded-For, by the PROXY protocol; and nobody can make his own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.config import GatewaySettings
from tests.support.engines import simulator
from tests.support.gateways import RunningGateway, gateway
from tests.unit.gateway.test_proxy_protocol import binary

PROXY, SECOND, STRANGER = "127.0.0.2", "127.0.0.3", "127.0.0.9"
CALLER, SPOOFED = "203.0.113.7", "198.51.100.66"
TRUSTED = {"trusted_proxies": [PROXY, SECOND]}
V1 = f"PROXY TCP4 {CALLER} 192.0.2.1 1 2\r\n".encode()


async def ask(
    gate: RunningGateway, source: str, name: str, *, first: bytes = b"", forwarded: tuple[str, ...] = ()
) -> bytes:
    """One request from an address of loopback, whose bytes come one by one; what is answered.

    Who is refused and sends on gets a reset: then it is what came before.
    """
    wire = socket.socket()
    wire.setblocking(False)
    wire.bind((source, 0))
    where = urlsplit(gate.url)
    await asyncio.get_running_loop().sock_connect(wire, (where.hostname, where.port))
    reader, writer = await asyncio.open_connection(sock=wire)
    fields = "".join(f"X-Forwarded-For: {each}\r\n" for each in forwarded)
    head = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Request-Id: {name}\r\n{fields}Connection: close\r\n\r\n".encode()
    for at in range(len(first)):
        writer.write(first[at : at + 1])
        await writer.drain()
    writer.write(head)
    answer = b""
    with contextlib.closing(writer), contextlib.suppress(ConnectionError):
        while piece := await asyncio.wait_for(reader.read(65_536), 60):
            answer += piece
    return answer


async def address(gate: RunningGateway, *args: str, **how: object) -> str:
    """`client_ip` of such a request."""
    assert b"401" in await ask(gate, *args, **how)  # type: ignore[arg-type]
    [line] = await gate.logged(1, request_id=args[1])
    return str(line["client_ip"])


async def test_forwarded_by_trusted_proxies_only(tmp_path: Path) -> None:
    """The rightmost address that is no trusted proxy's; a stranger's header changes nothing."""
    async with simulator() as engine, gateway(engine.url, tmp_path, gateway=TRUSTED) as gate:
        assert await address(gate, STRANGER, "stranger", forwarded=(SPOOFED,)) == STRANGER
        assert await address(gate, PROXY, "proxied", forwarded=(f"{SPOOFED}, {CALLER}",)) == CALLER
        assert await address(gate, PROXY, "two-lines", forwarded=(SPOOFED, CALLER)) == CALLER
        assert await address(gate, PROXY, "two-proxies", forwarded=(f"{SPOOFED}, {CALLER}, {SECOND}",)) == CALLER
        assert await address(gate, PROXY, "nonsense", forwarded=(f"{SPOOFED}, <script>",)) == PROXY
        assert await address(gate, PROXY, "nothing") == PROXY


async def test_without_trusted_proxies_no_header_counts(tmp_path: Path) -> None:
    """The default: the peer's address, whatever is said."""
    async with simulator() as engine, gateway(engine.url, tmp_path) as gate:
        assert await address(gate, PROXY, "r1", forwarded=(SPOOFED,)) == PROXY
        assert b" 400 " in await ask(gate, PROXY, "r2", first=V1)
    assert [line["request_id"] for line in gate.log_lines()] == ["r1"]


async def test_the_proxy_protocol(tmp_path: Path) -> None:
    """Version 1 and 2, byte by byte; the proxy's own connections; on top of it X-Forwarded-For of a proxy behind it."""
    async with (
        simulator() as engine,
        gateway(engine.url, tmp_path, gateway={**TRUSTED, "proxy_protocol": True}) as gate,
    ):
        assert await address(gate, PROXY, "v1", first=V1) == CALLER
        assert await address(gate, PROXY, "v2", first=binary(CALLER, more=b"\x04\x00\x01x")) == CALLER
        assert await address(gate, PROXY, "v6", first=binary("2001:db8::7")) == "2001:db8::7"
        assert await address(gate, PROXY, "local", first=binary(CALLER, command=0x20)) == PROXY
        assert await address(gate, PROXY, "said-twice", first=V1, forwarded=(SPOOFED,)) == CALLER
        behind = V1.replace(CALLER.encode(), SECOND.encode())
        assert await address(gate, PROXY, "behind", first=behind, forwarded=(f"{SPOOFED}, {CALLER}",)) == CALLER


@pytest.mark.parametrize("first", [b"", b"PROXY TCP4 1.2.3.4\r\n", b"PROXY " + b"x" * 200])
async def test_a_trusted_proxy_that_announces_nobody_is_not_heard(tmp_path: Path, first: bytes) -> None:
    """No guessing: the connection is closed without an answer, and leaves no line."""
    async with (
        simulator() as engine,
        gateway(engine.url, tmp_path, gateway={**TRUSTED, "proxy_protocol": True}) as gate,
    ):
        assert await ask(gate, PROXY, "unannounced", first=first) == b""
        assert (await gate.metrics())['gatehouse_connections_ended_total{reason="not_http"}'] == 1
    assert gate.log_lines() == []


async def test_a_stranger_cannot_announce_anybody(tmp_path: Path) -> None:
    """To whom is not trusted the header is no HTTP."""
    async with (
        simulator() as engine,
        gateway(engine.url, tmp_path, gateway={**TRUSTED, "proxy_protocol": True}) as gate,
    ):
        for name, first in (("v1", V1), ("v2", binary(CALLER))):
            assert b" 400 " in await ask(gate, STRANGER, name, first=first)
        assert await address(gate, STRANGER, "plain", forwarded=(SPOOFED,)) == STRANGER
    assert [line["client_ip"] for line in gate.log_lines()] == [STRANGER]


async def test_a_header_that_does_not_end(tmp_path: Path) -> None:
    """A proxy that says half a header is closed after gateway.head_seconds."""
    how = {**TRUSTED, "proxy_protocol": True, "head_seconds": 0.5}
    async with simulator() as engine, gateway(engine.url, tmp_path, gateway=how) as gate:
        wire = socket.create_connection(
            (urlsplit(gate.url).hostname, urlsplit(gate.url).port), source_address=(PROXY, 0)
        )
        wire.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=wire)
        writer.write(V1[:10])
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()


async def test_connections_are_counted_for_whom_they_are(tmp_path: Path) -> None:
    """The cap for an address counts the announced one, and the proxy itself has none."""
    how = {**TRUSTED, "proxy_protocol": True, "max_connections_per_address": 2}
    async with simulator() as engine, gateway(engine.url, tmp_path, gateway=how) as gate:
        held = []
        for _ in range(2):
            wire = socket.create_connection(
                (urlsplit(gate.url).hostname, urlsplit(gate.url).port), source_address=(PROXY, 0)
            )
            wire.sendall(V1)
            held.append(wire)
        async with asyncio.timeout(60):
            while b" 503 " not in await ask(gate, PROXY, "third", first=V1):
                await asyncio.sleep(0.01)
        assert await address(gate, PROXY, "another", first=V1.replace(CALLER.encode(), SPOOFED.encode())) == SPOOFED
        for wire in held:
            wire.close()


def test_who_may_announce_must_be_said() -> None:
    """The setting alone would let anybody be anybody."""
    with pytest.raises(ValueError, match="trusted_proxies"):
        GatewaySettings(proxy_protocol=True)
