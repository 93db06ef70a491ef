"""Prompts and answers in the record, where they are asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import MODEL, simulator
from tests.support.gateways import gateway
from tests.support.traffic import APIS, Request

SECRET = "sk-abcdefghijklmnop1234567890"


@pytest.mark.parametrize("api", APIS)
async def test_what_was_asked_and_answered(tmp_path: Path, api: str) -> None:
    """On each API: the JSON that came, the JSON that went out, or a stream's text; without the secret in the prompt."""
    logging = {"bodies": {"enabled": True}}
    async with simulator() as engine, gateway(engine.url, tmp_path, logging=logging) as gate:
        for stream in (False, True):
            request = Request(api, stream, max_tokens=12)
            body = request.body(MODEL, f"hello, {SECRET}")
            async with gate.post(request.path, body, **{"X-Request-Id": f"r-{stream}"}) as answer:
                got = (await answer.read()).decode()
                assert answer.status == 200, got
            [line] = await gate.logged(1, request_id=f"r-{stream}")
            kept = json.loads(line["request_body"])
            assert kept == json.loads(json.dumps(body).replace(SECRET, "[redacted]"))
            assert SECRET not in json.dumps(line)
            if stream:
                assert "data:" not in line["response_body"]
                parts = re.split(r"(?:^|\n)\[[a-z ]+\] ", line["response_body"])
                said = re.sub(r"sk-[\w-]{16,}", "[redacted]", "".join(texts(got)))  # which the answer may repeat
                assert [part for part in parts if part]
                assert all(part in said for part in parts)
            else:
                assert json.loads(line["response_body"]).keys() == json.loads(got).keys()


TEXTS = {"content", "reasoning", "reasoning_content", "text", "thinking", "delta"}


def texts(events: str) -> Iterator[str]:
    """The pieces of text that a stream's events carry."""

    def pieces(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for name, inner in value.items():
                if isinstance(inner, str):
                    yield from (inner,) if name in TEXTS else ()
                else:
                    yield from pieces(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from pieces(inner)

    for line in events.splitlines():
        if line.startswith("data: {"):
            yield from pieces(json.loads(line.removeprefix("data: ")))


async def test_not_unless_asked_for(tmp_path: Path) -> None:
    """By default nothing of it is anywhere in the state directory; sign-in is never kept."""
    async with simulator() as engine, gateway(engine.url, tmp_path) as gate:
        await gate.chat("a very private matter")
        await gate.logged(1)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"private matter" not in file.read_bytes()


async def test_other_routes_are_never_kept(tmp_path: Path) -> None:
    """A password that was typed is not in the record, whatever is switched on."""
    logging = {"bodies": {"enabled": True, "redact_fields": []}}
    async with simulator() as engine, gateway(engine.url, tmp_path, logging=logging) as gate:
        login = {"username": "nobody", "password": "correct horse"}
        async with gate.http.post(gate.url + "/auth/login", json=login, headers={"Origin": gate.url}) as answer:
            assert answer.status in {401, 403}
        [line] = await gate.logged(1, route="/auth/login")
    assert "request_body" not in line
    assert "correct horse" not in (tmp_path / "requests.jsonl").read_text()
