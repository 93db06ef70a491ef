"""Runs: what a member asks for is made by the gateway, whoever looks on."""

import asyncio
import json
import random
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.config import PlanSettings
from gateway.store.messages import MessageRows
from tests.support.engines import MODEL, Simulator, simulator
from tests.support.gateways import DEADLINE, gateway
from tests.support.members import OVER_HTTP, Member, member, text_of

ROUTE = "/api/chats/{id}/runs"
RUNNING = "vllm:num_requests_running"


async def bodies(engine: Simulator) -> list[dict]:
    """What the engine was asked, in order."""
    return [json.loads(request["body"]) for request in await engine.requests()]


def figures(line: dict) -> dict:
    """What a request used and how it ended."""
    names = (
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "reasoning_tokens",
        "estimated",
        "outcome",
        "status",
    )
    return {name: line[name] for name in (*names, "stream", "model", "plan", "error_code")}


async def test_a_run_is_recorded_as_any_request(tmp_path: Path) -> None:
    """The same conversation by a run and by /v1 has the same text, the same figures in the record and in SQL's sums."""
    async with simulator(knobs={"tps": 0}) as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada = await member(gate)
        chat = await ada.made(params={"seed": 7, "max_tokens": 20, "reasoning_effort": "low"})
        begun = await ada.run(chat, content="hello there", client_id="s1")
        frames = await ada.frames(begun["run_id"])
        assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
        assert [frame["t"] for frame in frames[:2]] in (["started", "r"], ["queued", "started"])
        assert frames[-1]["t"] == "end"
        question, answer = await ada.messages(chat)
        assert (question["content"], question["status"]) == ("hello there", "done")
        assert (answer["content"], answer["reasoning"]) == (text_of(frames), text_of(frames, "r"))
        kept = ("finish", "status", "usage", "ttft_ms", "tok_s", "queued_ms", "thought_ms")
        assert {name: answer[name] for name in kept} == {name: frames[-1][name] for name in kept}
        assert (answer["finish"], answer["status"], answer["params"]["seed"]) == ("length", "done", 7)
        (sent,) = await bodies(engine)
        assert sent["messages"] == [{"role": "user", "content": "hello there"}]
        direct = {name: value for name, value in sent.items() if name not in {"priority", "cache_salt"}}
        v1 = await ada.call("POST", "/v1/chat/completions", direct)
        assert v1.body.endswith(b"data: [DONE]\n\n")
        (run_line,) = await gate.logged(1, route=ROUTE)
        (v1_line,) = await gate.logged(1, route="/v1/chat/completions")
        assert figures(run_line) == figures(v1_line)
        assert (run_line["subject"], run_line["outcome"], run_line["completion_tokens"]) == ("ada", "complete", 20)
        told = await gate.metrics()
        assert told[f'gatehouse_tokens_total{{kind="completion",model="{MODEL}",plan="member"}}'] == 40
        assert told["gatehouse_in_flight"] == 0
        async with asyncio.timeout(60):
            while sums(tmp_path) != [(2, 0, 2 * run_line["prompt_tokens"], 40)]:
                await asyncio.sleep(0.05)


def sums(state_dir: Path) -> list:
    """What SQL says that ada has used."""
    with closing(sqlite3.connect(state_dir / "gatehouse.db")) as connection:
        query = "SELECT requests, rejected, prompt_tokens, completion_tokens FROM usage WHERE subject = 'ada'"
        return connection.execute(query).fetchall()


async def test_replay_from_anywhere(tmp_path: Path) -> None:
    """Whoever attaches after any frame, while it runs or after its end, gets byte for byte what follows it."""
    async with simulator(knobs={"tps": 400}) as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada = await member(gate)
        chat = await ada.made(params={"max_tokens": 400})
        run = await ada.asked(chat)
        async with ada.tab() as tab, ada.tab() as other:
            await tab.sub(run)
            await tab.until("c", run=run)
            early = len(tab.raw[run])
            await other.sub(run, early - 1)
            await other.until("end")
            await tab.until("end")
            whole = tab.raw[run]
            assert other.raw[run] == whole[early - 1 :]
            assert [json.loads(frame)["seq"] for frame in whole] == list(range(1, len(whole) + 1))
            assert await ada.raw_frames(run) == whole
            for after in range(len(whole) + 1):
                tab.raw.clear()
                await tab.sub(run, after)
                await tab.sub("m_nothing")  # is answered after what comes before it
                await tab.until("gone", run="m_nothing")
                assert tab.raw.get(run, []) == whole[after:]
        beyond = await ada.call("GET", f"/api/runs/{run}/events?from=999999")
        assert (beyond.status, beyond.body) == (200, b"")


async def test_fifty_who_come_and_go(tmp_path: Path) -> None:
    """Fifty times somebody attaches where they left and leaves at random: nothing comes twice, nothing is missing."""
    dice = random.Random(8)
    async with simulator(knobs={"tps": 300}) as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada = await member(gate)
        chat = await ada.made(params={"max_tokens": 1500, "seed": 8})
        run = await ada.asked(chat, "Tell me everything")
        seen: list[dict] = []
        for _ in range(50):
            if dice.random() < 0.5:
                last = len(seen) + dice.randint(1, 6)
                seen += await ada.frames(run, len(seen), partial(is_number, last))
            else:
                async with ada.tab() as tab:
                    await tab.sub(run, len(seen))
                    for _ in range(dice.randint(0, 6)):
                        frame = await tab.next()
                        if "seq" not in frame:
                            continue
                        seen.append(frame)
                        if frame["t"] == "end":
                            break
            if seen[-1]["t"] == "end":
                break
            await asyncio.sleep(dice.random() / 20)
        if seen[-1]["t"] != "end":
            seen += await ada.frames(run, len(seen))
        assert [frame["seq"] for frame in seen] == list(range(1, len(seen) + 1))
        answer = await ada.message(chat, run)
        assert (answer["content"], answer["reasoning"]) == (text_of(seen), text_of(seen, "r"))
        (body,) = await bodies(engine)
        again = {name: body[name] for name in ("temperature", "max_tokens", "reasoning_effort", "seed")}
        direct = await gate.chat("Tell me everything", **again)
        said = direct["choices"][0]["message"]
        assert (said["content"], said["reasoning"]) == (answer["content"], answer["reasoning"])


def is_number(seq: int, frame: dict) -> bool:
    return frame["seq"] >= seq


async def test_stopping(tmp_path: Path) -> None:
    """Stop ends the engine's work at once and keeps what has come; a tab that leaves ends nothing."""
    async with simulator(knobs={"tps": 100}) as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada = await member(gate)
        chat = await ada.made(params={"max_tokens": 4000})
        run = await ada.asked(chat)
        async with ada.tab() as tab:
            await tab.sub(run)
            await tab.until("c")
        await ada.frames(run, until=lambda frame: frame["t"] == "c")
        assert (await engine.metrics())[RUNNING] == 1
        assert (await ada.ok("GET", "/api/runs"))["runs"][0]["run"] == run
        assert (await ada.call("DELETE", f"/api/runs/{run}")).status == 204
        await engine.until(RUNNING, 0)
        frames = await ada.frames(run)
        assert (frames[-1]["finish"], frames[-1]["status"]) == ("stopped", "stopped")
        answer = await ada.message(chat, run)
        assert answer["content"] == text_of(frames) != ""
        assert answer["usage"]["completion_tokens"] > 0
        (line,) = await gate.logged(1, route=ROUTE)
        assert (line["outcome"], line["error_code"], line["estimated"]) == ("client_gone", "stopped", False)
        assert line["completion_tokens"] == answer["usage"]["completion_tokens"]
        assert (await ada.call("DELETE", f"/api/runs/{run}")).status == 204
        assert (await ada.ok("GET", "/api/runs"))["runs"] == []


async def test_branches(tmp_path: Path) -> None:
    """Another answer, an edited question and a continued answer are new branches; each is asked with its own past."""
    async with simulator(knobs={"tps": 0}) as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada = await member(gate)
        chat = await ada.made(params={"system_prompt": "Be kind.", "max_tokens": 60})
        first = await ada.answered(chat, "one")
        question = first["parent"]
        second = (await ada.run(chat, parent=question))["run_id"]
        await ada.frames(second)
        edited = await ada.answered(chat, "uno", None)
        follow = await ada.answered(chat, "two", second)
        continued = (await ada.run(chat, parent=follow["id"]))["run_id"]
        await ada.frames(continued)
        after = await ada.answered(chat, "three", continued)
        messages = {each["id"]: each for each in await ada.messages(chat)}
        assert [each["parent"] for each in (first, messages[second])] == [question, question]
        assert messages[edited["parent"]]["parent"] is None
        assert messages[continued]["continues"]
        assert not messages[second]["continues"]
        assert (await ada.ok("GET", f"/api/chats/{chat}"))["chat"]["head"] == after["id"]
        asked = [body["messages"] for body in await bodies(engine)]
        said = lambda role, text: {"role": role, "content": text}  # noqa: E731
        past = [said("system", "Be kind."), said("user", "one")]
        assert asked[:3] == [past, past, [past[0], said("user", "uno")]]
        past += [said("assistant", messages[second]["content"]), said("user", "two")]
        whole = follow["content"] + messages[continued]["content"]
        past = [each for each in past if each["content"]]
        assert asked[3] == past
        assert asked[4][: len(past)] == past
        assert asked[4][-1]["role"] == "user"
        assert asked[4][-1]["content"].startswith("Continue exactly")
        assert asked[5] == [
            each for each in [*past, said("assistant", whole), said("user", "three")] if each["content"]
        ]


async def test_sent_again(tmp_path: Path) -> None:
    """However often and however close together the same sending comes, one run is made of it."""
    async with simulator(knobs={"tps": 0}) as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada = await member(gate)
        chat = await ada.made(client_id="c")
        assert await ada.made(client_id="c") == chat
        bodies = [{"content": "hello", "client_id": "s"}] * 8
        answers = await asyncio.gather(*(ada.call("POST", f"/api/chats/{chat}/runs", body) for body in bodies))
        assert sorted(answer.status for answer in answers) == [200] * 7 + [202]
        (run,) = {answer.json["run_id"] for answer in answers}
        assert {tuple(each["id"] for each in answer.json["messages"]) for answer in answers} == {
            tuple(each["id"] for each in await ada.messages(chat))
        }
        await ada.frames(run)
        later = await ada.call("POST", f"/api/chats/{chat}/runs", bodies[0])
        assert (later.status, later.json["run_id"], later.json["messages"][-1]["status"]) == (200, run, "done")
        assert len(await engine.requests()) == 1


async def test_what_is_refused_leaves_nothing(tmp_path: Path) -> None:
    """A limit refuses in the answer to the sending, with its headers; no message is kept, nothing reaches the engine."""
    plans = {
        "member": PlanSettings(requests_per_minute=1, request_burst=1),
        "tiny": PlanSettings(tokens_per_day=10),
        "free": PlanSettings(),
        "service": PlanSettings(),
    }
    settings = {"auth": OVER_HTTP, "plans": plans, "chat": {"max_runs": 1, "max_message_bytes": 100, "max_messages": 3}}
    async with simulator(knobs={"tps": 1}) as engine, gateway(engine.url, tmp_path, **settings) as gate:
        ada, bob, eve = (
            await member(gate),
            await member(gate, "bob", plan="tiny"),
            await member(gate, "eve", plan="free"),
        )
        chat = await ada.made()
        await ada.ok("DELETE", f"/api/runs/{await ada.asked(chat)}")
        await refused(ada, chat, 429, "rate_limit_exceeded")
        answer = await ada.call("POST", f"/api/chats/{chat}/runs", {"content": "again"})
        assert int(answer.headers["retry-after-ms"]) > 0
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        assert len(await ada.messages(chat)) == 2
        await refused(bob, await bob.made(), 429, "request_too_large_for_plan")
        chat = await eve.made()
        await refused(eve, chat, 413, "message_too_large", content="字" * 40)
        await refused(eve, chat, 400, "invalid_request", content="  ")
        await refused(eve, chat, 400, "value_out_of_range", params={"temperature": 3})
        await refused(eve, chat, 400, "value_out_of_range", params={"priority": 0})
        await refused(eve, chat, 400, "invalid_request", priority=0)
        await refused(eve, chat, 404, "message_not_found", parent="m_nothing")
        run = await eve.asked(chat)
        await refused(eve, chat, 429, "too_many_runs")
        await refused(eve, chat, 400, "answer_running", parent=run)
        await eve.ok("DELETE", f"/api/runs/{run}")
        await eve.frames(run)
        question = (await eve.messages(chat))[0]["id"]
        await refused(eve, chat, 400, "invalid_request", parent=question)
        again = (await eve.run(chat, parent=question))["run_id"]
        await eve.ok("DELETE", f"/api/runs/{again}")
        await eve.frames(again)
        await refused(eve, chat, 400, "too_many_messages", parent=run)
        assert len(await engine.requests()) <= 3
        lines = await gate.logged(2, subject="ada", outcome="rejected")
        assert {line["error_code"] for line in lines} == {"rate_limit_exceeded"}


async def refused(who: Member, chat: str, status: int, code: str, **fields: object) -> None:
    """A sending that is refused so, and changes nothing."""
    before = await who.ok("GET", f"/api/chats/{chat}")
    answer = await who.call("POST", f"/api/chats/{chat}/runs", {"content": "hello", **fields})
    assert (answer.status, answer.code) == (status, code), answer.body
    after = await who.ok("GET", f"/api/chats/{chat}")
    assert [each["id"] for each in after["messages"]] == [each["id"] for each in before["messages"]]


async def test_a_conversation_that_is_too_long(tmp_path: Path) -> None:
    """The engine's refusal says by how much; with `fit` the oldest messages are left out and it passes."""
    settings = {"auth": OVER_HTTP, "engine": {"max_model_len": 2048}}
    async with (
        simulator("--max-model-len", "2048", knobs={"tps": 0}) as engine,
        gateway(engine.url, tmp_path, **settings) as gate,
    ):
        ada = await member(gate)
        chat = await ada.made(params={"max_tokens": 20})
        first = await ada.answered(chat, "old words " * 700)
        failed = await ada.answered(chat, "new words " * 500, first["id"])
        assert (failed["status"], failed["finish"], failed["error"]["code"]) == (
            "failed",
            "error",
            "context_length_exceeded",
        )
        assert failed["error"]["details"]["max_tokens"] == 2048
        assert failed["error"]["details"].get("prompt_tokens", 2049) > 2048  # vLLM does not count the far too long
        again = (await ada.run(chat, parent=failed["parent"], fit=True))["run_id"]
        frames = await ada.frames(again)
        assert frames[-1]["status"] == "done", frames[-2]
        (line,) = await gate.logged(1, route=ROUTE, outcome="rejected")
        assert (line["status"], line["error_code"]) == (400, "engine_400")
        *_, last = await bodies(engine)
        assert "old words" not in last["messages"][0]["content"]


async def test_the_waiting_line_is_shown(tmp_path: Path) -> None:
    """Who has to wait for the engine is told how many are ahead, again when that changes, and then that it has begun."""
    async with (
        simulator("--max-num-seqs", "1", knobs={"tps": 1}) as engine,  # nobody ends before all are there
        gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate,
    ):
        people = [await member(gate, name) for name in ("ada", "bob", "eve")]
        runs = []
        for number, who in enumerate(people):
            runs.append(await who.asked(await who.made(params={"max_tokens": 60}), "hello"))
            await engine.until("vllm:num_requests_running", 1)
            await engine.until("vllm:num_requests_waiting", number)
        await engine.knobs(tps=60)
        told = [await who.frames(run) for who, run in zip(people, runs, strict=True)]
        ahead = [[frame["ahead"] for frame in frames if frame["t"] == "queued"] for frames in told]
        assert ahead[0] == []
        assert 0 in ahead[2]
        assert max(ahead[2]) >= 1
        for frames in told:
            kinds = [frame["t"] for frame in frames]
            assert kinds.index("started") < kinds.index("r")
            assert frames[-1]["status"] == "done"
        assert told[2][-1]["queued_ms"] > 500


async def test_an_engine_that_is_away(tmp_path: Path) -> None:
    """A run that finds no engine says so and goes on by itself once there is one; the wait counts as held."""
    async with simulator(knobs={"tps": 0}) as engine:
        port = engine.port
        settings = {"auth": OVER_HTTP, "gateway": {"hold_seconds": 0.2}}
        async with gateway(engine.url, tmp_path, **settings) as gate:
            ada = await member(gate)
            chat = await ada.made()
            engine.kill()
            await engine.wait()
            run = await ada.asked(chat)
            await ada.frames(run, until=lambda frame: frame["t"] == "loading")
            await asyncio.sleep(0.5)
            async with simulator(port=port, knobs={"tps": 0}):
                frames = await ada.frames(run)
            kinds = [frame["t"] for frame in frames]
            assert kinds.index("loading") < kinds.index("started") < kinds.index("r")
            assert (frames[-1]["status"], kinds.count("end")) == ("done", 1)
            (line,) = await gate.logged(1, route=ROUTE)
            assert line["outcome"] == "complete"
            assert line["duration_ms"] - line["overhead_ms"] >= 500


async def test_a_growing_answer_tells_its_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures so far are those of the ids that the gateway counts; the engine is not asked for usage in every chunk."""
    monkeypatch.setattr("gateway.chat.run.USAGE_SECONDS", 0)
    async with simulator(knobs={"tps": 100}) as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada = await member(gate)
        chat = await ada.made(params={"max_tokens": 4000})
        run = await ada.asked(chat)
        await ada.frames(run, until=lambda frame: frame["t"] == "usage")
        assert (await engine.metrics())[RUNNING] == 1
        await ada.ok("DELETE", f"/api/runs/{run}")
        told = [frame for frame in await ada.frames(run) if frame["t"] == "usage"]
        whole = (await ada.message(chat, run))["usage"]
        tokens = [frame["completion_tokens"] for frame in told]
        assert 0 < tokens[0] <= tokens[-1] <= whole["completion_tokens"]
        assert tokens == sorted(tokens)
        assert {frame["prompt_tokens"] for frame in told} == {whole["prompt_tokens"]}
        (sent,) = await bodies(engine)
        assert (sent["return_token_ids"], sent["stream_options"]["continuous_usage_stats"]) == (True, False)


@pytest.mark.parametrize("fault", ["die_mid_stream", "error_frame"])
async def test_an_engine_that_dies_in_mid_answer(tmp_path: Path, fault: str) -> None:
    """What had come stays, with the error; the thread goes on from there."""
    knobs = {"tps": 100, "fault": fault, "fault_after": 30, "fault_times": 1}
    async with simulator(knobs=knobs) as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada = await member(gate)
        chat = await ada.made()
        answer = await ada.answered(chat)
        frames = await ada.frames(answer["id"])
        assert [frame["t"] for frame in frames[-2:]] == ["error", "end"]
        assert (frames[-2]["code"], frames[-1]["status"]) == ("engine_failed", "failed")
        assert answer["reasoning"] == text_of(frames, "r") != ""
        assert answer["error"] == {k: v for k, v in frames[-2].items() if k not in {"run", "seq", "t"}}
        (line,) = await gate.logged(1, route=ROUTE)
        assert (line["outcome"], line["request_id"]) == ("engine_failed", answer["error"]["request_id"])
        assert line["completion_tokens"] == answer["usage"]["completion_tokens"] > 0
        if fault == "error_frame":
            again = (await ada.run(chat, parent=answer["parent"]))["run_id"]
            assert (await ada.frames(again))[-1]["status"] == "done"


async def test_a_page_that_is_left_while_its_message_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever goes in the moment in which the question is saved finds its answer, and the same sending is the same run."""
    add = MessageRows.add
    saved, left = asyncio.Event(), asyncio.Event()

    async def add_and_wait(*args: Any, **fields: Any) -> Any:
        added = await add(*args, **fields)
        saved.set()
        await left.wait()
        return added

    async with simulator(knobs={"tps": 0}) as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada = await member(gate)
        chat = await ada.made()
        monkeypatch.setattr(MessageRows, "add", add_and_wait)
        asking = asyncio.create_task(ada.run(chat, content="hello", client_id="s1"))
        await saved.wait()
        asking.cancel()
        await asyncio.wait({asking})
        async with asyncio.timeout(DEADLINE):
            while not any(task.cancelling() for task in asyncio.all_tasks()):
                await asyncio.sleep(0.01)
        left.set()
        run = (await ada.run(chat, content="hello", client_id="s1"))["run_id"]
        assert (await ada.frames(run))[-1]["status"] == "done"
        assert [message["status"] for message in await ada.messages(chat)] == ["done", "done"]
        assert len(await engine.requests()) == 1
        (line,) = await gate.logged(1, route=ROUTE, status=200, stream=True)
        assert line["completion_tokens"] > 0
