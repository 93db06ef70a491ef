"""A real redis-server for tests: on a Unix socket in a folder of its own, without persistence, gone at the end.

with running_redis() as redis:
    redis.url                      # unix:///tmp/…/redis.sock
    redis.cli("SCRIPT", "FLUSH")
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis

from tests.support.needs import missing
from tests.support.stack import until


def server_binary() -> str:
    """Path of redis-server, or what REDIS_SERVER names; without one the test is skipped, and fails in CI."""
    found = os.environ.get("REDIS_SERVER") or shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        missing("redis-server")
    return found


class RedisServer:
    """One redis-server process; it can be stopped, killed and started again on the same socket."""

    def __init__(self, folder: Path, *options: str, port: int = 0, configuration: Path | None = None) -> None:
        self.configuration = configuration
        self.folder, self.options, self.port = folder, options, port
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        argv = [server_binary(), *([str(self.configuration)] if self.configuration else [])]
        argv += ["--unixsocket", str(self.socket), "--port", str(self.port), "--bind", "127.0.0.1"]
        argv += ["--dir", str(self.folder), "--daemonize", "no"]
        if self.configuration is None:
            argv += ["--save", "", "--appendonly", "no"]
        argv += self.options
        output = (self.folder / "redis.log").open("ab")
        with output:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        until(self._answers, "redis-server answers", alive=self.process)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.cli("PING") == b"PONG"
        return False

    def cli(self, *command: Any) -> Any:
        """One command, on a connection of its own."""
        reader = hiredis.Reader()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.socket))
            connection.sendall(hiredis.pack_command(command))
            while (reply := reader.gets()) is False:
                data = connection.recv(65536)
                if not data:
                    raise ConnectionError("closed")
                reader.feed(data)
        return reply

    def pause(self) -> None:
        """SIGSTOP."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL: what it held is lost."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@contextlib.contextmanager
def running_redis(*options: str, port: int = 0, configuration: Path | None = None) -> Iterator[RedisServer]:
    """A server that runs; `options` are redis-server's, such as "--maxmemory", "10mb"; a sentinel needs a file."""
    with tempfile.TemporaryDirectory(prefix="gatehouse-redis-", dir="/tmp") as folder:
        server = RedisServer(Path(folder), *options, port=port, configuration=configuration)
        try:
            server.start()
            yield server
        finally:
            server.kill()
