"""aiohttp's server before the gateway's own connection to the engine, and nothing else: what both cost by themselves.

python -m bench.gateway.bare PORT ENGINE_PORT
"""

import asyncio
import sys

import uvloop
from aiohttp import web

from gateway.upstream import Pool


async def main(port: int, engine: int) -> None:
    pool = Pool(keep_alive=60, connect_timeout=5)

    async def relay(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        connection = await pool.connect("127.0.0.1", engine)
        connection.expect_by(60)
        head = f"{request.method} {request.raw_path} HTTP/1.1\r\nHost: engine\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.send(head.encode(), body)
        answer = await connection.head()
        parts = []
        while data := await connection.read():
            parts.append(data)
        connection.release()
        return web.Response(status=answer.status, body=b"".join(parts), content_type="application/json")

    runner = web.ServerRunner(web.Server(relay, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=2048).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:])))
