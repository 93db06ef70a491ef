"""The pump for the engine's output."""

import asyncio
import logging
import os
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.output import LogFile, Output

TEXT = "first\n(Worker pid=1) \rbar 0/2\rbar 1/2\rbar 2/2\n\x1b[32mgreen\x1b[0m\n\nlast “ü”\n".encode()


class Nowhere:
    """A log file that keeps nothing."""

    def write(self, data: bytes) -> None:
        """Keep nothing."""


@settings(deadline=None)
@given(st.lists(st.integers(0, len(TEXT))))
def test_any_split_gives_the_same_tail(cuts: list[int]):
    """Lines are the same however the pipe cuts them: colours gone, a bar's last drawing kept, empty lines not."""
    output = Output(Nowhere(), lambda line: None)  # type: ignore[arg-type]
    places = sorted({0, *cuts, len(TEXT)})
    for begin, end in pairwise(places):
        output.feed(TEXT[begin:end])
    assert list(output.tail) == ["first", "bar 2/2", "green", "last “ü”"]


def test_drawings_are_heard_before_the_line_ends(tmp_path: Path):
    """A progress bar that stays on its line for minutes is followed while it is drawn."""
    heard: list[str] = []
    output = Output(LogFile(tmp_path / "log", 10_000, 1), heard.append)
    output.feed(b"\rbar 1/9\rbar 2/9")
    output.feed(b"\rbar 3/9")
    assert heard == ["bar 1/9", "bar 2/9"]


def test_the_file_is_rotated_and_private(tmp_path: Path):
    """At its size the file moves to .1, older ones on; only `count` of them stay; nobody else reads them."""
    file = LogFile(tmp_path / "engine.log", 100, 2)
    for number in range(10):
        file.write(f"{number}".encode() * 60 + b"\n")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["engine.log.1", "engine.log.2"]
    assert (tmp_path / "engine.log.1").read_bytes() == b"8" * 60 + b"\n" + b"9" * 60 + b"\n"
    assert (tmp_path / "engine.log.1").stat().st_mode & 0o077 == 0


def test_a_full_disk_does_not_stop_the_pump(caplog):
    """Writing fails with ENOSPC: said once, and lines go on to be heard."""
    heard: list[str] = []
    output = Output(LogFile(Path("/dev/full"), 10_000, 1), heard.append)
    output.feed(b"one\ntwo\n")
    assert heard == ["one", "two"]
    assert len([r for r in caplog.records if "cannot be written" in r.message]) == 1


async def test_a_pipe_is_read_to_its_end(tmp_path: Path):
    """What was written before the last holder of the pipe closed it is all there."""
    read_end, write_end = os.pipe()
    output = Output(LogFile(tmp_path / "log", 10_000_000, 1), lambda line: None)
    output.attach(read_end)

    def write() -> None:
        for number in range(20_000):
            os.write(write_end, f"line {number}\n".encode())
        os.write(write_end, b"no newline")
        os.close(write_end)

    await asyncio.to_thread(write)
    await output.ended(30)
    assert list(output.tail)[-2:] == ["line 19999", "no newline"]
    assert len(output.tail) == 200
    assert (tmp_path / "log").read_text().count("\n") == 20_001


def test_the_engines_warnings_are_passed_on_shortened(caplog):
    """Ours has what the engine warns of, at its own level and cut; the rest is for who debugs; the file has all of it."""
    lines = [
        "(APIServer pid=1) INFO 11-22 08:16:43 [api_utils.py:347] version 0.32.0",
        "(APIServer pid=1) WARNING 11-22 08:16:43 [system_utils.py:255] Found ulimit of 20000 " + "x" * 400,
        "(EngineCore pid=2) ERROR 11-22 08:16:43 [core.py:1] boom",
        "Traceback (most recent call last):",
    ]
    output = Output(LogFile(Path("/dev/null"), 10_000, 1), lambda _: None)
    with caplog.at_level(logging.DEBUG, logger="engine"):
        output.feed("".join(f"{line}\n" for line in lines).encode())
    assert [record.levelname for record in caplog.records] == ["DEBUG", "WARNING", "ERROR", "DEBUG"]
    assert len(caplog.records[1].getMessage()) == 301
    assert list(output.tail) == lines
