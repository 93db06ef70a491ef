"""Runs: what a member asks for is made by the gateway, whoever looks on."""

from pathlib import Path

from tests.support.engines import simulator
from tests.support.gateways import gateway
from tests.support.members import OVER_HTTP, member, text_of


async def test_a_question_and_its_answer(tmp_path: Path) -> None:
    """An answer comes in frames, is kept as a message, and is recorded like any request."""
    async with simulator() as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada = await member(gate)
        chat = await ada.made()
        begun = await ada.run(chat, content="hello there", client_id="s1")
        frames = await ada.frames(begun["run_id"])
        assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
        assert frames[0]["t"] in {"started", "queued"}
        end = frames[-1]
        assert (end["t"], end["finish"], end["status"]) == ("end", "stop", "done")
        question, answer = await ada.messages(chat)
        assert (question["content"], answer["content"]) == ("hello there", text_of(frames))
        assert answer["reasoning"] == text_of(frames, "r")
        assert answer["usage"] == end["usage"]
        (line,) = await gate.logged(1, route="/api/chats/{id}/runs")
        assert line["subject"] == "ada"
        assert (line["status"], line["outcome"], line["completion_tokens"]) == (
            200,
            "complete",
            end["usage"]["completion_tokens"],
        )
