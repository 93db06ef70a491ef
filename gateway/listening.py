"""Where the gateway listens: its sockets, bound before anybody serves on them, and the file that says where.

Each worker has its own: a TCP socket on the port that all share (SO_REUSEPORT: the kernel spreads the connections), and
where `gateway.socket_dir` is set a Unix socket `worker-N.sock` for a proxy that spreads them itself. With several
workers the parent binds and keeps them, so that what waits in the queue of a worker that dies is served by its
successor. One socket for all would be uneven: of 64 connections that come at once the luckiest of 2 workers then takes
69 % in the median and all of them at worst, against 55 % and 62 % (libuv accepts until its queue is empty).
"""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gateway.config import GatewaySettings

STATE_FILE = "gateway.json"
SOCKET_MODE = 0o660  # the proxy's group may connect


class Listening(NamedTuple):
    """Where the gateway can be reached."""

    url: str
    admin_url: str


class Listeners:
    """The listening sockets of one worker, numbered from 1."""

    def __init__(self, settings: GatewaySettings, number: int = 1, port: int | None = None) -> None:
        """`port` is that of the workers before; None: the one of the settings, which nobody else may have."""
        self._settings = settings
        self._number = number
        self._first = port is None
        self.port = settings.port if port is None else port
        self.sockets: list[socket.socket] = []

    @property
    def path(self) -> Path | None:
        """The Unix socket."""
        folder = self._settings.socket_dir
        return None if folder is None else folder / f"worker-{self._number}.sock"

    def open(self) -> None:
        """Bind and listen, unless that is done. Raises OSError."""
        if self.sockets:
            return
        try:
            self._bind_tcp()
            if self.path is not None:
                self.sockets.append(_unix_socket(self.path, self._settings.backlog))
        except OSError:
            self.close()
            raise
        self._first = False

    def close(self) -> None:
        """Listen no more; the Unix socket's file goes, too."""
        for each in self.sockets:
            if each.family == socket.AF_UNIX and self.path is not None:
                self.path.unlink(missing_ok=True)
            each.close()
        self.sockets = []

    def _bind_tcp(self) -> None:
        host, shared = self._settings.host, self._settings.workers > 1
        for family, _, _, _, address in sorted(
            socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            where = (address[0], self.port, *address[2:])
            if shared and self._first and self.port:
                _tcp_socket(family, where, shared=False).close()  # fails where another program listens
            bound = _tcp_socket(family, where, shared=shared)
            self.sockets.append(bound)
            bound.listen(self._settings.backlog)
            self.port = int(bound.getsockname()[1])


def _tcp_socket(family: int, address: tuple[object, ...], *, shared: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"{address[0]}:{address[1]}: {os.strerror(error.errno or 0)}") from None
    return bound


def _unix_socket(path: Path, backlog: int) -> socket.socket:
    """Bind and listen; a file that a killed gateway left is taken over, a living one's is not."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if path.exists():
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
                else:
                    raise OSError(f"{path}: another gateway listens there")
        bound.bind(str(path))
        path.chmod(SOCKET_MODE)  # before it listens: nobody can connect yet
        bound.listen(backlog)
    except OSError:
        bound.close()
        raise
    return bound


def url(host: str, port: int) -> str:
    """The address under which a listener is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what listens everywhere is near, too
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def state_file(state_dir: Path, listening: Listening) -> Iterator[None]:
    """Say where we listen for as long as we do."""
    file = state_dir / STATE_FILE
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps({"pid": os.getpid(), **listening._asdict()}), "utf-8")
    draft.replace(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def whereabouts(state_dir: Path) -> tuple[int, Listening] | None:
    """The process (a pid) that says it serves this state directory, and where it listens; None: nobody says so."""
    try:
        said = json.loads((state_dir / STATE_FILE).read_text("utf-8"))
        return int(said["pid"]), Listening(said["url"], said["admin_url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
