"""`engine.kind: external` through `gatehouse up`: an engine that somebody else runs is watched, and never touched."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from gatehouse.cli import gatehouse
from tests.support.engines import simulator
from tests.support.needs import free_port
from tests.support.stack import Stack, running_stack, until

KEY = "the-external-engines-own-key"
GUARDED = {"VLLM_API_KEY": KEY}


def ask(stack: Stack) -> str:
    """A chat answer's fingerprint."""
    body = {"model": stack.model, "max_tokens": 5, "messages": [{"role": "user", "content": "Hello."}]}
    headers = {"Authorization": f"Bearer {stack.token()}", "Content-Type": "application/json"}
    request = urllib.request.Request(stack.url + "/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())["system_fingerprint"]


async def test_an_external_engine_comes_and_goes(tmp_path: Path) -> None:
    """Its key comes from a file; its death and its return are seen; the end of Gatehouse is not its end."""
    (tmp_path / "key").write_text(KEY + "\n")
    port = free_port()
    engine = {
        "kind": "external", "url": f"http://127.0.0.1:{port}", "api_key_file": str(tmp_path / "key"),
        "health_interval": 0.1, "health_failures": 1,
    }  # fmt: skip
    gateway = {"hold_seconds": 60}
    async with simulator(port=port, env=GUARDED) as first:
        with running_stack({"engine": engine, "gateway": gateway}) as stack:
            assert "simulated" in await asyncio.to_thread(ask, stack)
            status = stack.status()
            assert (status["state"], status["kind"], status["pid"]) == ("ready", "external", None)
            first.kill()
            await first.wait()
            await asyncio.to_thread(until, lambda: stack.status()["state"] == "starting" and not stack.ready(), "seen")
            held = asyncio.create_task(asyncio.to_thread(ask, stack))
            async with simulator(port=port, env=GUARDED) as second:
                assert "simulated" in await held
                # the gateway asks for itself, and may know before the launcher does
                await asyncio.to_thread(until, lambda: stack.status()["state"] == "ready", "ready")
                assert await asyncio.to_thread(stack.stop) == 0
                assert second.process.poll() is None
                assert await second.health() == 200


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), ("", "is empty"), ("schlüssel", "is not ASCII")])
def test_a_wrong_key_file_is_a_wrong_setting(tmp_path: Path, content: str | None, says: str) -> None:
    """Named with its key, before anything starts."""
    if content is not None:
        (tmp_path / "key").write_text(content)
    config = {"engine": {"kind": "external", "url": "http://127.0.0.1:1", "api_key_file": str(tmp_path / "key")}}
    (tmp_path / "gatehouse.yaml").write_text(json.dumps(config))
    words = ["up", "--config", str(tmp_path / "gatehouse.yaml"), "--state-dir", str(tmp_path / "state")]
    error = CliRunner(env=dict(os.environ)).invoke(gatehouse, words).exception
    assert says in str(error)
    assert "engine.api_key_file: " in str(error)
