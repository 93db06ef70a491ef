"""The log file, and what happens to log files."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway.logs import file as logfile
from gateway.logs.file import LogFile
from tests.support.needs import missing


def lines(first: int, last: int, width: int = 20) -> list[bytes]:
    return [f"{number:0{width - 1}}\n".encode() for number in range(first, last)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "requests.jsonl"


def make(path: Path, **options: int) -> LogFile:
    return LogFile(path, **{"max_bytes": 10**6, "keep": 3} | options)


def test_lines_are_appended_also_after_a_restart(path: Path) -> None:
    """The folder is made, an old file is continued, and only its owner's group may read it."""
    for first in (0, 5):
        log = make(path)
        assert log.append(lines(first, first + 5)) == (5, None)
        log.close()
    assert path.read_bytes() == b"".join(lines(0, 10))
    assert path.stat().st_mode & 0o007 == 0


def test_the_file_is_rotated_at_its_size(path: Path) -> None:
    """No file exceeds the bound, the oldest goes, every line is whole and in order."""
    log = make(path, max_bytes=100, keep=2)
    assert log.append(lines(0, 23)) == (23, None)
    log.close()
    names = [path.with_name(path.name + ending) for ending in (".2", ".1", "")]
    assert [name.read_bytes() for name in names] == [b"".join(lines(*span)) for span in ((10, 15), (15, 20), (20, 23))]
    assert sorted(path.parent.iterdir()) == sorted(names)


def test_a_line_larger_than_the_bound_has_a_file_of_its_own(path: Path) -> None:
    """It is neither lost nor split."""
    log = make(path, max_bytes=100)
    assert log.append([b"a\n", b"x" * 500 + b"\n", b"b\n"]) == (3, None)
    log.close()
    assert path.read_bytes() == b"b\n"
    assert path.with_name(path.name + ".1").stat().st_size == 501


@pytest.mark.parametrize("what", ["renamed", "deleted", "folder deleted", "truncated"])
def test_logging_goes_on_after_the_file_was_taken_away(path: Path, what: str) -> None:
    """Logrotate's create and copytruncate, rm, rm -r: the next line is in the file that bears the name."""
    log = make(path)
    log.append(lines(0, 3))
    moved = path.parent.parent / "moved"
    match what:
        case "renamed":
            path.rename(moved)
        case "deleted":
            path.unlink()
        case "folder deleted":
            path.unlink()
            path.parent.rmdir()
        case "truncated":
            os.truncate(path, 0)
    assert log.append(lines(3, 5)) == (2, None)
    log.close()
    assert path.read_bytes() == b"".join(lines(3, 5))
    if what == "renamed":
        assert moved.read_bytes() == b"".join(lines(0, 3))


def test_a_full_disk_leaves_whole_lines_and_is_recovered_from(tmp_path: Path) -> None:
    """A real full file system: what fits is there, no half line, the rest is written once there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        missing(f"the right to mount a small disk ({mounted.stderr.decode().strip()})")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 40_000)
        log = make(disk / "log")
        todo = lines(0, 1000, width=100)
        done, error = log.append(todo)
        assert error is not None
        assert error.errno == errno.ENOSPC
        assert 0 < done < 1000
        assert (disk / "log").read_bytes() == b"".join(todo[:done])
        ballast.unlink()
        rest, error = log.append(todo[done:])
        assert error is None or error.errno == errno.ENOSPC
        assert (disk / "log").read_bytes() == b"".join(todo[: done + rest])
        log.close()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_limited_file_size_leaves_whole_lines_and_is_recovered_from(path: Path) -> None:
    """The same for who may not mount: RLIMIT_FSIZE stops a write in the middle, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = make(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (110, hard))
    try:
        done, error = log.append(lines(0, 10))
        nothing, _ = log.append(lines(5, 10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert error is not None
    assert error.errno == errno.EFBIG
    assert (done, nothing) == (5, 0)
    assert log.append(lines(5, 10)) == (5, None)
    log.close()
    assert path.read_bytes() == b"".join(lines(0, 10))


def test_a_device_that_is_full_is_an_error_not_a_crash(tmp_path: Path) -> None:
    """/dev/full cannot be cut back either."""
    (tmp_path / "log").symlink_to("/dev/full")
    done, error = make(tmp_path / "log").append(lines(0, 2))
    assert done == 0
    assert error is not None
    assert error.errno == errno.ENOSPC


def test_closing_twice_is_closing_once(path: Path) -> None:
    """Also before anything was opened."""
    log = make(path)
    log.close()
    log.append(lines(0, 1))
    log.close()
    log.close()


def test_a_path_that_is_a_folder_is_reported(tmp_path: Path) -> None:
    """An impossible path is returned as the error it is, each time."""
    log = make(tmp_path)
    for _ in range(2):
        done, error = log.append(lines(0, 2))
        assert done == 0
        assert isinstance(error, IsADirectoryError)
    log.close()


WRITER = """
import sys
from pathlib import Path
from gateway.logs.file import LogFile
from tests.support.needs import missing
log = LogFile(Path(sys.argv[1]), max_bytes=4000, keep=1000)
for number in range(60):
    todo = [f"{sys.argv[2]}:{number * 5 + i:06}\\n".encode() for i in range(5)]
    while todo:
        done, error = log.append(todo)
        todo = todo[done:]
"""


def test_processes_share_a_file_through_its_rotations(path: Path) -> None:
    """Three writers, many rotations: every line is there once, each writer's in order."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, name]) for name in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = sorted(path.parent.iterdir(), key=lambda file: int(file.suffix[1:]) if file.suffix != ".jsonl" else 0)
    assert len(found) > 1
    written = [line for file in reversed(found) for line in file.read_text().splitlines()]
    for name in "abc":
        assert [line for line in written if line[0] == name] == [f"{name}:{number:06}" for number in range(300)]


def test_a_lock_that_is_never_released_is_an_error_not_a_hang(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process stopped at the wrong moment does not stop the others' thread."""
    monkeypatch.setattr(logfile, "LOCK_SECONDS", 0.05)
    holder, log = make(path), make(path)
    holder.append(lines(0, 1))
    holder._flock()
    done, error = log.append(lines(1, 2))
    assert done == 0
    assert isinstance(error, BlockingIOError)
    monkeypatch.setattr(logfile, "LOCK_SECONDS", 20)
    release = threading.Timer(0.1, holder.close)
    release.start()
    assert log.append(lines(1, 2)) == (1, None)
    release.join()
    log.close()
