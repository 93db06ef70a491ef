"""What the engine needs of the machine besides GPUs: a port, descriptors, shared memory."""

import errno
import os
import resource
import socket
from pathlib import Path

import psutil

SHM = Path("/dev/shm")  # noqa: S108 - this is where POSIX shared memory lives on Linux


def port_trouble(host: str, port: int) -> OSError | None:
    """Why a server could not listen there now; None when it could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # vLLM sets it too: TIME_WAIT is no obstacle
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return error
    return None


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    return port_trouble(host, port) is None


def port_in_use(error: OSError) -> bool:
    """Whether somebody else has the port, as against an address that is not this machine's."""
    return error.errno == errno.EADDRINUSE


def free_port(host: str) -> int:
    """Pick a port that nobody listens on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def listener(port: int) -> int | None:
    """The pid that listens on the TCP port, where this user may see it."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            return connection.pid
    return None


def family(pid: int) -> set[int]:
    """A process and its children."""
    try:
        return {pid, *(child.pid for child in psutil.Process(pid).children())}
    except psutil.Error:
        return {pid}


def describe_process(pid: int | None) -> str:
    """Name a process for people: `python3 (pid 12)`."""
    if pid is None:
        return "another program"
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"pid {pid}"


def descriptor_limit() -> int:
    """How many descriptors a process may open at most: vLLM raises its own limit up to this one."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 1 << 30 if hard == resource.RLIM_INFINITY else hard


def free_bytes(folder: Path) -> int | None:
    """Bytes that this user may still write on the disk of the folder; None when it is not there."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize
