"""No child outlives its parent, even one that was killed: Linux tells it (prctl(2), PR_SET_PDEATHSIG)."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PARENT = "GATEHOUSE_PARENT_PID"
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Under a parent that said so in our environment: get SIGTERM when it is gone."""
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return
    die_with(int(parent))()


def die_with(parent: int) -> Callable[[], None]:
    """What a child calls between fork and exec, or at its start, to get SIGTERM when `parent` is gone."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)

    return arrange
