"""`gatehouse engine` as a process of its own, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.support.launchers import DEADLINE, QUICK


@dataclass
class Command:
    """A running `gatehouse engine`."""

    process: asyncio.subprocess.Process
    config: Path
    state_dir: Path

    async def call(self, *words: str) -> tuple[int, str, str]:
        """Run `gatehouse engine WORDS`: exit code, stdout, stderr."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gatehouse", "engine", *words, *self.options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    @property
    def options(self) -> list[str]:
        """The options that all calls share."""
        return ["--config", str(self.config), "--state-dir", str(self.state_dir)]

    async def until(self, state: str, **fields: Any) -> dict[str, Any]:
        """Wait until the status on its socket says so; the status."""
        async with asyncio.timeout(DEADLINE):
            while True:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    connector = aiohttp.UnixConnector(path=str(self.state_dir / "engine.sock"))
                    async with (
                        aiohttp.ClientSession("http://launcher", connector=connector) as session,
                        session.get("/status") as answer,
                    ):
                        status = await answer.json()
                    if {"state": state, **fields}.items() <= status.items():
                        return status
                assert self.process.returncode is None, "the launcher ended"
                await asyncio.sleep(0.02)

    async def ready(self) -> dict[str, Any]:
        """Wait until requests may be sent; the status."""
        return await self.until("ready")


@contextlib.asynccontextmanager
async def command(
    tmp_path: Path, env: dict[str, str] | None = None, stderr: int | None = None, **settings: Any
) -> AsyncIterator[Command]:
    """Start `gatehouse engine` with these settings; its engine is gone at the end or the test fails."""
    config = tmp_path / "gatehouse.yaml"
    config.write_text(yaml.safe_dump({"engine": {**QUICK, **settings}}))
    state_dir = tmp_path / "state"
    running = Command(None, config, state_dir)  # type: ignore[arg-type]
    with (tmp_path / "stderr").open("wb") as log:
        running.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gatehouse", "engine", *running.options),
            stderr=log if stderr is None else stderr,
            env={**os.environ, **(env or {})},
        )
    try:
        yield running
    finally:
        if running.process.returncode is None:
            running.process.terminate()
        await asyncio.wait_for(running.process.wait(), DEADLINE)
