"""Who shares the prefix cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.engines import MODEL, Simulator, simulator
from tests.support.gateways import RunningGateway, gateway

LONG = "the board will announce the merger on friday " * 100


async def cached(gate: RunningGateway, subject: str, team: str | None) -> int:
    """How many tokens of the prompt the engine had already."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": LONG}], "max_tokens": 1}
    headers = {"Authorization": f"Bearer {gate.token(subject, team=team)}"}
    async with gate.http.post(gate.url + "/v1/chat/completions", json=body, headers=headers) as answer:
        assert answer.status == 200
        usage = json.loads(await answer.read())["usage"]
    return int(usage["prompt_tokens_details"]["cached_tokens"]) if usage.get("prompt_tokens_details") else 0


async def salts(engine: Simulator) -> list[str | None]:
    return [json.loads(r["body"]).get("cache_salt") for r in await engine.requests() if r["method"] == "POST"]


async def test_teams_share_nothing_of_the_prefix_cache(tmp_path: Path) -> None:
    """Within a team the second request is faster, across teams it is not; a restart of the gateway changes no salt."""
    async with simulator("--enable-prompt-tokens-details") as engine:
        async with gateway(engine.url, tmp_path) as gate:
            assert await cached(gate, "ada", "law") == 0
            assert await cached(gate, "bob", "law") > 0
            assert await cached(gate, "eve", "sales") == 0
            assert await cached(gate, "kim", None) == 0
            assert await cached(gate, "lee", None) > 0
        async with gateway(engine.url, tmp_path) as gate:
            assert await cached(gate, "ada", "law") > 0
        seen = await salts(engine)
        assert seen[0] == seen[1] == seen[5] != seen[2]
        assert seen[3] is seen[4] is None
        assert all(salt is None or ("law" not in salt and len(salt) == 43) for salt in seen)


@pytest.mark.parametrize(("sharing", "shared"), [("subject", False), ("none", True)])
async def test_the_other_ways_to_share(tmp_path: Path, sharing: str, shared: bool) -> None:
    """`subject`: nobody shares; `none`: everybody does."""
    async with (
        simulator("--enable-prompt-tokens-details") as engine,
        gateway(engine.url, tmp_path, gateway={"cache_salt": sharing}) as gate,
    ):
        assert await cached(gate, "ada", "law") == 0
        assert (await cached(gate, "bob", "law") > 0) is shared
        assert await cached(gate, "ada", "law") > 0
