"""Usage end to end: requests through a gateway, `GET /v1/usage`, `gatehouse usage`."""

import asyncio
import csv
import io
import json
from pathlib import Path

from click.testing import CliRunner

from gatehouse.cli import gatehouse
from tests.support.engines import MODEL, simulator
from tests.support.gateways import RunningGateway, gateway
from tests.support.postgresql import running_postgresql


async def usage(gate: RunningGateway, subject: str, query: str = "") -> tuple[int, dict]:
    headers = {"Authorization": f"Bearer {gate.token(subject)}"}
    async with gate.http.get(f"{gate.url}/v1/usage{query}", headers=headers) as answer:
        return answer.status, json.loads(await answer.read())


async def test_usage_is_what_the_engine_reported(tmp_path: Path) -> None:
    """The caller's sums are those of the answers, nobody else's are among them, and the command says the same."""
    async with simulator() as engine, gateway(engine.url, tmp_path) as gate:
        spent = {"alice": 0, "bob": 0}
        for subject, count in (("alice", 3), ("bob", 2)):
            for number in range(count):
                headers = {"Authorization": f"Bearer {gate.token(subject, team='red')}"}
                body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5 + number}
                async with gate.http.post(gate.url + "/v1/chat/completions", json=body, headers=headers) as answer:
                    spent[subject] += (await answer.json())["usage"]["total_tokens"]
        async with asyncio.timeout(60):
            while (await usage(gate, "alice"))[1]["total"]["requests"] < 3:
                await asyncio.sleep(0.05)
        for subject, tokens in spent.items():
            status, found = await usage(gate, subject)
            total = found["total"]
            assert (status, total["prompt_tokens"] + total["completion_tokens"]) == (200, tokens)
            (row,) = found["data"]
            assert (row["model"], row["day"]) == (MODEL, found["until"])
            assert {name: row[name] for name in total} == total
        assert (await usage(gate, "nobody"))[1]["data"] == []
        assert (await usage(gate, "alice", "?since=2099-01-01"))[1]["total"]["requests"] == 0
        for wrong in ("?days=0", "?days=x", "?days=%D9%A3", "?since=soon"):
            assert (await usage(gate, "alice", wrong))[0] == 400
        async with gate.http.get(gate.url + "/v1/usage") as answer:
            assert answer.status == 401

    def command(*arguments: str) -> str:
        result = CliRunner().invoke(gatehouse, ["usage", "--state-dir", str(tmp_path), *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    rows = json.loads(await asyncio.to_thread(command, "--json"))
    assert {row["subject"]: row["prompt_tokens"] + row["completion_tokens"] for row in rows} == spent
    text = await asyncio.to_thread(command, "--csv", "--by", "team", "--by", "day", "--since", "1d")
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["team"], row["requests"]) == ("red", "5")
    table = await asyncio.to_thread(command)
    assert table.splitlines()[-1].startswith("total")
    assert json.loads(await asyncio.to_thread(command, "--json", "--since", "2099-01-01", "--subject", "x")) == []


async def test_requests_go_on_while_the_database_is_dead_and_all_are_counted(tmp_path: Path) -> None:
    """PostgreSQL is killed: requests are answered, usage is 503; when it is back, the sums are those of the answers."""
    spent = 0
    with running_postgresql() as server:
        database = {"url": server.new_database()}
        async with simulator() as engine, gateway(engine.url, tmp_path, database=database) as gate:

            async def chat() -> None:
                nonlocal spent
                spent += (await gate.chat(max_tokens=5))["usage"]["total_tokens"]

            async def until_counted(requests: int) -> dict:
                async with asyncio.timeout(60):
                    while (found := await usage(gate, "tester"))[0] != 200 or found[1]["total"]["requests"] < requests:
                        await asyncio.sleep(0.05)
                return found[1]["total"]

            await chat()
            await until_counted(1)
            server.kill()
            for _ in range(3):
                await chat()
            status, body = await usage(gate, "tester")
            assert (status, body["error"]["code"]) == (503, "usage_unavailable")
            server.start()
            total = await until_counted(4)
            assert (total["requests"], total["prompt_tokens"] + total["completion_tokens"]) == (4, spent)
