"""The README's programs run as they are printed."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import simulator
from tests.support.gateways import gateway

README = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=["openai", "anthropic"])
async def test_the_programs_for_the_official_clients(
    program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only address and token are put in: each prints an answer, and the record has its tokens."""
    async with simulator("--sim-tps", "0") as engine, gateway(engine.url, tmp_path) as gate:
        program = program.replace("http://127.0.0.1:8080", gate.url).replace("<token>", gate.token())
        names: dict[str, Any] = {}
        try:
            await asyncio.to_thread(exec, program, names)
        finally:
            names["client"].close()
        while not gate.log_lines():
            await asyncio.sleep(0.05)
        [line] = gate.log_lines()
    assert (line["outcome"], line["estimated"]) == ("complete", False)
    assert line["completion_tokens"] > 0
    assert len(capsys.readouterr().out) > 20


def test_the_quick_start_is_two_commands() -> None:
    """`make run` and `make test`, and nothing before them."""
    [block] = re.findall(r"## Quick start\n+```sh\n(.*?)```", README, re.DOTALL)
    assert [line.split("#")[0].strip() for line in block.splitlines()] == ["make run", "make test"]
