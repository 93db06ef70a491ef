"""What the gateway's half needs of the machine: each function examines one thing and changes nothing."""

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from gatehouse.context import ENGINE_SOCKET, Context
from gatehouse.settings import Sections
from gateway.auth.keys import KeyFileError, key_file, read_secret_file
from gateway.config import Config, EngineTarget
from gateway.listening import whereabouts
from gateway.redis import Link, RedisAway
from gateway.redis.address import CONNECT_SECONDS
from gateway.store import Store, StoreError, database_address
from gateway.tracing import TracingUnavailableError, require_sdk
from launcher import host
from launcher.findings import Finding, note, problem
from launcher.status import socket_path_trouble

_FULL_BYTES = 100_000_000  # database, record and engine log have nowhere to go
_SCARCE_BYTES = 1_000_000_000
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_only_config(context: Context) -> Config:
    """The gateway's configuration, without the keys and folders that a start would make."""
    sections = {name: getattr(context.settings, name) for name in Sections.model_fields if name != "engine"}
    target = EngineTarget(status_socket=context.state_path / ENGINE_SOCKET)
    return Config(state_dir=context.state_path, engine=target, **sections)


def state_directory(folder: Path) -> Iterator[Finding]:
    """Whether it can be written, is private, has room, and its path is short enough for a Unix socket."""
    subject = "state directory"
    if trouble := socket_path_trouble(folder):
        what, _, remedy = trouble.rpartition(": ")
        yield problem(subject, what, remedy)
    above = folder
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        yield problem(
            subject, f"{above} cannot be written by this user", "choose another with --state-dir, or chown it"
        )
        return
    free = host.free_bytes(above) or 0
    if free < _FULL_BYTES:
        yield problem(subject, f"the disk of {above} has {free >> 20} MiB free", "make room")
    elif free < _SCARCE_BYTES:
        yield note(subject, f"the disk of {above} has {free >> 20} MiB free", "make room: the record grows")
    if not folder.exists():
        yield Finding(subject, f"{folder} is made at the first start; {free / 1e9:.0f} GB are free")
    elif mode := folder.stat().st_mode & OTHERS:
        yield problem(subject, f"others may enter {folder} (mode {mode:03o} for them)", f"run chmod 700 {folder}")
    else:
        yield Finding(subject, f"{folder}, {free / 1e9:.0f} GB free")


def listeners(config: Config) -> Iterator[Finding]:
    """Whether the gateway's two ports are free, or its own."""
    settings = config.gateway
    ours = _own_gateway(config.state_dir)
    for key, address, port in (
        ("gateway.port", settings.host, settings.port),
        ("gateway.admin_port", settings.admin_host, settings.admin_port),
    ):
        error = host.port_trouble(address, port) if port else None
        if error is None:
            yield Finding(key, f"{address}:{port} is free" if port else "a free one is picked at each start")
        elif not host.port_in_use(error):
            yield problem(
                key, f"{address}:{port} cannot be used ({error.strerror})", "choose an address of this machine"
            )
        elif ours is not None and host.listener(port) in {*host.family(ours), None}:  # None: its unit hides whose it is
            yield Finding(key, f"{address}:{port}, served by this gateway (pid {ours})")
        else:
            who = host.describe_process(host.listener(port))
            yield problem(key, f"{address}:{port} is in use by {who}", f"stop that program, or set {key} to another")


def secrets(config: Config) -> Iterator[Finding]:
    """The signing key and the engine's key: there, strong, and nobody else's to read."""
    path = key_file(config)
    if config.auth.secret_file is None and not path.exists():
        yield Finding("signing key", f"{path} is made at the first start")
    else:
        try:
            read_secret_file(path)
            yield Finding("signing key", f"{path}, private")
        except KeyFileError as error:
            yield problem("signing key", str(error), "correct it, or name another file in auth.secret_file")
    engine_key = config.state_dir / "engine.key"
    if engine_key.exists():
        yield _private("engine key", engine_key)


def database(config: Config) -> Iterator[Finding]:
    """The database can be opened, its schema is known, and its file is private."""
    subject, own = "database", config.state_dir / "gatehouse.db"
    where = own if config.database.url is None else "database.url"
    try:
        store = Store(database_address(config))
        if store.database.missing:
            yield Finding(subject, f"{where} is made at the first start")
            return
        pending = asyncio.run(_pending(store))
    except StoreError as error:
        yield problem(subject, str(error), "restore a backup, or point database.url at another one")
        return
    behind = f"; the next start runs {len(pending)} migration(s)" if pending else ", schema up to date"
    yield Finding(subject, f"{where}{behind}")
    if config.database.url is None:
        yield _private("database file", own)


def redis(config: Config) -> Iterator[Finding]:
    """The Redis that is configured answers, and runs a script, which is what the limits are."""
    if config.redis.url is None:
        return
    url = urlsplit(config.redis.url.get_secret_value())
    where = url.netloc.rpartition("@")[2] or url.path  # without the password
    try:
        asyncio.run(_script(config.redis.url.get_secret_value()))
    except RedisAway as error:
        yield problem("redis", f"{where}: {error}", "start it, or correct redis.url")
    else:
        yield Finding("redis", f"{where} answers")


async def _script(url: str) -> None:
    link = Link.to(url, CONNECT_SECONDS, lambda _reason: None)
    await link.connect()
    try:
        reply = await link.call("EVAL", "return 1", 0)
    finally:
        await link.aclose()
    if reply != 1:
        raise RedisAway(f"runs no scripts: {reply}")


def tracing(config: Config) -> Iterator[Finding]:
    """Where spans are asked for: what makes them is installed."""
    if config.tracing.endpoint is None:
        return
    try:
        require_sdk()
    except TracingUnavailableError as error:
        what, _, remedy = str(error).partition(": ")
        yield problem("tracing", what, remedy)
    else:
        yield Finding("tracing", f"spans go to {config.tracing.endpoint}")


async def _pending(store: Store) -> list[str]:
    try:
        return await store.pending()
    finally:
        await store.close()


def _private(subject: str, path: Path) -> Finding:
    if path.stat().st_mode & OTHERS:
        return problem(subject, f"others may read or change {path}", f"run chmod 600 {path}")
    return Finding(subject, f"{path}, private")


def _own_gateway(state_dir: Path) -> int | None:
    """The pid of the gateway that says it serves this state directory; the caller compares it with who listens."""
    pid, _ = whereabouts(state_dir) or (0, None)
    return pid if pid and psutil.pid_exists(pid) else None
