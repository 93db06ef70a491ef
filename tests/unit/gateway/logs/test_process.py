"""The process's own messages."""

import json
import logging
from collections.abc import Iterator

import pytest

from gateway.config import LoggingSettings
from gateway.logs import setup_process_logging


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


def report(form: str, capsys: pytest.CaptureFixture[str]) -> str:
    setup_process_logging(LoggingSettings(format=form, level="info"))
    log = logging.getLogger("gatehouse.engine")
    log.debug("not asked for")
    try:
        int("Bearer abcdefghijklmnop")
    except ValueError:
        log.exception("engine %s\x1b[31m failed\nwith a token: Bearer abcdefghijklmnop", "m")
    return capsys.readouterr().err


def test_messages_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line on stderr: time, level, source, message, exception; no credential, no control character."""
    err = report("json", capsys)
    assert err.count("\n") == 1
    fields = json.loads(err)
    assert list(fields) == ["ts", "level", "source", "message", "exception"]
    assert (fields["level"], fields["source"]) == ("error", "gatehouse.engine")
    assert fields["message"] == "engine m\\x1b[31m failed\\nwith a token: [redacted]"
    assert "abcdefghijklmnop" not in err


def test_messages_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """The message on one line, a traceback below it."""
    err = report("console", capsys)
    assert "error   gatehouse.engine: engine m\\x1b[31m failed\\nwith a token: [redacted]\nTraceback" in err
    assert "abcdefghijklmnop" not in err


@pytest.mark.parametrize("form", ["json", "console"])
def test_messages_without_exception(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Set up anew, the old handler is gone: each message appears once."""
    setup_process_logging(LoggingSettings())
    setup_process_logging(LoggingSettings(format=form))
    logging.getLogger("x").warning("once")
    assert capsys.readouterr().err.count("once") == 1
