"""Processes as tests look at them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil


def alive_in_session(session: int, *, zombies: bool = False) -> list[int]:
    """Pids of a session; zombies only if asked for."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getsid(pid) == session and (zombies or state_of(pid) != "Z"):
                found.append(pid)
    return found


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of Gatehouse's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEHOUSE_")}


def state_of(pid: int) -> str:
    """The state letter of proc(5). OSError when there is no such process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def titled(session: int, title: str) -> int:
    """The process of a session whose name begins like this."""
    return next(
        pid for pid in alive_in_session(session) if Path(f"/proc/{pid}/comm").read_text().strip().startswith(title)
    )
