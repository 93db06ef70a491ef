"""What breaks under a run, on purpose: Redis, the disk, the member, the chat, the reader. Each ends with a clear word."""

import asyncio
import contextlib
import json
import logging
import random
import resource
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.engines import simulator
from tests.support.fleet import running_fleet
from tests.support.gateways import DEADLINE, gateway
from tests.support.members import OVER_HTTP, Member, add_user, member, sign_in, text_of
from tests.support.redis_server import running_redis
from tests.support.scripted import Script, chunked, scripted_engine

RUNNING = "vllm:num_requests_running"
PLANS = {"member": {}, "service": {}}
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def test_a_full_disk() -> None:
    """When the disk fills in mid-answer the answer goes on and its frames tell of its end; what would be new is refused with
    503. With room again the end is saved, though nobody asked, and the chat goes on.
    """
    sections = {"auth": OVER_HTTP, "plans": PLANS, "chat": {"save_seconds": 0.2}}
    async with simulator(knobs={"tps": 20}) as engine, aiohttp.ClientSession() as http:
        with running_fleet(engine.url, sections) as fleet:
            (gate,) = fleet.gateways
            await add_user(fleet.database, "ada")
            ada = await sign_in(gate.url, http, "ada")
            chat = await ada.made(params={"max_tokens": 2000})
            run = await ada.asked(chat)
            async with ada.tab() as tab:
                await tab.sub(run)
                await tab.until("r")
                assert gate.process is not None
                before = resource.prlimit(gate.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
                await engine.knobs(tps=2000)
                assert (await tab.until("end"))["status"] == "done"
                frames = [json.loads(frame) for frame in tab.raw[run]]
            refused = await ada.call("POST", f"/api/chats/{chat}/runs", {"content": "more"})
            assert (refused.status, refused.code) == (503, "chats_unavailable")
            assert (await ada.message(chat, run))["status"] == "running", "what the disk has"
            resource.prlimit(gate.process.pid, resource.RLIMIT_FSIZE, before)
            async with asyncio.timeout(DEADLINE):
                while (kept := await ada.message(chat, run))["status"] == "running":
                    await asyncio.sleep(0.05)
            assert (kept["status"], kept["content"]) == ("done", text_of(frames))
            assert (await ada.answered(chat, "more", run))["status"] == "done"
            await engine.until(RUNNING, 0)


async def test_redis_fails_under_an_answer_and_from_afar() -> None:
    """Redis is full in mid-answer: a reader at the other gateway gets the whole text nevertheless once it is in SQL, and the
    record says so once. A chat that is deleted there while Redis is dead ends its run when it is back, another one at once;
    so does a member's end.
    """
    async with simulator(knobs={"tps": 20}) as engine, aiohttp.ClientSession() as http:
        with running_redis() as redis:
            sections = {"auth": OVER_HTTP, "plans": PLANS, "redis": {"url": redis.url}}
            with running_fleet(engine.url, sections, sections) as fleet:
                for name in ("ada", "root"):
                    await add_user(fleet.database, name, admin=name == "root")
                here, there = (Member(gate.url, http, "ada", "") for gate in fleet.gateways)
                here.cookie = there.cookie = (await sign_in(here.url, http, "ada")).cookie
                root = await sign_in(there.url, http, "root")

                async def answering() -> tuple[str, str]:
                    chat = await here.made(params={"max_tokens": 2000})
                    run = await here.asked(chat)
                    await here.frames(run, until=lambda frame: frame["t"] == "r")
                    return chat, run

                chat, run = await answering()
                async with there.tab() as tab:
                    await tab.sub(run)
                    await tab.until("r")
                    redis.cli("CONFIG", "SET", "maxmemory", "1mb")
                    await engine.knobs(tps=2000)
                    assert (await tab.until("end"))["status"] == "done"
                    frames = [json.loads(frame) for frame in tab.raw[run]]
                kept = await there.message(chat, run)
                assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
                assert (kept["reasoning"], kept["content"]) == (text_of(frames, "r"), text_of(frames))
                said = (fleet.gateways[0].state_dir / "requests.jsonl").read_text("utf-8")
                assert said.count("workers do not see each other's runs") == 1
                await engine.knobs(tps=20)
                redis.kill()
                chat, run = await answering()
                await there.ok("DELETE", f"/api/chats/{chat}")
                assert (await here.ok("GET", "/api/runs"))["runs"][0]["run"] == run, "nobody could tell this one"
                redis.start()
                await engine.until(RUNNING, 0)
                chat, _ = await answering()
                await there.ok("DELETE", f"/api/chats/{chat}")
                await engine.until(RUNNING, 0)
                await answering()
                await root.ok("PATCH", "/api/admin/users/ada", {"disabled": True})
                await engine.until(RUNNING, 0)


async def test_a_member_who_is_shut_out(tmp_path: Path) -> None:
    """A member who is disabled in mid-answer is sent away at once, the engine's work ends, and what had come is kept."""
    async with simulator(knobs={"tps": 20}) as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada, root = await member(gate), await member(gate, "root", admin=True)
        chat = await ada.made(params={"max_tokens": 4000})
        run = await ada.asked(chat)
        async with ada.tab() as tab:
            await tab.sub(run)
            await tab.until("r")
            following = asyncio.create_task(ada.frames(run))
            await root.ok("PATCH", "/api/admin/users/ada", {"disabled": True})
            assert await tab.closed() == 4401
        assert (await following)[-1]["t"] in {"r", "c", "usage", "error", "end"}
        await engine.until(RUNNING, 0)
        assert (await ada.call("GET", "/api/chats")).status == 401
        (line,) = await gate.logged(1, route="/api/chats/{id}/runs")
        assert line["outcome"] == "rejected"
        await root.ok("PATCH", "/api/admin/users/ada", {"disabled": False})
        ada = await sign_in(gate.url, gate.http, "ada")
        kept = await ada.message(chat, run)
        assert (kept["status"], bool(kept["reasoning"])) == ("failed", True)
        assert kept["error"]["code"] == line["error_code"]
        again = await ada.asked(chat, "back", run, params={"max_tokens": 5})
        assert (await ada.frames(again))[-1]["status"] == "done"


async def test_many_sendings_at_once(tmp_path: Path) -> None:
    """Two tabs that send into one chat at once each get a branch; of more than `chat.max_runs` the rest is refused."""
    async with (
        simulator(knobs={"tps": 20}) as engine,
        gateway(engine.url, tmp_path, auth=OVER_HTTP, chat={"max_runs": 4}) as gate,
    ):
        ada = await member(gate)
        chat = await ada.made(params={"max_tokens": 2000})
        sent = [{"content": f"question {number}", "client_id": f"s{number}"} for number in range(12)]
        answers = await asyncio.gather(*(ada.call("POST", f"/api/chats/{chat}/runs", body) for body in sent))
        refused = [answer for answer in answers if answer.status != 202]
        assert {(answer.status, answer.code) for answer in refused} == {(429, "too_many_runs")}
        assert len(answers) - len(refused) == 4
        assert len((await ada.ok("GET", "/api/runs"))["runs"]) == 4
        messages = await ada.messages(chat)
        assert [each["parent"] for each in messages if each["role"] == "user"] == [None] * 4
        await engine.knobs(tps=0)
        for run in [each["id"] for each in messages if each["role"] == "assistant"]:
            assert (await ada.frames(run))[-1]["status"] == "done"


async def test_a_megabyte(tmp_path: Path) -> None:
    """A message of 1 MB is refused in words; where the settings allow it the engine's refusal comes as the answer's error."""
    text = "word " * 200_000
    async with simulator(knobs={"tps": 0}) as engine:
        async with gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
            ada = await member(gate)
            chat = await ada.made()
            answer = await ada.call("POST", f"/api/chats/{chat}/runs", {"content": text})
            assert (answer.status, answer.code) == (413, "message_too_large")
            assert await ada.messages(chat) == []
        async with gateway(engine.url, tmp_path, auth=OVER_HTTP, chat={"max_message_bytes": 2_000_000}) as gate:
            ada = await sign_in(gate.url, gate.http, "ada")
            failed = await ada.answered(chat, text)
            assert (failed["status"], failed["error"]["code"]) == ("failed", "context_length_exceeded")
            assert len((await ada.messages(chat))[0]["content"]) == len(text)


def events(pieces: int, size: int) -> bytes:
    """A streamed answer of so many pieces."""
    piece = {"choices": [{"index": 0, "delta": {"content": "x" * size}, "finish_reason": None}]}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": pieces, "total_tokens": pieces + 3}}
    told = [*([piece] * pieces), last, usage]
    body = [
        b"data: " + json.dumps({"id": "1", "object": "chat.completion.chunk", **each}).encode() + b"\n\n"
        for each in told
    ]
    return chunked([*body, b"data: [DONE]\n\n"], "content-type: text/event-stream")


def head(who: Member, path: str, **fields: str) -> bytes:
    """A request of a member's page, on the wire."""
    own = {"Host": who.url.removeprefix("http://"), "Cookie": who.cookie, "Origin": who.url, **fields}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in own.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.mark.parametrize("way", ["ws", "events"])
async def test_a_reader_that_never_reads(tmp_path: Path, way: str) -> None:
    """Whoever reads nothing, by either way in, holds up nobody and is cut off; the run ends as if nobody looked on."""
    async with scripted_engine() as engine:
        engine.answer = lambda _head, _body: Script([events(100, 100_000)])
        settings: dict[str, Any] = {"auth": OVER_HTTP, "gateway": {"write_seconds": 1}}
        async with gateway(engine.url, tmp_path, **settings) as gate:
            ada = await member(gate)
            chat = await ada.made()
            run = await ada.asked(chat)
            port = int(gate.url.rpartition(":")[2])
            with socket.socket() as reader:
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                reader.connect(("127.0.0.1", port))
                if way == "ws":
                    reader.sendall(head(ada, "/api/ws", **UPGRADE))
                    frame = json.dumps({"t": "sub", "run": run, "from": 0}).encode()
                    reader.sendall(bytes([0x81, 0x80 | len(frame), 0, 0, 0, 0]) + frame)
                else:
                    reader.sendall(head(ada, f"/api/runs/{run}/events"))
                async with asyncio.timeout(DEADLINE):
                    while (kept := await ada.message(chat, run))["status"] == "running":
                        await asyncio.sleep(0.05)
                assert (kept["status"], len(kept["content"])) == ("done", 100 * 100_000)
                async with asyncio.timeout(DEADLINE):
                    while (await gate.metrics())["gatehouse_connections"] > 1:
                        await asyncio.sleep(0.05)
            found = await gate.metrics()
            assert (found["gatehouse_chat_tabs"], found["gatehouse_in_flight"]) == (0, 0)


def garbage(dice: random.Random) -> bytes:
    """Something that begins as frames do: reserved bits and opcodes, no mask, lengths that lie, halves of a message."""
    found = b""
    for _ in range(dice.randint(1, 8)):
        payload = dice.choice((b'{"t":"sub","run":"m"}', dice.randbytes(dice.randint(0, 200)), b"\xff\xfe", b""))
        first = dice.choice((0x81, 0x01, 0x80, 0x82, 0x88, 0x89, 0x8A, 0x09, 0xF1, 0x83, dice.randrange(256)))
        length = dice.choice((len(payload), len(payload), 125, 126, 127))
        size = bytes([length]) if length < 126 else bytes([length]) + dice.randbytes(2 if length == 126 else 8)
        masked = dice.random() < 0.8
        found += bytes([first, size[0] | (0x80 if masked else 0)]) + size[1:] + (bytes(4) if masked else b"") + payload
    return found


async def test_frames_that_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever comes in a frame's place ends that socket alone: nothing is left of it, nothing is an error of ours."""
    dice = random.Random(6455)
    async with simulator() as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        ada = await member(gate)

        async def throw() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(gate.url.rpartition(":")[2]))
            writer.write(head(ada, "/api/ws", **UPGRADE))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            writer.write(garbage(dice))
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()

        async with ada.tab() as calm, asyncio.timeout(DEADLINE):
            for _ in range(20):
                await asyncio.gather(*(throw() for _ in range(10)))
            chat = await ada.made()
            assert (await calm.until("chat"))["chat"]["id"] == chat
            while (await gate.metrics())["gatehouse_chat_tabs"] > 1:
                await asyncio.sleep(0.02)
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == []
