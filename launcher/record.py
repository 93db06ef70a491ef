"""STATE_DIR/engine.json: what the next launcher must know to clear away the engine of one that was killed."""

import asyncio
import contextlib
import json
import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from launcher import traces
from launcher.family import Family, boot_id

log = logging.getLogger(__name__)


@dataclass
class Record:
    """One engine: how its processes are told from others, and what it uses outside of them."""

    marker: str
    boot_id: str = field(default_factory=boot_id)
    launcher_pid: int = field(default_factory=os.getpid)
    session: int | None = None  # also the pid of the first process
    port: int | None = None
    members: dict[int, float] = field(default_factory=dict)  # pid → birth
    shared_memory: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    socket_directory: str | None = None

    def save(self, path: Path) -> None:
        """Replace the file at once. Without it an engine still runs, so a full disk is only logged."""
        new = path.with_suffix(".new")
        try:
            with open(new, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                json.dump(asdict(self), file)
            new.replace(path)
        except OSError as error:
            log.warning("%s cannot be written: %s", path, error)
            with contextlib.suppress(OSError):
                new.unlink()


def load(path: Path) -> Record | None:
    """Read the record of an earlier launcher; None when there is none that can be read."""
    try:
        fields = json.loads(path.read_text())
        fields["members"] = {int(pid): born for pid, born in fields["members"].items()}
        return Record(**fields)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s cannot be read and is ignored: %s", path, error)
        return None


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


async def clear_leftovers(path: Path, deadline: float) -> bool:
    """Kill and remove what is left of the recorded engine. True when nothing is left; `deadline` in seconds."""
    record = load(path)
    if record is None or record.boot_id != boot_id():
        _forget(path)
        return True
    family = Family(record.session or -1, record.marker, record.members)
    clock = asyncio.get_running_loop().time
    end = clock() + deadline
    told = False
    # The first look trusts the session's number only while a process recorded as its member lives: it may be reused.
    trusted = family.anchored()
    while left := family.living(trust_session=trusted):
        if not told:
            log.warning(
                "an earlier launcher was killed and left its engine running (pids %s): clearing it", sorted(left)
            )
            told = True
        record.shared_memory = sorted({*record.shared_memory, *traces.shared_memory(left)})
        family.kill(left)
        if clock() > end:
            return False
        await asyncio.sleep(0.05)
        family.reap(None)
    shared = {*record.shared_memory, *traces.semaphores(family.seen)}
    removed = traces.clear(shared, record.files, record.socket_directory)
    if removed:
        log.warning("removed what an earlier engine left: %s", ", ".join(removed))
    _forget(path)
    return True
