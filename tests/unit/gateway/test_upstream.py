"""The connection to the engine: what HTTP lets an engine send, cut anywhere, and what no engine should send."""

import asyncio
import gc
import itertools
from collections.abc import Callable, Iterator

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from gateway.corking import Cork
from gateway.upstream import HIGH_WATER, MAX_HEADER_BYTES, Connection, Pool, UpstreamClosed, UpstreamTimeout
from tests.support.scripted import Script, chunked, http_answer, scripted_engine


class Wire(asyncio.Transport):
    """The transport's side of a connection, so that bytes can be cut at will."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False
        self.ended = False
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.closing = True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def connection() -> tuple[Connection, Wire, list[Connection]]:
    idle: list[Connection] = []
    conn, wire = Connection(idle.append, Cork()), Wire()
    conn.connection_made(wire)
    conn.send(b"GET / HTTP/1.1\r\n\r\n", b"")
    return conn, wire, idle


async def everything(conn: Connection) -> bytes:
    return b"".join([data async for data in reading(conn)])


async def reading(conn: Connection):
    while data := await conn.read():
        yield data


def cut(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted({c % (len(data) + 1) for c in cuts}), len(data)]
    return (data[a:b] for a, b in itertools.pairwise(edges))


token = st.from_regex(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True).filter(
    lambda name: name.lower() not in {"content-length", "transfer-encoding", "connection", "upgrade"}
)
value = st.from_regex(r"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True)
fields = st.lists(st.tuples(token, value), max_size=6)
pieces = st.lists(
    st.binary(min_size=1, max_size=200) | st.sampled_from([b"0\r\n\r\n", b"\r\n", b"x" * 5000]), max_size=6
)


@given(
    fields,
    pieces,
    st.sampled_from(["length", "chunked", "close"]),
    st.lists(st.integers(min_value=0), max_size=20),
    st.sampled_from(["", ";ext=1", ';a="b;c"']),
    st.sampled_from([b"0\r\n\r\n", b"0\r\nX-Trailer: 1\r\n\r\n"]),
    st.booleans(),
)
def test_any_answer_in_any_split_is_read_whole(
    fields: list[tuple[str, str]],
    pieces: list[bytes],
    framing: str,
    cuts: list[int],
    extension: str,
    end: bytes,
    interim: bool,
) -> None:
    """Duplicate fields, chunk extensions, trailers, 1xx answers, bodies by length, chunks or end: status, fields, body."""
    lines = [f"{name}: {value}" for name, value in fields]
    match framing:
        case "length":
            data = http_answer(b"".join(pieces), *lines)
        case "chunked":
            data = chunked(pieces, *lines, extension=extension, end=end)
        case _:
            data = ("\r\n".join(["HTTP/1.1 200 OK", *lines]) + "\r\n\r\n").encode() + b"".join(pieces)
    if interim:
        data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + data

    async def read() -> None:
        conn, _, idle = connection()
        for part in cut(data, cuts):
            conn.data_received(part)
        if framing == "close":
            conn.connection_lost(None)
        head = await conn.head()
        assert head.status == 200
        read = [(name.decode(), value.decode()) for name, value in head.headers]
        assert [f for f in read if f[0] not in {"content-length", "transfer-encoding"}] == fields
        assert await everything(conn) == b"".join(pieces)
        conn.release()
        assert (idle == [conn]) == (framing != "close")

    asyncio.run(read())


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (MAX_HEADER_BYTES + 1) + b"\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_what_is_not_http_closes_the_connection(data: bytes) -> None:
    """An engine that speaks nonsense has failed; nothing of it is passed on."""
    conn, wire, _ = connection()
    conn.data_received(data)
    with pytest.raises(UpstreamClosed):
        await conn.head()
        await everything(conn)
    assert wire.closing


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
async def test_an_answer_that_breaks_off_is_an_error(data: bytes) -> None:
    """What came is still read; then the truth is told."""
    conn, _, idle = connection()
    if data:
        conn.data_received(data)
    conn.connection_lost(None)
    with pytest.raises(UpstreamClosed):
        await conn.head()
        assert await conn.read() == b"abc"
        await conn.read()
    conn.release()
    assert not idle


async def test_a_reset_does_not_end_an_answer_that_ends_with_the_connection() -> None:
    """Only a clean close says that a body without length is whole."""
    conn, _, _ = connection()
    conn.data_received(b"HTTP/1.1 200 OK\r\n\r\nabc")
    conn.connection_lost(ConnectionResetError())
    assert await conn.read() == b"abc"
    with pytest.raises(UpstreamClosed):
        await conn.read()


async def test_more_than_one_answer_is_not_the_next_callers() -> None:
    """Response splitting: bytes after the answer never serve another request."""
    conn, wire, idle = connection()
    conn.data_received(http_answer(b"a") + http_answer(b"evil"))
    assert await everything(conn) == b"a"
    conn.release()
    assert wire.closing
    assert not idle


async def test_bytes_on_an_idle_connection_close_it() -> None:
    """The same, when they come later."""
    conn, wire, idle = connection()
    conn.data_received(http_answer(b"a"))
    assert await everything(conn) == b"a"
    conn.release()
    assert idle == [conn]
    conn.data_received(http_answer(b"evil"))
    assert wire.closing
    assert not conn.usable
    with pytest.raises(UpstreamClosed):
        conn.send(b"x", b"")


async def test_who_hangs_up_is_seen_at_once_and_the_connection_is_not_used_again() -> None:
    """The engine gets the end of the stream before the connection is released; a whole answer changes nothing then."""
    conn, wire, idle = connection()
    conn.hang_up()
    assert wire.ended
    assert not wire.closing
    conn.data_received(http_answer(b"a"))
    conn.release()
    assert wire.closing
    assert idle == []
    conn.hang_up()  # nothing is left to tell


async def test_connection_close_is_obeyed() -> None:
    """An engine that says it will close is not asked again."""
    conn, _, idle = connection()
    conn.data_received(http_answer(b"a", "Connection: close"))
    assert await everything(conn) == b"a"
    conn.release()
    assert not idle


async def test_an_answer_without_a_body_ends_at_once() -> None:
    """204 has neither length nor body."""
    conn, _, idle = connection()
    conn.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert await conn.read() == b""
    conn.release()
    assert idle == [conn]


async def test_an_unread_answer_makes_the_engine_wait() -> None:
    """Memory for a slow client is bounded: reading stops at the high-water mark and goes on when it was read."""
    conn, wire, _ = connection()
    conn.data_received(chunked([b"x" * (HIGH_WATER + 1)], end=b""))
    assert wire.paused
    assert len(await conn.read()) == HIGH_WATER + 1
    assert not wire.paused


async def test_the_deadline_moves_with_each_answer() -> None:
    """One timer serves all reads; when nothing comes until the deadline, the engine is silent."""
    conn, _, _ = connection()
    conn.expect_by(3600)
    conn.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
    assert await conn.read() == b"a"
    conn.expect_by(0.01)
    with pytest.raises(UpstreamTimeout):
        await conn.read()


async def test_a_deadline_that_has_passed_is_noticed_without_waiting() -> None:
    """A relay that was busy writing does not start to wait anew."""
    conn, _, _ = connection()
    conn.expect_by(0.001)
    await asyncio.sleep(0.01)
    with pytest.raises(UpstreamTimeout):
        await conn.head()


async def test_a_pump_gives_bytes_on_the_moment_they_arrive() -> None:
    """The sink runs before data_received returns: no task has to be woken first."""
    conn, _, _ = connection()
    got: list[bytes] = []
    pump = asyncio.create_task(conn.pump(lambda data: got.append(data) or True))  # type: ignore[func-returns-value]
    conn.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await asyncio.sleep(0)
    assert got == [b"abc"]  # it had come before anybody pumped
    conn.data_received(b"2\r\nde\r\n1\r\nf\r\n")
    assert got == [b"abc", b"def"]
    assert not pump.done()
    conn.data_received(b"0\r\n\r\n")
    await pump
    assert conn.drained


async def test_a_pump_stops_when_the_sink_refuses_and_loses_nothing() -> None:
    """What comes before the next pump waits, and beyond the high-water mark the engine is not read."""
    conn, wire, _ = connection()
    got: list[bytes] = []

    def take_one(data: bytes) -> bool:
        got.append(data)
        return False

    pump = asyncio.create_task(conn.pump(take_one))
    conn.data_received(f"HTTP/1.1 200 OK\r\nContent-Length: {6 + HIGH_WATER}\r\n\r\n".encode())
    await asyncio.sleep(0)
    conn.data_received(b"ab")
    conn.data_received(b"cd")
    await pump
    assert got == [b"ab"]
    conn.data_received(b"e" + b"x" * HIGH_WATER)
    assert wire.paused
    await conn.pump(take_one)
    assert got == [b"ab", b"cde" + b"x" * HIGH_WATER]
    assert not wire.paused


async def test_an_error_of_the_sink_reaches_who_pumps() -> None:
    """It is raised there, and the connection is not used again."""
    conn, wire, idle = connection()

    def refuse(_data: bytes) -> bool:
        raise LookupError("no")

    pump = asyncio.create_task(conn.pump(refuse))
    await asyncio.sleep(0)
    conn.data_received(http_answer(b"abc"))
    with pytest.raises(LookupError):
        await pump
    conn.release()
    assert wire.closing
    assert not idle


@given(pieces, st.lists(st.integers(min_value=0), max_size=20), st.lists(st.booleans(), max_size=20))
def test_a_pump_delivers_what_a_reader_would(pieces: list[bytes], cuts: list[int], refusals: list[bool]) -> None:
    """Any split, a sink that refuses at any time: the same bytes in the same order."""
    answers = iter(refusals)
    got: list[bytes] = []

    def sink(data: bytes) -> bool:
        got.append(data)
        return next(answers, True)

    async def run() -> None:
        conn, _, _ = connection()

        async def pump() -> None:
            while not conn.drained:
                await conn.pump(sink)

        task = asyncio.create_task(pump())
        for part in cut(chunked(pieces), cuts):
            conn.data_received(part)
            await asyncio.sleep(0)
        await asyncio.wait_for(task, 60)

    asyncio.run(run())
    assert b"".join(got) == b"".join(pieces)


async def test_a_deadline_that_was_moved_on_does_not_fire() -> None:
    """The timer looks again when it is early."""
    conn, _, _ = connection()
    conn.expect_by(0.01)
    conn.expect_by(3600)
    head = asyncio.create_task(conn.head())
    await asyncio.sleep(0.05)
    assert not head.done()
    conn.data_received(http_answer(b"a"))
    assert (await head).status == 200


def answering(script: Script) -> Callable[[bytes, bytes], Script]:
    return lambda _head, _body: script


async def test_idle_connections_are_used_again_and_old_ones_are_not() -> None:
    """One connection serves many requests in turn; one that was idle too long is left to its end."""
    async with scripted_engine() as engine:
        engine.answer = answering(Script([http_answer(b"a")]))
        host, port = "127.0.0.1", int(engine.url.rsplit(":", 1)[1])
        pool = Pool(keep_alive=3600, connect_timeout=60)
        for _ in range(3):
            conn = await pool.connect(host, port)
            conn.send(b"GET /x HTTP/1.1\r\n\r\n", b"")
            assert await everything(conn) == b"a"
            conn.release()
        assert engine.connections == 1
        pool._keep_alive = 0
        conn = await pool.connect(host, port)
        async with asyncio.timeout(60):  # connected is not yet accepted
            while engine.connections < 2:
                await asyncio.sleep(0.01)
        conn.abort()
        pool.close()
        conn = await pool.connect(host, port)
        conn.send(b"GET /x HTTP/1.1\r\n\r\n", b"")
        assert await everything(conn) == b"a"
        conn.release()  # into a closed pool: closed
        assert not conn.usable or conn._transport.is_closing()


async def test_another_address_forgets_the_old_connections() -> None:
    """After a restart the engine may listen elsewhere."""
    async with scripted_engine() as one, scripted_engine() as two:
        pool = Pool(keep_alive=3600, connect_timeout=60)
        for engine in (one, two):
            engine.answer = answering(Script([http_answer(b"a")]))
            conn = await pool.connect("127.0.0.1", int(engine.url.rsplit(":", 1)[1]))
            conn.send(b"GET /x HTTP/1.1\r\n\r\n", b"")
            assert await everything(conn) == b"a"
            conn.release()
        assert len(pool._idle) == 1
        pool.close()


async def test_an_engine_that_is_not_there() -> None:
    """A refused connection is said to be one."""
    async with scripted_engine() as engine:
        port = int(engine.url.rsplit(":", 1)[1])
    with pytest.raises(UpstreamClosed):
        await Pool(keep_alive=1, connect_timeout=60).connect("127.0.0.1", port)


def test_a_connection_that_was_never_made_is_freed_at_once() -> None:
    """While an engine is away each request tries again and again. uvloop makes the connection before it connects."""

    def connections() -> int:
        return sum(type(each) is Connection for each in gc.get_objects())

    async def nobody_answers() -> int:
        async with scripted_engine() as engine:
            port = int(engine.url.rsplit(":", 1)[1])
        gc.collect()
        gc.disable()
        before = connections()
        with pytest.raises(UpstreamClosed):
            await Pool(keep_alive=1, connect_timeout=60).connect("127.0.0.1", port)
        await asyncio.sleep(0)
        return connections() - before

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(nobody_answers()) == 0
    finally:
        gc.enable()
