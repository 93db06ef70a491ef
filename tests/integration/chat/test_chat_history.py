"""The history over HTTP, on both databases: chats, messages, search, export, import, and whose they are."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import simulator
from tests.support.gateways import RunningGateway, gateway
from tests.support.members import OVER_HTTP, OWN_PAGE, Member, member
from tests.support.postgresql import PostgresqlServer, postgresql

__all__ = ["postgresql"]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The section `database`."""
    if request.param == "sqlite":
        return {}
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return {"url": server.new_database()}


@asynccontextmanager
async def serving(tmp_path: Path, database: dict[str, Any], **chat: Any) -> AsyncIterator[RunningGateway]:
    async with (
        simulator(knobs={"tps": 0}) as engine,
        gateway(engine.url, tmp_path, auth=OVER_HTTP, database=database, chat=chat) as gate,
    ):
        yield gate


async def test_a_life_of_chats(tmp_path: Path, database: dict[str, Any]) -> None:
    """Made, listed page by page, named by their first words, renamed, pinned, archived, deleted and brought back."""
    async with serving(tmp_path, database, max_chats=8) as gate:
        ada = await member(gate)
        chats = [await ada.made() for _ in range(5)]
        await ada.answered(chats[1], "# 请帮我写一首关于秋天的诗\n谢谢", params={"max_tokens": 5})
        first = await ada.ok("GET", "/api/chats?limit=3")
        assert first["chats"][0]["title"] == "请帮我写一首关于秋天的诗"
        rest = await ada.ok("GET", f"/api/chats?limit=3&cursor={first['next']}")
        order = [chats[1], chats[4], chats[3], chats[2], chats[0]]
        assert [chat["id"] for chat in first["chats"] + rest["chats"]] == order
        assert rest["next"] is None

        await ada.ok("PATCH", f"/api/chats/{chats[0]}", {"title": "  A \u0000 better\nname ", "pinned": True})
        await ada.ok("PATCH", f"/api/chats/{chats[2]}", {"archived": True})
        await ada.ok("DELETE", f"/api/chats/{chats[3]}")
        listed = await ada.ok("GET", "/api/chats")
        assert [chat["title"] for chat in listed["pinned"]] == ["A \ufffd better name"]
        assert [chat["id"] for chat in listed["chats"]] == [chats[1], chats[4]]
        archived = await ada.ok("GET", "/api/chats?archived=true")
        assert [chat["id"] for chat in archived["chats"]] == [chats[2]]
        assert (await ada.call("GET", f"/api/chats/{chats[3]}")).code == "chat_not_found"
        back = await ada.ok("PATCH", f"/api/chats/{chats[3]}", {"deleted": False})
        assert (back["deleted"], back["version"]) == (False, 3)
        for wrong in ({"title": ""}, {"title": "x" * 201}, {"nonsense": 1}, {"deleted": True}, {"pinned": "yes"}):
            assert (await ada.call("PATCH", f"/api/chats/{chats[0]}", wrong)).status == 400
        assert (await ada.call("PATCH", f"/api/chats/{chats[0]}", {"head": "m_x"})).code == "message_not_found"
        for _ in range(3):
            await ada.made()
        assert (await ada.call("POST", "/api/chats", {})).code == "too_many_chats"
        for query in ("limit=x", "limit=0", "cursor=x", "cursor=1e999_", "cursor=nan_1x"):
            assert (await ada.call("GET", f"/api/chats?{query}")).status == 400, query


async def test_what_is_new_since(tmp_path: Path, database: dict[str, Any]) -> None:
    """A tab that knows a version of a chat gets only what came after it; long chats come page by page."""
    async with serving(tmp_path, database) as gate:
        ada = await member(gate)
        chat = await ada.made(params={"max_tokens": 5})
        first = await ada.answered(chat, "one")
        known = (await ada.ok("GET", f"/api/chats/{chat}"))["chat"]["version"]
        second = await ada.answered(chat, "two", first["id"])
        new = await ada.ok("GET", f"/api/chats/{chat}?since={known}")
        assert [message["id"] for message in new["messages"]] == [second["parent"], second["id"]]
        assert (await ada.ok("GET", f"/api/chats/{chat}?since={new['chat']['version']}"))["messages"] == []
        newest = await ada.ok("GET", f"/api/chats/{chat}?limit=3")
        older = await ada.ok("GET", f"/api/chats/{chat}?limit=3&before={newest['more']}")
        assert (older["more"], len(older["messages"]), len(newest["messages"])) == (None, 1, 3)


async def test_finding(tmp_path: Path, database: dict[str, Any]) -> None:
    """Chinese words of one, two and three characters and English beginnings are found, with the text around them."""
    async with serving(tmp_path, database) as gate:
        ada, bob = await member(gate), await member(gate, "bob")
        chat = await ada.made(params={"max_tokens": 5})
        answer = await ada.answered(chat, "昨天我们讨论了数据库的性能问题 and the Kubernetes upgrade")
        for words in ("库", "性能", "数据库", "kuber", "数据库 upgrade"):
            (hit,) = [hit for hit in (await ada.ok("GET", f"/api/search?q={words}"))["hits"] if hit["message"]]
            assert (hit["chat"]["id"], hit["message"]) == (chat, answer["parent"])
            assert words.split()[0].casefold() in hit["snippet"].casefold()
            assert (await bob.ok("GET", f"/api/search?q={words}"))["hits"] == []
        for words in ("据性", "upgrades", "", "%25", "&q"):
            assert (await ada.ok("GET", f"/api/search?q={words}"))["hits"] == [], words
        assert (await ada.call("GET", f"/api/search?q={'x' * 201}")).status == 400


async def test_out_and_in_again(tmp_path: Path, database: dict[str, Any]) -> None:
    """What was exported can be imported by somebody else, branches and all, under new ids."""
    async with serving(tmp_path, database) as gate:
        ada, bob = await member(gate), await member(gate, "bob")
        chat = await ada.made(params={"max_tokens": 30, "temperature": 0.5})
        first = await ada.answered(chat, "问：**什么**？")
        await ada.frames((await ada.run(chat, parent=first["parent"]))["run_id"])
        await ada.answered(chat, "再问", first["id"])
        await ada.ok("PATCH", f"/api/chats/{chat}", {"title": '一/二 "three"', "pinned": True})
        one = await ada.call("GET", f"/api/chats/{chat}/export?format=json")
        everything = await ada.call("GET", "/api/export")
        assert one.json["chats"] == everything.json["chats"]
        assert "filename*=UTF-8''%E4%B8%80_%E4%BA%8C%20_three_.json" in one.headers["Content-Disposition"]
        text = (await ada.call("GET", f"/api/chats/{chat}/export?format=markdown")).body.decode()
        assert text.startswith('# 一/二 "three"\n\n## You\n\n问：**什么**？\n\n')
        assert (await ada.call("GET", f"/api/chats/{chat}/export?format=exe")).status == 400
        made = await bob.call("POST", "/api/import", one.body)
        assert made.status == 201
        (copy,) = made.json["chats"]
        again = (await bob.call("GET", f"/api/chats/{copy['id']}/export")).json["chats"]
        head = again[0]["head"]
        assert {message["id"] for message in again[0]["messages"]}.isdisjoint(
            message["id"] for message in one.json["chats"][0]["messages"]
        )
        assert (await bob.ok("GET", "/api/search?q=再问"))["hits"]
        assert (await bob.answered(copy["id"], "go on", head))["status"] == "done"
        assert unnamed(again) == unnamed(one.json["chats"])


def unnamed(chats: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Chats with places in the order for ids."""
    for chat in chats:
        places = {message["id"]: number for number, message in enumerate(chat["messages"])}
        chat["head"] = places.get(chat["head"])
        for message in chat["messages"]:
            message["id"], message["parent"] = places[message["id"]], places.get(message["parent"])
    return chats


def file(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A file with one chat."""
    return {"format": "gatehouse-chats", "version": 1, "chats": [{"messages": list(messages), **fields}]}


Q = {"id": "a", "role": "user", "content": "hi"}
HOSTILE: list[Any] = [
    b"", b"{", b"[]", b"\xff\xfe", b'{"format": "other"}', b"[" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    {"format": "gatehouse-chats", "version": 2, "chats": []},
    {"format": "gatehouse-chats", "version": 1, "chats": {}},
    file({"id": "a", "role": "system"}), file({"id": "a"}), file({"role": "user"}), file({**Q, "id": ""}),
    file({**Q, "id": "x" * 65}), file(Q, Q), file({**Q, "parent": "a"}), file({**Q, "parent": "b"}, {**Q, "id": "b"}),
    file(Q, {**Q, "id": "b", "parent": "a"}), file({**Q, "content": 7}), file({**Q, "content": None}),
    file({**Q, "created_at": 1e300}), file({**Q, "created_at": -1}), file({"id": "a", "role": "assistant", "usage": {"x": -1}}),
    file({"id": "a", "role": "assistant", "params": {"temperature": 99}}), file(Q, params={"priority": -1}),
    file({"id": "a", "role": "assistant", "status": "nonsense"}), file({"id": "a", "role": "assistant", "tok_s": 1e99}),
    file(title=5), file(pinned="yes"), file(head="x" * 65), file(*({**Q, "id": str(i)} for i in range(11))),
    file({**Q, "content": "x" * 2000}),
]  # fmt: skip


async def test_hostile_files(tmp_path: Path, database: dict[str, Any]) -> None:
    """What is no export, or contradicts itself or a bound, is refused whole with a reason; strange texts are harmless."""
    async with serving(tmp_path, database, max_messages=10, max_message_bytes=1000, max_chats=5) as gate:
        ada = await member(gate)
        for body in HOSTILE:
            answer = await ada.call("POST", "/api/import", body)
            assert answer.status in {400, 413}, (body, answer.status, answer.body)
            assert answer.json["error"]["message"]
        assert (await ada.call("POST", "/api/import", {**file(Q), "chats": [{}] * 6})).code == "too_many_chats"
        assert (await ada.ok("GET", "/api/chats"))["chats"] == []
        strange = "a\u0000b <script>alert(1)</script> \u202e '; DROP TABLE messages; -- %s {0} 🐈 \U0002a6d6"
        taken = await ada.ok(
            "POST",
            "/api/import",
            file(
                {**Q, "content": strange, "status": "running", "continues": True, "extra": {"x": [1]}},
                {"id": "b", "role": "assistant", "parent": "a", "content": strange, "status": "running", "finish": "x"},
                title=strange, head="nowhere", created_at=9e10, extra=1,
            ),
        )  # fmt: skip
        (chat,) = taken["chats"]
        question, answered = await ada.messages(chat["id"])
        assert question["content"] == strange.replace("\u0000", "\ufffd")
        assert (question["status"], question["continues"], answered["status"]) == ("done", False, "interrupted")
        assert (chat["head"], chat["runs"]) == (answered["id"], [])
        half = b'{"format":"gatehouse-chats","version":1,"chats":[{"title":"\\ud800","messages":[]}]}'
        assert (await ada.call("POST", "/api/import", half)).status in {201, 400}
        assert (await ada.ok("GET", "/api/search?q=DROP"))["hits"]


async def test_nobody_elses(tmp_path: Path) -> None:
    """Whatever another member, a token or nobody asks of a chat and its runs by their ids is refused, and nothing changes."""
    async with serving(tmp_path, {}) as gate:
        ada, bob = await member(gate), await member(gate, "bob")
        chat = await ada.made(params={"max_tokens": 5})
        answer = await ada.answered(chat)
        before = await ada.ok("GET", f"/api/chats/{chat}")
        calls: list[tuple[str, str, Any]] = [
            ("GET", f"/api/chats/{chat}", None),
            ("PATCH", f"/api/chats/{chat}", {"title": "mine"}),
            ("DELETE", f"/api/chats/{chat}", None),
            ("GET", f"/api/chats/{chat}/export", None),
            ("POST", f"/api/chats/{chat}/runs", {"content": "hi"}),
            ("DELETE", f"/api/runs/{answer['id']}", None),
            ("GET", f"/api/runs/{answer['id']}/events", None),
        ]
        nobody = Member(gate.url, gate.http, "nobody", "session=none")
        for method, path, body in calls:
            assert (await bob.call(method, path, body)).status == 404, path
            assert (await nobody.call(method, path, body)).code == "session_expired", path
            token = {"Authorization": f"Bearer {gate.token('ada', scopes=('api', 'chat', 'admin'))}"}
            assert (await nobody.call(method, path, body, **token)).code == "session_required", path
        async with bob.tab() as tab:
            await tab.sub(answer["id"])
            assert (await tab.until("gone"))["code"] == "run_not_found"
        assert await ada.ok("GET", f"/api/chats/{chat}") == before


async def test_other_pages_change_nothing(tmp_path: Path) -> None:
    """A request that changes something must be JSON and come from the page itself, whichever route it is for."""
    async with serving(tmp_path, {}) as gate:
        ada = await member(gate, admin=True)
        changing = [
            ("POST", "/api/chats"), ("PATCH", "/api/chats/c"), ("DELETE", "/api/chats/c"), ("POST", "/api/chats/c/runs"),
            ("DELETE", "/api/runs/m"), ("POST", "/api/import"), ("POST", "/api/admin/engine/restart"),
            ("POST", "/api/admin/engine/drain"), ("POST", "/api/admin/engine/reset-prefix-cache"),
            ("PATCH", "/api/admin/users/ada"),
        ]  # fmt: skip
        foreign = [
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "same-site"}, 403),
            ({"Sec-Fetch-Site": "", "Origin": "https://evil.example"}, 403),
            ({"Content-Type": "text/plain"}, 415),
            ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ]
        for method, path in changing:
            for headers, status in foreign:
                answer = await ada.call(method, path, b"{}", **headers)
                assert answer.status == status, (method, path, headers, answer.body)
            async with ada.http.request(
                method,
                gate.url + path,
                data=b"{}",
                headers={"Cookie": ada.cookie, "Content-Type": OWN_PAGE["Content-Type"]},
            ) as bare:
                assert bare.status == 403
        assert (await ada.ok("GET", "/api/chats"))["chats"] == []


async def test_while_the_database_is_away(tmp_path: Path, postgresql: PostgresqlServer) -> None:
    """An answer that ends while the database is away reaches its tab, and is saved when the database is back."""
    database = {"url": postgresql.new_database()}
    async with (
        simulator(knobs={"tps": 50}) as engine,
        gateway(engine.url, tmp_path, auth=OVER_HTTP, database=database) as gate,
    ):
        ada = await member(gate)
        chat = await ada.made(params={"max_tokens": 100})
        run = await ada.asked(chat)
        async with ada.tab() as tab:
            await tab.sub(run)
            await tab.until("r")
            postgresql.kill()
            try:
                assert (await tab.until("end"))["status"] == "done"
                unreachable = await ada.call("GET", "/api/chats")
                assert (unreachable.status, unreachable.code) == (503, "chats_unavailable")
            finally:
                postgresql.start()
        async with asyncio.timeout(60):
            while (await ada.call("GET", f"/api/chats/{chat}")).status != 200:
                await asyncio.sleep(0.1)
            while (kept := await ada.message(chat, run))["status"] != "done":
                await asyncio.sleep(0.1)
        assert kept["reasoning"] == "".join(
            json.loads(frame)["text"] for frame in tab.raw[run] if json.loads(frame)["t"] == "r"
        )
