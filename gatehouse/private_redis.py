"""The Redis of `gatehouse up`: where several workers count together when the settings name none.

It listens on STATE_DIR/redis.sock alone, writes nothing to disk and ends with `up`: counters start anew then, as those
in the memory of a single worker do.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import click

from gatehouse.parenthood import die_with

START_SECONDS = 10.0
RESTART_SECONDS = 1.0
_POLL_SECONDS = 0.02


class PrivateRedis:
    """A server of our own, kept alive; without a binary there is none."""

    def __init__(self, state_dir: Path) -> None:
        self._socket = state_dir / "redis.sock"
        self._binary = shutil.which("redis-server") or shutil.which("valkey-server")

    @property
    def url(self) -> str:
        """For `redis.url`."""
        return f"unix://{quote(str(self._socket))}"

    async def problem(self) -> str | None:
        """Why it cannot be started."""
        if self._binary is None:
            return (
                "gateway.workers: several workers count limits together in Redis, and neither redis-server nor "
                "valkey-server is on PATH; install one, name one in redis.url, or set gateway.workers to 1"
            )
        return f"{self._socket}: another Redis listens there; stop it" if await self._answers() else None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run while the context lasts; started again when it dies. Raises RuntimeError when it does not start."""
        process = await self._start()
        keeping = asyncio.create_task(self._keep(process))
        try:
            yield
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping
            self._socket.unlink(missing_ok=True)

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        try:
            while True:
                code = await process.wait()
                click.echo(f"gatehouse: the private Redis died (exit {code}) and is started again", err=True)
                await asyncio.sleep(RESTART_SECONDS)
                with contextlib.suppress(RuntimeError):
                    process = await self._start()
        finally:
            if process.returncode is None:
                process.kill()  # it keeps nothing
                await process.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        assert self._binary is not None  # noqa: S101 - `problem` said so
        process = await asyncio.create_subprocess_exec(
            self._binary, "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700",
            "--save", "", "--appendonly", "no", "--dir", str(self._socket.parent), "--loglevel", "warning",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True, preexec_fn=die_with(os.getpid()),
        )  # fmt: skip
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while process.returncode is None:
                    if await self._answers():
                        return process
                    await asyncio.sleep(_POLL_SECONDS)
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise RuntimeError(f"the private Redis does not start (exit {process.returncode})")

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._socket))
        except OSError:
            return False
        writer.write(b"PING\r\n")
        try:
            return await reader.readline() == b"+PONG\r\n"
        except ConnectionError:
            return False
        finally:
            writer.close()
