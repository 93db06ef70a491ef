"""The process's own messages, as they come into the record."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import LoggingSettings
from gateway.logs import process, process_log


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What stands in for stdout; its reading end."""
    read, write = os.pipe()
    monkeypatch.setattr(process, "STDOUT", write)
    yield read
    os.close(read)
    os.close(write)


def fail() -> None:
    log = logging.getLogger("gatehouse.engine")
    log.debug("not asked for")
    try:
        int("Bearer abcdefghijklmnop\x1b[2J\x1b]0;mine\x07")
    except ValueError:
        log.exception("engine %s\x1b[31m failed\nwith a token: Bearer abcdefghijklmnop", "m")


def test_messages_as_json(tmp_path: Path, stream: int) -> None:
    """One object a line: time, level, source, message, exception; no credential, no control character; file = stream."""
    with process_log(LoggingSettings(), tmp_path, "gateway"):
        fail()
    text = (tmp_path / "requests.jsonl").read_text()
    assert text == os.read(stream, 100_000).decode()
    assert text.count("\n") == 1
    fields = json.loads(text)
    assert list(fields) == ["ts", "level", "source", "pid", "logger", "message", "exception"]
    assert (fields["level"], fields["source"], fields["logger"]) == ("error", "gateway", "gatehouse.engine")
    assert fields["pid"] == os.getpid()
    assert fields["message"] == "engine m\\x1b[31m failed\\nwith a token: [redacted]"
    assert "abcdefghijklmnop" not in text
    assert fields["exception"].startswith("Traceback")
    assert "\x1b" not in fields["exception"]


def test_messages_for_people(tmp_path: Path, stream: int) -> None:
    """The message on one line, a traceback below it, in which nothing is left that a terminal obeys."""
    with process_log(LoggingSettings(format="console"), tmp_path, "gateway"):
        fail()
    shown = os.read(stream, 100_000).decode()
    assert "error   gatehouse.engine: engine m\\x1b[31m failed\\nwith a token: [redacted]\nTraceback" in shown
    assert "abcdefghijklmnop" not in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_what_a_message_comes_from(tmp_path: Path, stream: int) -> None:
    """The engine's lines are its own, the others their process's; what is told elsewhere is in the file alone."""
    with process_log(LoggingSettings(), tmp_path, "launcher", told_elsewhere="launcher"):
        logging.getLogger("launcher.service").info("engine ready")
        logging.getLogger("launcher.service").warning("odd")
        logging.getLogger("engine").warning("WARNING 11-22 [gpu.py] slow")
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert [(line["source"], line["message"]) for line in lines] == [
        ("launcher", "engine ready"),
        ("launcher", "odd"),
        ("engine", "WARNING 11-22 [gpu.py] slow"),
    ]
    shown = [json.loads(line)["message"] for line in os.read(stream, 100_000).splitlines()]
    assert shown == ["odd", "WARNING 11-22 [gpu.py] slow"]


def test_afterwards_messages_go_to_stderr(tmp_path: Path, stream: int, capsys: pytest.CaptureFixture[str]) -> None:
    """What is said when the writer has ended is not lost; and each message appears once."""
    for _ in range(2):
        with process_log(LoggingSettings(), tmp_path, "gateway"):
            logging.getLogger("x").warning("within")
    logging.getLogger("x").warning("after")
    assert capsys.readouterr().err.count("after") == 1
    assert (tmp_path / "requests.jsonl").read_text().count("within") == 2


def test_a_message_that_cannot_be_formatted_costs_itself(
    tmp_path: Path, stream: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """As stdlib does it: it is reported on stderr, and what logged it goes on."""
    with process_log(LoggingSettings(), tmp_path, "gateway"):
        logging.getLogger("x").warning("%d", "no number")
        logging.getLogger("x").warning("next")
    assert "no number" in capsys.readouterr().err
    assert json.loads((tmp_path / "requests.jsonl").read_text())["message"] == "next"
