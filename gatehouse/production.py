"""What a machine that people reach over a network may not have: `gatehouse check --production`.

Everything here may be right on a laptop, so a start does not refuse it. Each finding says what was found, what is
expected, and how to mend it. Nothing is changed, and no secret is repeated.
"""

import ipaddress
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import psutil
from pydantic import BaseModel

from gatehouse.checks import OTHERS
from gatehouse.settings import Sections
from gateway.auth.keys import KeyFileError, key_file, read_secret_file
from gateway.config import Config
from launcher.findings import Finding, note, problem

_WIDEST: Final = 256  # addresses of one trusted network: more is no list of proxies
_MIN_KEY_CHARACTERS: Final = 12  # distinct ones: random bytes have them, in hex and base64, too
_GUESSABLE: Final = ("change", "secret", "password", "example", "gatehouse", "default", "123456")
# variables of vLLM that open routes or print prompts, and the values that leave them off
_DEBUG_VARIABLES: Final = {"VLLM_SERVER_DEV_MODE": {"0", ""}, "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": {"0", "", "false"}}
_PROMPT_FLAGS: Final = ("--enable-log-requests", "--enable-log-outputs")


def production(settings: Sections, config: Config, config_file: Path | None, launcher: int | None) -> Iterator[Finding]:
    """Examine everything. `launcher` is the pid that runs the engine, where one does."""
    found = [
        *_keys(config),
        *_files(settings, config, config_file),
        *_listeners(settings),
        *_way_in(settings),
        *_debugging(settings),
        *_redis(settings),
        *_database(settings),
        *_owner(config.state_dir),
        *_open_sockets(launcher),
    ]
    yield from found or [Finding("production", "nothing unsafe was found in configuration and files")]


def _keys(config: Config) -> Iterator[Finding]:
    """Keys that sign tokens: a weak one makes everybody anybody. Those that are not made yet will be strong."""
    paths = [key_file(config), *config.auth.previous_secret_files]
    for path in paths:
        if config.auth.secret_file is None and not path.exists():
            continue
        try:
            secret = read_secret_file(path)
        except KeyFileError as error:
            yield problem("signing key", f"{error}; expected 32 random bytes or more, mode 0600", _new_key(path))
            continue
        text = secret.decode("latin-1").lower()
        if len(set(secret)) < _MIN_KEY_CHARACTERS or any(word in text for word in _GUESSABLE):
            yield problem(
                "signing key", f"{path} looks typed or copied from an example; expected random bytes", _new_key(path)
            )


def _new_key(path: Path) -> str:
    return f"(umask 077; head -c 48 /dev/urandom | base64 > {path}); tokens that the old one signed end with it"


def _files(settings: Sections, config: Config, config_file: Path | None) -> Iterator[Finding]:
    """Files with secrets or with people's doings that others on this machine may read or change."""
    for name, path in _secret_files(settings):
        if path.exists() and path.stat().st_mode & OTHERS:
            yield _mode(name, path, "0600")
    for name in ("engine.key", "gatehouse.db", "requests.jsonl", "engine.log"):
        path = config.state_dir / name
        # a folder that nobody else may enter keeps what is in it
        if path.exists() and path.stat().st_mode & OTHERS and config.state_dir.stat().st_mode & OTHERS:
            yield _mode(name, path, "0600")
    if config_file is not None and config_file.exists():
        mode = config_file.stat().st_mode
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            yield _mode("configuration", config_file, "0640, written by its owner alone")
        elif mode & stat.S_IROTH and _has_password(config_file):
            yield _mode("configuration", config_file, "0640: a password is in it")


def _mode(subject: str, path: Path, expected: str) -> Finding:
    mode = stat.S_IMODE(path.stat().st_mode)
    return problem(subject, f"others may read or change {path} (mode {mode:04o}); expected {expected}",
                   f"run chmod {expected[:4]} {path}")  # fmt: skip


def _secret_files(section: BaseModel | Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Path]]:
    """Every setting whose name says that its file holds a secret, wherever it stands."""
    values = (
        section
        if isinstance(section, Mapping)
        else {name: getattr(section, name) for name in type(section).model_fields}
    )
    for name, value in values.items():
        where = f"{above}{name}"
        if isinstance(value, BaseModel):
            yield from _secret_files(value, f"{where}.")
        elif isinstance(value, tuple | list):
            for number, each in enumerate(value):
                if isinstance(each, BaseModel):
                    yield from _secret_files(each, f"{where}.{number}.")
        elif isinstance(value, Path) and name in {"client_secret_file", "api_key_file"}:
            yield where, value
        elif name == "secret_files":
            yield from ((f"{where}.{kid}", Path(path)) for kid, path in value.items())


def _has_password(file: Path) -> bool:
    return any(
        "://" in line and "@" in line and not line.lstrip().startswith("#")
        for line in file.read_text("utf-8").splitlines()
    )


def _listeners(settings: Sections) -> Iterator[Finding]:
    """What listens where: only the proxy may face the network."""
    gateway, engine = settings.gateway, settings.engine
    if not _is_near(gateway.admin_host):
        yield problem(
            "gateway.admin_host", f"{gateway.admin_host}: it asks for no credential; expected 127.0.0.1",
            "set gateway.admin_host to 127.0.0.1; Prometheus on another host comes through SSH or a VPN",
        )  # fmt: skip
    if not _is_near(gateway.host):
        yield problem(
            "gateway.host", f"{gateway.host}: passwords and tokens would come without TLS; expected 127.0.0.1",
            "set gateway.host to 127.0.0.1 and let nginx face the network (gatehouse deploy nginx)",
        )  # fmt: skip
    if engine.owned and not _is_near(engine.host):
        yield problem(
            "engine.host", f"{engine.host}: most of vLLM's routes ask for no key; expected 127.0.0.1",
            "set engine.host to 127.0.0.1",
        )  # fmt: skip
    if engine.url is not None and engine.url.startswith("http:") and not _is_near(urlsplit(engine.url).hostname or ""):
        yield note("engine.url", "prompts and the engine's key pass the network without TLS",
                   "use https://, or a network that nobody else is in")  # fmt: skip


def _way_in(settings: Sections) -> Iterator[Finding]:
    """TLS in front of the session cookie, and whose word about addresses is taken."""
    gateway, auth = settings.gateway, settings.auth
    if auth.cookie_over_http:
        yield problem(
            "auth.cookie_over_http", "true: the session cookie passes the network readable; expected false",
            "set it to false and put nginx with TLS in front (gatehouse deploy nginx)",
        )  # fmt: skip
    if auth.public_url is not None and auth.public_url.startswith("http:"):
        yield problem("auth.public_url", f"{auth.public_url}: browsers would sign in without TLS; expected https://",
                      "set it to the https:// address")  # fmt: skip
    behind = gateway.trusted_proxies or gateway.socket_dir
    if not behind:
        yield problem(
            "TLS", "nothing says that a proxy with TLS is in front; expected gateway.trusted_proxies, or socket_dir",
            "run gatehouse deploy nginx, and name nginx's address: gateway.trusted_proxies: [127.0.0.1]",
        )  # fmt: skip
    for network in gateway.trusted_proxies:
        if network.num_addresses > _WIDEST:
            yield problem(
                "gateway.trusted_proxies", f"{network}: whoever is in it can give any address; expected proxies alone",
                "list the proxies one by one",
            )  # fmt: skip


def _debugging(settings: Sections) -> Iterator[Finding]:
    """What is for trying out, or prints what people asked."""
    engine = settings.engine
    if engine.kind == "simulated":
        yield problem("engine.kind", "simulated: every answer is made up; expected vllm or external",
                      "set engine.kind to vllm")  # fmt: skip
    if settings.logging.level == "debug":
        yield problem("logging.level", "debug; expected info, warning or error", "set logging.level to info")
    if settings.logging.bodies.enabled:
        yield note("logging.bodies", "prompts and answers are kept in the record",
                   "tell the people whose they are, and who may read the file; or set enabled to false")  # fmt: skip
    for name, harmless in _DEBUG_VARIABLES.items():
        value = engine.env.get(name, os.environ.get(name, ""))
        if engine.owned and value.lower() not in harmless:
            yield problem("engine.env", f"{name}={value}: opens the engine's debugging; expected it unset",
                          f"remove {name} from engine.env and from the service's environment")  # fmt: skip
    for flag in _PROMPT_FLAGS:
        if any(arg.split("=")[0] == flag for arg in engine.extra_args):
            yield problem("engine.extra_args", f"{flag} writes prompts or answers to engine.log; expected without it",
                          f"remove {flag}")  # fmt: skip


def _redis(settings: Sections) -> Iterator[Finding]:
    """A Redis on the network that asks for nothing: whoever reaches it lifts every limit."""
    if settings.redis.url is None:
        return
    parts = urlsplit(settings.redis.url.get_secret_value())
    account, _, hosts = parts.netloc.rpartition("@")
    if parts.scheme.startswith("unix") or all(
        _is_near(urlsplit(f"//{host}").hostname or "") for host in hosts.split(",")
    ):
        return
    if ":" not in account and not dict(parse_qsl(parts.query)).get("password"):
        yield problem(
            "redis.url", f"{hosts} is asked without a password; expected redis://:PASSWORD@…",
            "set requirepass or an ACL user there, and the URL in GATEHOUSE_REDIS__URL",
        )  # fmt: skip
    elif not parts.scheme.startswith(("rediss", "valkeys")):
        yield note("redis.url", f"{hosts} is reached without TLS", "use rediss://, or a network that nobody else is in")


def _database(settings: Sections) -> Iterator[Finding]:
    """PostgreSQL over a network: with a password and TLS."""
    if settings.database.url is None:
        return
    parts = urlsplit(settings.database.url.get_secret_value())
    if parts.scheme.startswith("sqlite") or parts.hostname is None or _is_near(parts.hostname):
        return
    mode = dict(parse_qsl(parts.query)).get("sslmode", "prefer")
    if mode not in {"require", "verify-ca", "verify-full"}:
        yield problem("database.url", f"{parts.hostname} with sslmode={mode}: TLS is not sure; expected verify-full",
                      "add ?sslmode=verify-full to the URL")  # fmt: skip


def _owner(state_dir: Path) -> Iterator[Finding]:
    if state_dir.exists() and state_dir.stat().st_uid == 0:
        yield problem("user", f"{state_dir} is root's: Gatehouse would run as root; expected a user of its own",
                      f"run useradd --system gatehouse && chown -R gatehouse: {state_dir}")  # fmt: skip


def _open_sockets(launcher: int | None) -> Iterator[Finding]:
    """What the engine's processes listen on besides the configured port: torch's TCPStore, all interfaces."""
    if launcher is None:
        return
    try:
        family = [psutil.Process(launcher), *psutil.Process(launcher).children(recursive=True)]
        listening = {
            (connection.laddr.ip, connection.laddr.port)
            for process in family
            for connection in process.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN and not _is_near(connection.laddr.ip)
        }
    except psutil.Error:
        return
    for address, port in sorted(listening):
        yield note("firewall", f"the engine listens on {address}:{port}, with no credential (torch's TCPStore)",
                   "let the firewall close it: docs/install.md")  # fmt: skip


def _is_near(host: str) -> bool:
    """Whether an address is this machine's own only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
