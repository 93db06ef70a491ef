"""What tests need of the machine: programs, and ports that nobody else takes."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from typing import NoReturn

import pytest

_EACH = 250
_FIRST = 20_000 + _EACH * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8)
PORTS = range(_FIRST, _FIRST + _EACH)
"""Those of this test process. They are below the ephemeral ports (32,768 and up), which connections and listeners on
port 0 get at any moment; and so are these plus 10,000, which a cluster of Redis takes for its bus."""


def missing(what: str) -> NoReturn:
    """Skip the test for want of this; in CI, where everything is installed (tools/system.sh test), fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing: in CI this test must run")
    pytest.skip(f"{what} is missing")


def free_port() -> int:
    """A port for a program that cannot say which one it took, or that shall come back at the same one."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Different ones. Nobody listens there now, and nobody is given one by the kernel later."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as bus:
            one.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")
