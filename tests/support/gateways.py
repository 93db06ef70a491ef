"""A gateway on real sockets, for tests: in this process (fast, inspectable) before any engine.

async with gateway(engine.url, tmp_path) as gate:
    gate.url, gate.admin_url
    gate.token("alice")                # accepted by it
    await gate.post("/v1/chat/completions", {...})
    gate.log_lines()                   # the JSONL record
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from gateway.app import Gateway
from gateway.config import Config, EngineTarget, PlanSettings
from gateway.listening import Listening
from gateway.server import Ends, serve
from tests.support import tokens
from tests.support.engines import MODEL, parse_metrics

DEADLINE = 60.0
UNLIMITED = {"member": PlanSettings(), "service": PlanSettings(priority=10)}


class RunningGateway:
    """A gateway that serves."""

    def __init__(self, config: Config, listening: Listening, http: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        self.config, self.http, self.stop = config, http, stop
        self.url, self.admin_url = listening

    def token(self, subject: str = "tester", **how: Any) -> str:
        """A token for this gateway."""
        return tokens.token(self.config, subject, **how)

    def headers(self, **fields: str) -> dict[str, str]:
        """Credentials, and what else is given."""
        return {"Authorization": f"Bearer {self.token()}", **fields}

    def post(self, path: str, body: Any, **headers: str) -> Any:
        """An aiohttp request; `async with` it."""
        return self.http.post(self.url + path, json=body, headers=self.headers(**headers))

    async def chat(self, content: str = "hello", **fields: Any) -> dict[str, Any]:
        """A chat answer in one piece."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}
        async with self.post("/v1/chat/completions", body) as answer:
            assert answer.status == 200, await answer.text()
            return json.loads(await answer.read())

    async def ready(self) -> None:
        """Wait until /readyz says so."""
        async with asyncio.timeout(DEADLINE):
            while True:
                async with self.http.get(self.url + "/readyz") as answer:
                    if answer.status == 200:
                        return
                await asyncio.sleep(0.01)

    async def metrics(self) -> dict[str, float]:
        """The gateway's /metrics."""
        async with self.http.get(self.admin_url + "/metrics") as answer:
            return parse_metrics(await answer.text())

    def log_lines(self) -> list[dict[str, Any]]:
        """What the record holds now."""
        file = self.config.logging.file or self.config.state_dir / "requests.jsonl"
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []

    async def logged(self, count: int, **fields: Any) -> list[dict[str, Any]]:
        """Wait until so many lines with these fields are in the record."""
        async with asyncio.timeout(DEADLINE):
            while True:
                lines = [line for line in self.log_lines() if fields.items() <= line.items()]
                if len(lines) >= count:
                    return lines
                await asyncio.sleep(0.02)


def configure(engine_url: str, state_dir: Path, *, redis_seconds: float | None = None, **sections: Any) -> Config:
    """Settings of a gateway under test: free ports, no limits, quiet.

    `redis_seconds` is a `redis.timeout_seconds` beyond what the settings allow, which a busy machine takes for an outage.
    """
    gateway = {"port": 0, "admin_port": 0, "drain_seconds": 5, **sections.pop("gateway", {})}
    engine = {"url": engine_url, "model": MODEL, **sections.pop("engine", {})}
    logging = {"stdout": False, **sections.pop("logging", {})}
    sections.setdefault("plans", UNLIMITED)
    config = Config.model_validate(
        {"state_dir": state_dir, "engine": EngineTarget(**engine), "gateway": gateway, "logging": logging, **sections}
    )
    if redis_seconds is None:
        return config
    return config.model_copy(update={"redis": config.redis.model_copy(update={"timeout_seconds": redis_seconds})})


@contextlib.asynccontextmanager
async def gateway(
    engine_url: str, state_dir: Path, *, wait: bool = True, **sections: Any
) -> AsyncIterator[RunningGateway]:
    """Serve in front of an engine; `sections` are those of gatehouse.yaml."""
    config = configure(engine_url, state_dir, **sections)
    ends, listening = Ends(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(config, ends, on_listening=listening.set_result))
    done, _ = await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
    if serving in done:
        await serving
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as http:
        running = RunningGateway(config, listening.result(), http, ends.stop)
        try:
            if wait:
                await running.ready()
            yield running
        finally:
            ends.stop.set()
            await serving


__all__ = ["Gateway", "RunningGateway", "configure", "gateway"]
