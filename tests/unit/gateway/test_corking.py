"""Writes that leave together: in what order, when, and what becomes of them where a connection ends."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gateway.corking import LARGE_BYTES, MOST_HELD, Cork, corked, uncorked


class Wire(asyncio.Transport):
    """The transport below, and all that was done to it and to others like it, in order."""

    def __init__(self, name: str, done: list[tuple[str, str, bytes]]) -> None:
        super().__init__()
        self.name = name
        self.done = done
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.done.append((self.name, "write", bytes(data)))

    def write_eof(self) -> None:
        self.done.append((self.name, "eof", b""))

    def close(self) -> None:
        self.closing = True
        self.done.append((self.name, "close", b""))

    def abort(self) -> None:
        self.closing = True
        self.done.append((self.name, "abort", b""))

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 7

    def get_extra_info(self, name: str, default: object = None) -> object:
        return f"{name} of {self.name}"


def two() -> tuple[list[tuple[str, str, bytes]], Wire, asyncio.Transport, asyncio.Transport]:
    done: list[tuple[str, str, bytes]] = []
    cork = Cork()
    wire = Wire("a", done)
    return done, wire, corked(wire, cork), corked(Wire("b", done), cork)


async def test_writes_of_a_turn_leave_at_its_end_in_their_order() -> None:
    """Nothing is written while the turn works; then all of it, each connection's in its order."""
    done, _, a, b = two()
    a.write(b"1")
    b.writelines([b"2", b"3"])
    a.write(b"4")
    assert done == []
    await asyncio.sleep(0)
    assert done == [("a", "write", b"1"), ("b", "write", b"23"), ("a", "write", b"4")]
    b.write(b"5")
    await asyncio.sleep(0)
    assert done[-1] == ("b", "write", b"5")


async def test_what_ends_a_connection_comes_after_what_was_written() -> None:
    """The end of the sending side, closing and aborting wait for no turn, and overtake nothing."""
    for end, name in (("write_eof", "eof"), ("close", "close"), ("abort", "abort")):
        done, _, a, b = two()
        a.write(b"1")
        getattr(b, end)()
        assert done == [("a", "write", b"1"), ("b", name, b"")]


async def test_many_writes_and_large_ones_do_not_wait() -> None:
    """The turn's end is not waited for with MOST_HELD writes, nor with one of LARGE_BYTES; neither overtakes."""
    done, _, a, b = two()
    for number in range(MOST_HELD):
        assert done == []
        a.write(b"%d" % number)
    assert [data for _, _, data in done] == [b"%d" % number for number in range(MOST_HELD)]
    done.clear()
    a.write(b"small")
    b.write(bytes(LARGE_BYTES))
    assert done == [("a", "write", b"small"), ("b", "write", bytes(LARGE_BYTES))]


async def test_an_uncorked_transport_writes_at_once_and_overtakes_nothing() -> None:
    """What was held before it was uncorked comes first; a transport that is not corked stays as it is."""
    done, wire, a, b = two()
    a.write(b"1")
    b.write(b"2")
    assert uncorked(a) is wire
    uncorked(a).write(b"3")
    assert done == [("a", "write", b"1"), ("b", "write", b"2"), ("a", "write", b"3")]
    assert uncorked(wire) is wire


async def test_a_connection_that_was_lost_meanwhile_takes_nothing_from_others() -> None:
    """uvloop raises where a lost connection is written to: it is left out, what others wrote leaves."""
    done, wire, a, b = two()
    a.write(b"1")
    b.write(b"2")
    wire.closing = True
    await asyncio.sleep(0)
    assert done == [("b", "write", b"2")]


async def test_all_else_is_the_transports_own() -> None:
    """What is asked of a corked transport, the one below answers."""
    _, wire, a, _ = two()
    assert a.get_write_buffer_size() == 7
    assert a.get_extra_info("socket") == "socket of a"
    assert not a.is_closing()
    wire.closing = True
    assert a.is_closing()


steps = st.lists(
    st.tuples(st.sampled_from("ab"), st.binary(max_size=8) | st.just(bytes(LARGE_BYTES)) | st.none()),
    max_size=3 * MOST_HELD,
)


@given(steps)
def test_each_connection_gets_what_it_would_without(steps: list[tuple[str, bytes | None]]) -> None:
    """Whatever is written in whatever turns (None ends one), each connection gets the same bytes in the same order."""

    async def run() -> dict[str, bytes]:
        done, _, a, b = two()
        for name, data in steps:
            if data is None:
                await asyncio.sleep(0)
            else:
                {"a": a, "b": b}[name].write(data)
        await asyncio.sleep(0)
        return {name: b"".join(data for wire, _, data in done if wire == name) for name in "ab"}

    expected = {name: b"".join(data or b"" for wire, data in steps if wire == name) for name in "ab"}
    assert asyncio.run(run()) == expected
