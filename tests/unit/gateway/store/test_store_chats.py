"""Chats, messages and the search in them: the same on both databases."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.store import Store, User
from gateway.store.chat_rows import ChatChange, Ending, NewChat, NewMessage, Role, Status
from gateway.store.chats import TooMany
from gateway.store.database import Conflict
from gateway.store.messages import TooManyRunning
from gateway.store.search import query_of, terms_of

MOST = 100


@pytest.fixture
async def store(address: str | Path) -> AsyncIterator[Store]:
    store = await Store.open(address)
    for name in ("ada", "bob"):
        await store.users.add(User(name, name, None, "member", created_at=0.0))
    yield store
    await store.close()


def a_chat(key: str, title: str = "", at: float = 1.0, messages: tuple[NewMessage, ...] = ()) -> NewChat:
    return NewChat(key, title, False, False, at, at, None, {}, list(messages))


def asked(key: str, content: str, parent: str | None = None, at: float = 1.0) -> NewMessage:
    return NewMessage(key, parent, Role.USER, content, at)


def answering(key: str, parent: str, at: float = 1.0, client_id: str | None = None) -> NewMessage:
    return NewMessage(
        key, parent, Role.ASSISTANT, "", at, status=Status.RUNNING, worker="w", saved_at=at, client_id=client_id
    )


async def talk(store: Store, chat_id: str, question: str, answer: str, owner: str = "ada") -> None:
    """A question and its whole answer."""
    new = [asked(f"{chat_id}-q", question), answering(f"{chat_id}-a", f"{chat_id}-q")]
    assert await store.messages.add(owner, chat_id, new, title="", most_running=MOST, most=MOST)
    await store.messages.finish(f"{chat_id}-a", Ending(answer, "", Status.DONE, "stop", 2.0))


async def found(store: Store, words: str, owner: str = "ada") -> list[str]:
    hits = (await store.messages.search(owner, query_of(words), limit=50, before=None)).hits
    return [hit.message.id if hit.message else hit.chat.id for hit in hits]


async def test_an_answer_from_its_start_to_its_end(store: Store) -> None:
    """Question and answer are added at once, the answer is written on, then ended; each step has its own version."""
    await store.chats.add("ada", a_chat("c"), client_id=None, most=MOST)
    added = await store.messages.add(
        "ada", "c", [asked("q", "hello"), answering("a", "q")], title="hello", most_running=MOST, most=MOST
    )
    assert added is not None
    chat, messages = added
    assert (chat.title, chat.head, chat.version, chat.runs) == ("hello", "a", 2, ("a",))
    assert [message.version for message in messages] == [2, 2]
    await store.messages.save([("a", "Hi", "hm")], 3.0)
    kept = await store.messages.find("ada", "a")
    assert kept is not None
    assert (kept.content, kept.reasoning, kept.status, kept.saved_at) == ("Hi", "hm", Status.RUNNING, 3.0)
    ended = await store.messages.finish("a", Ending("Hi there", "hm", Status.DONE, "stop", 4.0, usage={"a": 1}))
    assert ended is not None
    assert (ended.version, ended.runs) == (3, ())
    page = await store.messages.page("c", limit=10, most_characters=100, since=2)
    assert [(message.id, message.content, message.usage) for message in page.messages] == [("a", "Hi there", {"a": 1})]
    await store.messages.save([("a", "late", "")], 5.0)
    kept = await store.messages.find("ada", "a")
    assert kept is not None
    assert kept.content == "Hi there"


async def test_paths_in_a_tree(store: Store) -> None:
    """A path leads from the first message to the one asked for, past its siblings."""
    await store.chats.add("ada", a_chat("c"), client_id=None, most=MOST)
    for new in (
        [asked("q", "1"), answering("a", "q")],
        [answering("b", "q")],
        [asked("r", "2", "b"), answering("d", "r")],
    ):
        await store.messages.add("ada", "c", new, title="", most_running=MOST, most=MOST)
    assert [message.id for message in await store.messages.path("c", "d")] == ["q", "b", "r", "d"]
    assert await store.messages.path("other", "d") == []


async def test_pages_of_messages(store: Store) -> None:
    """Pages come newest first and overlap nowhere; a page is also bounded by its characters."""
    await store.chats.add("ada", a_chat("c"), client_id=None, most=MOST)
    for i in range(7):
        await store.messages.add("ada", "c", [asked(str(i), "x" * 10)], title="", most_running=MOST, most=MOST)
    seen: list[str] = []
    before = None
    while True:
        page = await store.messages.page("c", limit=3, most_characters=1000, before=before)
        seen = [message.id for message in page.messages] + seen
        before = page.more
        if before is None:
            break
    assert seen == list("0123456")
    assert len((await store.messages.page("c", limit=7, most_characters=25)).messages) == 2
    assert len((await store.messages.page("c", limit=7, most_characters=5)).messages) == 1


async def test_pages_of_chats(store: Store) -> None:
    """Chats come last written first, page by page; pinned, archived and deleted ones are not among them."""
    for i in range(7):
        await store.chats.add("ada", a_chat(f"c{i}", at=float(i // 2)), client_id=None, most=MOST)
    await store.chats.change("ada", "c0", ChatChange(pinned=True))
    await store.chats.change("ada", "c1", ChatChange(archived=True))
    await store.chats.delete("ada", "c2", 9.0)
    first = await store.chats.page("ada", archived=False, limit=3, after=None)
    second = await store.chats.page("ada", archived=False, limit=3, after=first.next)
    assert [chat.id for chat in (*first.chats, *second.chats)] == ["c6", "c5", "c4", "c3"]
    assert second.next is None
    assert [chat.id for chat in await store.chats.pinned("ada", archived=False)] == ["c0"]
    assert [chat.id for chat in (await store.chats.page("ada", archived=True, limit=3, after=None)).chats] == ["c1"]
    assert (await store.chats.page("bob", archived=False, limit=3, after=None)).chats == []


async def test_nobody_reaches_what_is_not_theirs(store: Store) -> None:
    """Whatever is asked with another owner's name is not there, and changes nothing."""
    await store.chats.add("ada", a_chat("c", "secret"), client_id=None, most=MOST)
    await talk(store, "c", "secret question", "secret answer")
    assert await store.chats.find("bob", "c") is None
    assert await store.chats.change("bob", "c", ChatChange(title="mine")) is None
    assert await store.chats.delete("bob", "c", 1.0) is None
    assert await store.messages.find("bob", "c-a") is None
    assert await store.messages.add("bob", "c", [asked("x", "x")], title="", most_running=MOST, most=MOST) is None
    assert await found(store, "secret", "bob") == []
    chat = await store.chats.find("ada", "c")
    assert chat is not None
    assert chat.title == "secret"


async def test_the_same_id_of_the_page_again(store: Store) -> None:
    """A chat or a run that is asked for twice with one `client_id` is made once; ids are the owner's or the chat's own."""
    first, new = await store.chats.add("ada", a_chat("c"), client_id="k", most=MOST)
    again, same = await store.chats.add("ada", a_chat("d"), client_id="k", most=MOST)
    assert (new, same, again.id) == (True, False, first.id)
    assert (await store.chats.add("bob", a_chat("e"), client_id="k", most=MOST))[1]
    await store.messages.add(
        "ada", "c", [asked("q", "x"), answering("a", "q", client_id="s")], title="", most_running=MOST, most=MOST
    )
    with pytest.raises(Conflict):
        await store.messages.add(
            "ada", "c", [asked("r", "x"), answering("b", "r", client_id="s")], title="", most_running=MOST, most=MOST
        )
    assert [message.id for message in await store.messages.sent("c", "s")] == ["q", "a"]
    assert (await store.messages.page("c", limit=10, most_characters=99)).more is None
    await store.messages.add(
        "ada", "c", [answering("b", "q", at=5.0, client_id="t")], title="", most_running=MOST, most=MOST
    )
    assert [message.id for message in await store.messages.sent("c", "t")] == ["b"]
    assert await store.messages.sent("c", "u") == []


async def test_bounds(store: Store) -> None:
    """One chat, message or running answer too many is refused, and nothing of it stays."""
    await store.chats.add("ada", a_chat("c"), client_id=None, most=1)
    with pytest.raises(TooMany):
        await store.chats.add("ada", a_chat("d"), client_id=None, most=1)
    with pytest.raises(TooMany):
        await store.chats.add_all("ada", [a_chat("d"), a_chat("e")], most=2)
    assert await store.chats.ids("ada") == ["c"]
    with pytest.raises(TooMany):
        await store.messages.add(
            "ada", "c", [asked("q", "x"), answering("a", "q")], title="", most_running=MOST, most=1
        )
    with pytest.raises(TooManyRunning):
        await store.messages.add(
            "ada", "c", [asked("q", "x"), answering("a", "q")], title="", most_running=0, most=MOST
        )
    chat = await store.chats.find("ada", "c")
    assert chat is not None
    assert (chat.version, chat.head) == (1, None)
    assert (await store.messages.page("c", limit=9, most_characters=9)).messages == []


async def test_answers_at_once(store: Store) -> None:
    """Of sendings to several chats at once as many begin as may run, and no more."""
    for number in range(8):
        await store.chats.add("ada", a_chat(f"c{number}"), client_id=None, most=MOST)
    sendings = (
        store.messages.add("ada", f"c{number}", [answering(f"a{number}", "")], title="", most_running=3, most=MOST)
        for number in range(8)
    )
    found = await asyncio.gather(*sendings, return_exceptions=True)
    assert sum(isinstance(each, TooManyRunning) for each in found) == 5
    assert len(await store.messages.running("ada")) == 3


TEXT = "我们的数据库今天升级，机器学习模型Qwen3明天上线。Straße und Ärger: café_au_lait v1.5 ２０２６"


FINDS = [
    *("库", "线", "数据", "据库", "数据库", "机器学习模型", "数据 模型", "我们的数据库今天升级，机器学习"),
    *("qwen", "QWEN3", "strasse", "ÄRGER", "au lait", "2026", "数据库 qwen3 café", "数据 & ! | <-> :*"),
]
FINDS_NOT = [
    "数模",
    "数据线",
    "学习升级",
    "wen3",
    "数据库 nothing",
    '"数据" OR * NEAR(',
    "'; DROP TABLE chats; --",
    "%",
    "_",
    "",
]


async def test_words_are_found(store: Store) -> None:
    """Chinese words of any length anywhere, others by their beginnings, all of them; signs mean nothing."""
    await store.chats.add("ada", a_chat("c"), client_id=None, most=MOST)
    await talk(store, "c", TEXT, "ok")
    assert [words for words in FINDS if await found(store, words) != ["c-q"]] == []
    assert [words for words in FINDS_NOT if await found(store, words) != []] == []


async def test_what_a_search_finds(store: Store) -> None:
    """Titles first, then messages, the newest first, page by page; not what is deleted, renamed away or still written."""
    for i in range(4):
        await store.chats.add("ada", a_chat(f"c{i}", "kite" if i == 1 else "", at=float(i)), client_id=None, most=MOST)
        await talk(store, f"c{i}", "a kite", "no")
    await store.chats.add("bob", a_chat("b"), client_id=None, most=MOST)
    await talk(store, "b", "a kite", "no", "bob")
    assert await found(store, "kite") == ["c1", "c3-q", "c2-q", "c1-q", "c0-q"]
    first = await store.messages.search("ada", query_of("kite"), limit=3, before=None)
    rest = await store.messages.search("ada", query_of("kite"), limit=3, before=first.next)
    assert [hit.message.id for hit in rest.hits if hit.message] == ["c0-q"]
    assert rest.next is None
    await store.chats.change("ada", "c1", ChatChange(title="dog"))
    await store.chats.delete("ada", "c2", 5.0)
    assert await found(store, "kite") == ["c3-q", "c1-q", "c0-q"]
    await store.chats.change("ada", "c2", ChatChange(restore=True))
    assert "c2-q" in await found(store, "kite")
    await store.messages.add("ada", "c0", [answering("new", "c0-q")], title="", most_running=MOST, most=MOST)
    await store.messages.save([("new", "another kite", "")], 3.0)
    assert "new" not in await found(store, "kite")


async def test_purging(store: Store) -> None:
    """What was deleted long ago is forgotten with all that belongs to it, the search included; the rest stays."""
    for key in ("old", "new", "kept"):
        await store.chats.add("ada", a_chat(key, "kite"), client_id=None, most=MOST)
        await talk(store, key, "a kite", "no")
    await store.chats.delete("ada", "old", 1.0)
    await store.chats.delete("ada", "new", 10.0)
    assert (await store.chats.purge(5.0), await store.chats.purge(5.0)) == (1, 0)
    assert await store.chats.change("ada", "old", ChatChange(restore=True)) is None
    assert await store.messages.find("ada", "old-q") is None
    assert await store.chats.change("ada", "new", ChatChange(restore=True)) is not None
    async with store.database.read() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM chat_search")).scalar() == 6


async def test_orphans(store: Store) -> None:
    """An answer whose maker is gone is marked once; one that was written meanwhile is not, and its maker's end counts."""
    await store.chats.add("ada", a_chat("c"), client_id=None, most=MOST)
    await store.messages.add("ada", "c", [asked("q", "x"), answering("a", "q")], title="", most_running=MOST, most=MOST)
    (orphan,) = await store.messages.unfinished()
    await store.messages.save([("a", "partial kite", "")], 2.0)
    shown = {"content": "", "reasoning": "and more that was shown"}
    assert await store.messages.interrupt(orphan, 3.0, {"code": "interrupted"}, **shown) is None
    (orphan,) = await store.messages.unfinished()
    chat = await store.messages.interrupt(orphan, 3.0, {"code": "interrupted"}, **shown)
    assert chat is not None
    assert chat.runs == ()
    assert await store.messages.unfinished() == []
    assert await found(store, "partial") == ["a"]
    kept = await store.messages.find("ada", "a")
    assert kept is not None
    assert (kept.content, kept.reasoning) == ("partial kite", "and more that was shown")
    await store.messages.finish("a", Ending("all of it", "", Status.DONE, "stop", 4.0))
    kept = await store.messages.find("ada", "a")
    assert kept is not None
    assert (kept.content, kept.status, kept.error) == ("all of it", Status.DONE, None)


def test_long_texts_stay_within_what_a_tsvector_holds() -> None:
    """Terms are bounded in number and length, whatever the text."""
    assert sum(len(term.encode()) for term in terms_of("".join(map(chr, range(0x4E00, 0x9FFF))) * 50)) < 1_000_000
    assert max(map(len, terms_of("x" * 1000))) == 64
