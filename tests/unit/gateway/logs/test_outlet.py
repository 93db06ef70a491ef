"""The copy on stdout: it never blocks its writer."""

import contextlib
import os
import time
from pathlib import Path

import pytest

from gateway.logs.outlet import Outlet


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        with contextlib.suppress(OSError):
            os.close(fd)


def test_a_reader_that_stopped_reading_blocks_nobody(pipe: tuple[int, int]) -> None:
    """A full pipe takes no more; once it is read, lines come again, whole ones."""
    read, write = pipe
    outlet = Outlet(write)
    todo = [f"{number:0999}\n".encode() for number in range(200)]
    begin = time.monotonic()
    taken = outlet.write(todo)
    assert 0 < taken < 200
    assert time.monotonic() - begin < 10
    assert os.read(read, 10**6) == b"".join(todo[:taken])
    assert outlet.write([b"again\n"]) == 1
    assert os.read(read, 100) == b"again\n"


def test_a_torn_line_is_ended_before_the_next(pipe: tuple[int, int]) -> None:
    """A line larger than the pipe's room is cut; what follows starts on a line of its own."""
    read, write = pipe
    outlet = Outlet(write)
    assert outlet.write([b"x" * 200_000 + b"\n"]) == 0
    torn = os.read(read, 10**6)
    assert set(torn) == {ord("x")}
    assert outlet.write([b"next\n"]) == 1
    assert os.read(read, 100) == b"\nnext\n"


def test_a_reader_that_is_gone_ends_the_copying(pipe: tuple[int, int]) -> None:
    """A closed pipe is no error for the process."""
    read, write = pipe
    os.close(read)
    outlet = Outlet(write)
    assert outlet.write([b"a\n"]) == 0
    assert outlet.write([b"a\n"]) == 0


def test_a_full_disk_behind_stdout_is_survived() -> None:
    """Stdout may be a file on a full disk."""
    with Path("/dev/full").open("wb", buffering=0) as full:
        assert Outlet(full.fileno()).write([b"a\n"]) == 0


def test_a_broken_pipe_between_poll_and_write_ends_the_copying(pipe: tuple[int, int]) -> None:
    """EPIPE from the write itself counts as gone."""
    read, write = pipe
    outlet = Outlet(write)
    os.close(read)
    outlet._poll = type("Ready", (), {"poll": lambda self, _: [(write, 4)]})()
    assert outlet.write([b"a\n"]) == 0
    assert outlet._closed
    assert outlet.write([b"a\n"]) == 0


def test_nothing_to_copy_is_nothing_done(pipe: tuple[int, int]) -> None:
    """No lines, no write."""
    assert Outlet(pipe[1]).write([]) == 0
