"""The public listener under what nobody has thought of: for half a minute each, mutated bytes and generated requests.

`python -m bench.edge.fuzz --minutes 30` does the first for longer, and watches the memory of a gateway of its own.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.edge.conftest import World
from tests.edge.corpus.case import ID, ORIGIN, SESSION, TOKEN
from tests.edge.test_corpus import CASES, filled
from tests.support.fuzzing import Mutator, fuzz

SECONDS = 30
SEED = random.randrange(2**32)
ROOT = Path(__file__).parents[2]
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance,unsupported_method,ignored_auth"

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


async def settled(world: World) -> None:
    """Wait until the gateway serves nothing and nobody but this test is connected."""
    async with asyncio.timeout(60):
        while True:
            metrics = await world.gate.metrics()
            if metrics["gatehouse_in_flight"] == 0 and metrics["gatehouse_connections"] <= 1:
                return
            await asyncio.sleep(0.1)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_mutated_bytes(world: World) -> None:
    """No 5xx of ours, no task, descriptor or request that stays; the gateway serves on."""
    values = {ID: "mutated0", SESSION: world.session, ORIGIN: "https://localhost"}
    mutator = Mutator([filled(case.send, values) for case in CASES], SEED)
    await fuzz(lambda: world.connect(behind_nginx=False), mutator, seconds=1)  # what is made once is made
    await settled(world)
    tasks, files = len(asyncio.all_tasks()), open_files()
    found = await fuzz(lambda: world.connect(behind_nginx=False), mutator, seconds=SECONDS)
    print(f"seed {SEED}: {found.sent} connections, {sorted(found.statuses.items())}")
    assert found.sent > 500
    assert not found.refused
    assert not found.server_errors, (SEED, found.server_errors[0])
    await settled(world)
    assert (await world.gate.chat())["choices"] == []
    async with asyncio.timeout(60):
        while len(asyncio.all_tasks()) > tasks + 2 or open_files() > files + 2:  # an idle connection to the engine
            await asyncio.sleep(0.1)
    assert not [line for line in world.gate.log_lines() if line["status"] >= 500 and line["error_code"] != "login_busy"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
async def test_what_is_streamed_to_generated_requests_is_whole(world: World, path: str) -> None:
    """Of each API: a stream without its API's last event would be the engine's failure, and a 503."""
    asked = {"stream": True, "max_tokens": 1, "prompt": "x", "messages": [{"role": "user", "content": "x"}]}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with world.gate.http.post(world.gate.url + path, json=asked, headers=headers) as streamed:
        assert streamed.status == 200
        assert await streamed.read()


async def test_generated_requests(world: World, tmp_path: Path) -> None:
    """What schemathesis makes of docs/openapi.yaml: no 5xx, answers as documented, no route without credentials."""
    # one worker: threads that parse Python at once fail in 3.11 ("AST constructor recursion depth mismatch")
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", str(ROOT / "docs/openapi.yaml"), "-u", world.gate.url,
        "-H", f"Authorization: Bearer {TOKEN}", "--checks", CHECKS, "--max-time", str(SECONDS), "--phases", "coverage,fuzzing",
        "--continue-on-failure", "--workers", "1", "--warnings", "off", "--suppress-health-check", "all", "--seed", str(SEED),
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-6000:]
