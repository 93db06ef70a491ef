"""Instructions that a request takes, counted by valgrind: the same on a busy machine as on a quiet one.

    python -m bench.gateway.instructions [--body whole] [--out callgrind.out]

Counts what the process does outside the kernel, its threads included. What it does every second or oftener is put off:
valgrind makes everything fifty times slower, so that it would weigh more than it does; the reading of usage from the
record is not counted for that reason. A stream has three chunks. `callgrind_annotate OUT.1` shows where they went.
Needs valgrind.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from bench.gateway import host, peers
from bench.gateway.measures import started
from gatehouse.cli import main as gatehouse
from gateway import admission, ended, engine, metrics, usage_book
from gateway.auth import setup
from gateway.chat import mirror
from gateway.connections import register
from gateway.redis.link import Link

WARM, COUNTED = 300, 1000  # requests
MOST_SECONDS = 300.0
CHUNKS = 3  # of a stream
# what is done again and again: where it is set how often
REPEATED = (
    (admission, "ASK_SECONDS"),
    (engine, "POLL_SECONDS"),
    (metrics, "LAG_INTERVAL"),
    (mirror, "IDLE_SECONDS"),
    (register, "SWEEP_SECONDS"),
    (setup, "WATCH_SECONDS"),
    (usage_book, "READ_SECONDS"),
)
PUT_OFF_SECONDS = 3600.0
SLOWNESS = 50  # valgrind's; as many requests are counted and logged at once as at full speed
RECORDED_SECONDS = 3.0  # until those that have ended are in the record
PATIENCE_SECONDS = 20.0  # for Redis: the gateway's own 0.1 s are over before its loop has turned once


def main() -> None:
    """Count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--body", default="whole", help="one of bench/gateway/bodies.py")
    parser.add_argument("--out", type=Path, help="where callgrind writes, with .1 at the end")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = chosen.out or Path(folder) / "callgrind.out"
        requests, instructions = count(chosen.body, out)
    print(f"{instructions // requests:,} instructions a request, of {requests}")


def count(body: str, out: Path) -> tuple[int, int]:
    """Requests, and the instructions that they took."""
    with (
        mock.patch.object(peers, "running", _counted(out)),
        started() as bench,
        bench.before(peers.gatehouse()) as peer,
    ):
        bench.control(chunks=CHUNKS)
        mode = "stream" if "stream" in body else "closed"
        bench.load(peer, mode, body, c=16, n=WARM, t=MOST_SECONDS)
        time.sleep(RECORDED_SECONDS)
        _control(peer.pids[0], "-i", "on")
        report = bench.load(peer, mode, body, c=16, n=COUNTED, t=MOST_SECONDS)
        time.sleep(RECORDED_SECONDS)
        _control(peer.pids[0], "-i", "off")
        _control(peer.pids[0], "-d")
    written = out.with_name(f"{out.name}.1").read_text("ascii", "replace").splitlines()
    return int(report["ok"]), next(int(line.split()[1]) for line in written if line.startswith("totals:"))


def _control(pid: int, *what: str) -> None:
    subprocess.run([host.installed("callgrind_control"), *what, str(pid)], check=True, stdout=subprocess.DEVNULL)


def _counted(out: Path) -> Any:
    """`host.running`, but for the gateway, which valgrind runs."""

    @contextlib.contextmanager
    def running(argv: list[str], log: Path, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
        if argv[:3] == [sys.executable, "-m", "gatehouse"]:
            counting = [host.installed("valgrind"), "--tool=callgrind", "--instr-atstart=no"]
            argv = [*counting, f"--callgrind-out-file={out}", sys.executable, "-m", __spec__.name, "serve", *argv[3:]]
        with host.running(argv, log, **how) as process:
            yield process

    return running


def serve() -> None:
    """The gateway's command, which waits for Redis for as long as valgrind makes it."""
    init = Link.__init__
    with contextlib.ExitStack() as stack:
        for module, seconds in REPEATED:
            stack.enter_context(mock.patch.object(module, seconds, PUT_OFF_SECONDS))
        stack.enter_context(mock.patch.object(ended, "GATHER_SECONDS", SLOWNESS * ended.GATHER_SECONDS))
        patient = mock.patch.object(Link, "__init__", lambda self, to, _, lost: init(self, to, PATIENCE_SECONDS, lost))
        stack.enter_context(patient)
        gatehouse()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        del sys.argv[1]
        serve()
    else:
        main()
