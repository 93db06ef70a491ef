"""`gatehouse logs`: which lines it shows, from which files, and that it follows the record wherever it goes."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from gatehouse.cli import gatehouse
from gatehouse.record import Record
from gateway.context import Outcome
from gateway.logs import LogLine
from gateway.timing import Timing
from tests.unit.gateway.exchanges import finished


def line(number: int, **changes: object) -> bytes:
    exchange = finished(number, **changes)
    return LogLine.of(exchange, Timing.of(exchange, exchange.ended or 102.252)).json()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Set the reader's time zone: UTC at first."""

    def set_to(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    set_to("UTC")
    yield set_to
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def shown(tmp_path: Path) -> Callable[..., list[str]]:
    def run(*arguments: str, exit_code: int = 0) -> list[str]:
        result = CliRunner().invoke(gatehouse, ["logs", "--state-dir", str(tmp_path), *arguments])
        assert result.exit_code == exit_code, result.output
        return result.stdout.splitlines()

    return run


def test_the_newest_lines_of_all_files_oldest_first(tmp_path: Path, shown: Callable[..., list[str]]) -> None:
    """Rotated files are read as far as needed; half lines and foreign ones are passed over."""
    (tmp_path / "requests.jsonl.2").write_bytes(b"".join(line(n) for n in range(1000)))
    (tmp_path / "requests.jsonl.1").write_bytes(b"".join(line(n) for n in range(1000, 1003)))
    (tmp_path / "requests.jsonl").write_bytes(line(1003) + b"not json\n\n[1]\n" + line(1004) + line(1005)[:50])
    assert [json.loads(each)["request_id"] for each in shown("--json", "-n", "900")] == [
        f"r{n}" for n in range(105, 1005)
    ]
    assert len(shown()) == 50
    assert len(shown("-n", "2000")) == 1005


def test_what_is_asked_for(tmp_path: Path, shown: Callable[..., list[str]]) -> None:
    """By caller, by outcome, by duration, by request id; together they narrow down. Nothing: exit code 1."""
    broken = line(2, outcome=Outcome.ENGINE_FAILED, error_code="engine_died")
    (tmp_path / "requests.jsonl").write_bytes(line(1) + broken + line(3, ended=160.0) + line(4, principal=None))
    assert [each.split()[-1] for each in shown("--errors")] == ["r2"]
    assert [each.split()[-1] for each in shown("--slow")] == ["r3"]
    assert [each.split()[-1] for each in shown("--slow", "1")] == ["r1", "r2", "r3", "r4"]
    assert [each.split()[-1] for each in shown("--subject", "alice", "-n", "2")] == ["r2", "r3"]
    assert shown("--errors", "--slow", exit_code=1) == []
    one = dict(each.split(maxsplit=1) for each in shown("--request-id", "r2"))
    assert tuple(one) == LogLine.__struct_fields__[:-2]  # no bodies
    assert (one["outcome"], one["subject"], one["token_id"]) == ("engine_failed", "alice", "t1")


def message(text: str, **fields: str) -> bytes:
    known = {"ts": "2026-11-22T11:36:30.000Z", "level": "info", "source": "gateway", "logger": "gatehouse"}
    return json.dumps({**known, "message": text, **fields}).encode() + b"\n"


def test_messages_stand_among_the_requests(tmp_path: Path, shown: Callable[..., list[str]]) -> None:
    """In the file's order; by source, by level, by the request that they name; a caller's lines are requests only."""
    dead = message("engine restarting: exit 1", source="launcher")
    oom = message("out of memory", source="engine", level="error", exception="Traceback\n  line")
    about = message("r2: the engine failed before its answer", level="warning")
    (tmp_path / "requests.jsonl").write_bytes(line(1) + oom + dead + about + line(2))
    assert [each.split()[-1] for each in shown()] == ["r1", "memory", "Traceback", "line", "1", "answer", "r2"]
    assert shown("--source", "launcher") == ["2026-11-22 11:36:30 launcher info  engine restarting: exit 1"]
    assert [each.split()[-1] for each in shown("--source", "requests")] == ["r1", "r2"]
    assert [each.split()[-1] for each in shown("--errors")] == ["memory", "Traceback", "line", "answer"]
    assert [each.split()[-1] for each in shown("--subject", "alice")] == ["r1", "r2"]
    assert shown("--slow", "1000", exit_code=1) == []
    assert shown("--request-id", "r2")[0].endswith("gateway warning  r2: the engine failed before its answer")


def test_a_line_for_people(tmp_path: Path, shown: Callable[..., list[str]]) -> None:
    """When, how it ended, who, what, how long, how many tokens, how fast; no colours where nobody sees them."""
    (tmp_path / "requests.jsonl").write_bytes(line(2, outcome=Outcome.ENGINE_FAILED, error_code="engine_died"))
    [said] = shown()
    assert said.startswith(
        "2026-11-22 11:36:32 200 engine_failed (engine_died)  alice  /v1/chat/completions  gpt-oss-20b"
    )
    assert said.endswith("  2.3 s, first token 252 ms  12+101 tokens 50/s  r2")


def test_times_are_the_readers(tmp_path: Path, shown: Callable[..., list[str]], clock: Callable[[str], None]) -> None:
    """For people the time of their own clock, for programs UTC."""
    (tmp_path / "requests.jsonl").write_bytes(line(2) + message("x"))
    clock("Asia/Shanghai")
    assert [each[:19] for each in shown()] == ["2026-11-22 19:36:32", "2026-11-22 19:36:30"]
    assert [json.loads(each)["ts"][:19] for each in shown("--json")] == ["2026-11-22T11:36:32", "2026-11-22T11:36:30"]


def test_without_a_record(shown: Callable[..., list[str]]) -> None:
    """It says so, on stderr, with exit code 1."""
    assert shown(exit_code=1) == []


def test_following_goes_through_rotation_deletion_and_cutting(tmp_path: Path) -> None:
    """Every line that comes, once, in order: appended, after a rename, after a deletion, after a truncation."""
    file = tmp_path / "requests.jsonl"
    file.write_bytes(line(0))
    record = Record(file)
    assert [each["request_id"] for each in record.newest(9, lambda _: True)] == ["r0"]
    lines = following(record)

    def append(number: int, how: str = "ab") -> None:
        with file.open(how) as out:
            out.write(line(number))

    def arrives(number: int) -> None:
        assert next(lines)["request_id"] == f"r{number}"

    append(1)
    arrives(1)
    with file.open("ab") as out:  # in two pieces
        out.write(line(2)[:40])
        out.flush()
        threading.Timer(0.05, lambda: out.write(line(2)[40:]) and out.flush()).start()
        arrives(2)
    file.rename(tmp_path / "requests.jsonl.1")
    append(3)
    arrives(3)
    file.unlink()
    append(4)
    append(5)
    arrives(4)
    arrives(5)
    file.write_bytes(b"")
    append(6)
    arrives(6)
    record.close()


def following(record: Record) -> Iterator[dict[str, object]]:
    return iter(record.follow())
