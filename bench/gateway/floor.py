"""The least that Python can do: bytes from one connection to another, nothing looked at. The floor of what is measured.

python -m bench.gateway.floor PORT ENGINE_PORT
"""

import asyncio
import sys
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """One of two connections; what arrives here leaves there."""

    def __init__(self, engine: int | None = None) -> None:
        self.engine = engine
        self.other: Side | None = None
        self.transport: asyncio.Transport | None = None
        self.early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.engine is not None:
            asyncio.get_running_loop().create_task(self.dial(self.engine))

    async def dial(self, engine: int) -> None:
        _, self.other = await asyncio.get_running_loop().create_connection(Side, "127.0.0.1", engine)
        self.other.other = self
        if self.early and self.other.transport:
            self.other.transport.write(self.early)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
        else:
            self.early += data

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self.other is not None and self.other.transport is not None:
            self.other.transport.abort()


async def main(port: int, engine: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Side(engine), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:])))
