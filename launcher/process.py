"""One engine process and its tree: started in a session of its own, watched, and stopped until nothing is left.

How vLLM takes signals (recorded from 0.25 and 0.32): TERM ends it in half a second, or after the running requests
when it has `--shutdown-timeout`; during start-up TERM is lost or hangs until a second one comes; a SIGKILLed server
leaves EngineCore and the workers holding the GPUs. Hence the ladder TERM, TERM, KILL all, and the proof at its end.
"""

import asyncio
import contextlib
import logging
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from launcher import traces
from launcher.family import MARKER_VARIABLE, Family, is_dead
from launcher.output import LogFile, Output
from launcher.record import Record

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2  # how often the tree is looked at: a death is noticed within this time
_OUTPUT_END_SECONDS = 2.0
_FRESH_SECONDS = 5.0  # a new name that nobody of the engine uses yet may be claimed in a moment
_LOOK_AGAIN_SECONDS = 10.0  # later it is another's, most likely
_TITLE = "VLLM::"  # vLLM titles its processes: VLLM::EngineCore, VLLM::Worker_TP0
_RENDEZVOUS = re.compile(r"distributed_init_method=file://(\S*/vllm_dist_[0-9a-f]{32})\b")
_ANNOUNCED = re.compile(r"\((EngineCore|Worker|ApiServer)\S* pid=(\d+)\)")  # and names them in front of their log lines


@dataclass(frozen=True, slots=True)
class Death:
    """What of the engine has died: its first process, with the exit code, or others that it cannot do without."""

    others: str = ""
    exit_code: int | None = None

    def __str__(self) -> str:
        if self.exit_code is None:
            return f"{self.others} died"
        if self.exit_code < 0:
            with contextlib.suppress(ValueError):
                return f"the engine was ended by {signal.Signals(-self.exit_code).name}"
        return f"the engine exited with code {self.exit_code}"


@dataclass(frozen=True, slots=True)
class Ladder:
    """How long each rung of a stop may take, in seconds. `first` 0 kills at once."""

    first: float
    second: float
    kill: float


def _folders(argv: list[str], folder: Path) -> dict[str, str]:
    """Where vLLM puts its files: into the folder that goes with the engine, however it ends.

    Several API servers gather their metrics in files. A folder of vLLM's own choice stays when it is killed.
    """
    gathered = {"PROMETHEUS_MULTIPROC_DIR": str(folder)} if "--api-server-count" in argv else {}
    return {"VLLM_RPC_BASE_PATH": str(folder), **gathered}


class EngineProcess:
    """A started engine. Make one with `spawn`."""

    def __init__(
        self, popen: subprocess.Popen[bytes], record: Record, record_path: Path, output: Output, older: set[str]
    ) -> None:
        self.pid = popen.pid
        self.output = output
        self._popen = popen
        self._record = record
        self._record_path = record_path
        self._family = Family(popen.pid, record.marker)
        self._roles: dict[int, str] = {}
        self._older = older
        self._unclaimed: frozenset[str] = frozenset()
        self._newest_at = self._looked_at = 0.0
        self._hurry = asyncio.Event()

    @classmethod
    def spawn(
        cls,
        argv: list[str],
        env: Mapping[str, str],
        *,
        port: int,
        record_path: Path,
        log_file: LogFile,
        on_line: Callable[[str], None],
    ) -> "EngineProcess":
        """Start `argv` in a session of its own. OSError when there is no such program."""
        older = traces.names()  # in shared memory: not this engine's
        sockets = traces.make_socket_directory()
        record = Record(marker=secrets.token_hex(16), port=port, socket_directory=str(sockets))
        record.save(record_path)  # before the start: the marker finds a process that nobody has recorded yet
        read_end, write_end = os.pipe()
        try:
            popen = subprocess.Popen(
                argv,
                env={**_folders(argv, sockets), **env, MARKER_VARIABLE: record.marker},
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                start_new_session=True,
            )
        except OSError:
            os.close(read_end)
            traces.clear([], [], str(sockets))
            record_path.unlink(missing_ok=True)
            raise
        finally:
            os.close(write_end)
        engine: EngineProcess

        def hear(line: str) -> None:
            engine._hear(line)
            on_line(line)

        output = Output(log_file, hear)
        engine = cls(popen, record, record_path, output, older)
        record.session = popen.pid
        engine.observe()
        output.attach(read_end)
        return engine

    def _hear(self, line: str) -> None:
        for role, pid in _ANNOUNCED.findall(line):
            if int(pid) in self._family.seen and int(pid) != self.pid:
                self._roles[int(pid)] = role
        self._record.files += _RENDEZVOUS.findall(line)

    def observe(self) -> None:
        """Note who belongs to the engine now, and which shared memory; save what changed."""
        before = dict(self._family.seen), self._record.shared_memory
        members = self._family.scan()
        for pid in members - self._roles.keys():
            with contextlib.suppress(OSError):
                title = Path(f"/proc/{pid}/comm").read_text().strip()
                if title.startswith(_TITLE):
                    self._roles[pid] = title.removeprefix(_TITLE)
        self._observe_memory(members)
        if (self._family.seen, self._record.shared_memory) != before or not self._record.members:
            self._record.members = dict(self._family.seen)
            self._record.save(self._record_path)

    def _observe_memory(self, members: set[int]) -> None:
        """Find out whose the names in /dev/shm are that came after the start, while those who use them live."""
        new, now = frozenset(traces.names() - self._older - set(self._record.shared_memory)), time.monotonic()
        if new - self._unclaimed:
            self._newest_at = now
        fresh = now - self._newest_at < _FRESH_SECONDS
        if not new or not (fresh or now - self._looked_at > _LOOK_AGAIN_SECONDS):
            return
        mine = traces.shared_memory(members)
        self._unclaimed, self._looked_at = new - mine, now
        self._record.shared_memory = sorted({*self._record.shared_memory, *mine})

    def death(self) -> Death | None:
        """Say what has died, if anything; call `observe` before."""
        dead = [f"{role} (pid {pid})" for pid, role in self._roles.items() if is_dead(pid)]
        if (code := self._popen.poll()) is not None:  # asked last: when all die at once, the first process says why
            return Death(exit_code=code)
        return Death(", ".join(dead)) if dead else None

    def listens(self) -> bool:
        """Whether one of the engine's processes listens on its port; True where the system does not tell."""
        told = False
        for pid in self._family.seen:
            try:
                for connection in psutil.Process(pid).net_connections(kind="tcp"):
                    if connection.status == psutil.CONN_LISTEN and connection.laddr.port == self._record.port:
                        return True
                told = True
            except psutil.NoSuchProcess:
                continue
            except psutil.Error:
                return True
        return not told

    async def exit_code(self, timeout: float) -> int | None:  # noqa: ASYNC109 - a deadline by contract, not an error
        """Wait at most so many seconds for the first process to exit; None when it has not."""
        end = asyncio.get_running_loop().time() + timeout
        while (  # noqa: ASYNC110 - the kernel keeps the exit code; nothing here could wake us
            code := self._popen.poll()
        ) is None and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(POLL_SECONDS / 4)
        return code

    def known_pids(self) -> set[int]:
        """Pids of all processes that were seen in the engine's tree, dead ones too."""
        return set(self._family.seen)

    def hurry(self) -> None:
        """Have a stop in progress skip to the kill."""
        self._hurry.set()

    async def stop(self, ladder: Ladder) -> list[int]:
        """Go down the ladder until nothing of the engine is left. Returns the pids that could not be killed."""
        self.observe()
        for wait in (ladder.first, ladder.second):
            if wait <= 0 or self._hurry.is_set() or self._popen.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            await self._wait_for_exit(wait)
        left = await self._kill_all(ladder.kill)
        await self.output.ended(_OUTPUT_END_SECONDS)
        self.output.close()
        if not left:
            shared = {*self._record.shared_memory, *traces.semaphores(self._family.seen)}
            if removed := traces.clear(shared, self._record.files, self._record.socket_directory):
                log.debug("removed what the engine left: %s", ", ".join(removed))
            self._record_path.unlink(missing_ok=True)
        return sorted(left)

    async def _wait_for_exit(self, seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while self._popen.poll() is None and asyncio.get_running_loop().time() < end:
            self.observe()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), POLL_SECONDS)
                return

    async def _kill_all(self, seconds: float) -> set[int]:
        end = asyncio.get_running_loop().time() + seconds
        while True:
            left = self._family.living()
            gone = self._popen.poll() is not None  # reaps the first process: its children are orphans only then
            while self._family.reap(self.pid):
                pass
            if (not left and gone) or asyncio.get_running_loop().time() > end:
                return left
            self._family.kill(left)  # again each time: a process may have forked in between
            await asyncio.sleep(0.02)
