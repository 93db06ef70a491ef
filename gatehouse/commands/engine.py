"""`gatehouse engine`: the launcher in the foreground, and the words to operate a running one."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn, Protocol

import aiohttp
import click

from gatehouse.bar import StartupBar
from gatehouse.notifying import serving, signs_of_life, stopping
from gateway.config import LoggingSettings
from gateway.logs import process_log
from launcher.config import EngineSettings
from launcher.notify import notify
from launcher.service import Launcher
from launcher.status import SOCKET_NAME, LauncherRunningError, Status

_CALL_SECONDS = 15.0
_EXIT_FAILED = 1  # the engine is down, or the call was refused
_EXIT_UNREACHABLE = 3  # no launcher answers


class _Settings(Protocol):
    @property
    def engine(self) -> EngineSettings: ...

    @property
    def logging(self) -> LoggingSettings:
        """How messages are logged."""
        ...


class EngineContext(Protocol):
    """What this command needs of the click context's object."""

    @property
    def settings(self) -> _Settings:
        """The effective settings."""
        ...

    @property
    def state_dir(self) -> Path:
        """Where the socket is."""
        ...

    def engine_api_key(self) -> str:
        """Give the key that guards the engine."""
        ...


@click.group(invoke_without_command=True)
@click.pass_context
def engine(ctx: click.Context) -> None:
    """Run the engine in the foreground until SIGTERM or Ctrl-C; a second Ctrl-C kills it at once."""
    if ctx.invoked_subcommand is None:
        context: EngineContext = ctx.obj
        with launcher_log(context):
            code = asyncio.run(_run(context))
        ctx.exit(code)


@engine.command()
@click.option("--json", "as_json", is_flag=True, help="Print the whole status as JSON.")
@click.option("--tail", default=0, show_default=True, help="Print the engine's last lines too, at most 200.")
@click.pass_obj
def status(context: EngineContext, *, as_json: bool, tail: int) -> None:
    """Say how the engine is. Exit code 0 when it is ready, 1 when not, 3 when no launcher runs."""
    path = f"/status?tail={tail}" if tail > 0 else "/status"
    answer = _call(context, "GET", path)
    if as_json:
        click.echo(json.dumps(answer))
    else:
        click.echo(describe(answer))
        for line in answer["tail"]:
            click.echo(f"  | {line}")
    if answer["state"] != "ready":
        sys.exit(_EXIT_FAILED)


@engine.command()
@click.pass_obj
def restart(context: EngineContext) -> None:
    """Let running requests finish, then start a fresh engine; also the way out of `failed`."""
    _call(context, "POST", "/restart")
    click.echo("The engine restarts; `gatehouse engine status` tells how far it is.", err=True)


@engine.command()
@click.pass_obj
def drain(context: EngineContext) -> None:
    """Let running requests finish, then keep the engine down until `gatehouse engine restart`."""
    _call(context, "POST", "/drain")
    click.echo("The engine finishes what runs and then stays down.", err=True)


@engine.command("reset-prefix-cache")
@click.pass_obj
def reset_prefix_cache(context: EngineContext) -> None:
    """Empty the engine's prefix cache."""
    _call(context, "POST", "/reset-prefix-cache")
    click.echo("The prefix cache is empty.", err=True)


def describe(status: dict[str, Any]) -> str:
    """Put a status into one line for people."""
    parts = [f"engine {status['state']}"]
    if status["phase"]:
        eta = f", about {status['eta_s']:.0f} s left" if status["eta_s"] is not None else ""
        parts.append(f"{status['phase']} {status['percent']} % ({status['elapsed_s']:.0f} s{eta})")
    if status["url"] and status["state"] == "ready":
        simulated = "simulated " if status["kind"] == "simulated" else ""
        version = f", {simulated}vLLM {status['version']}" if status["version"] else ""
        parts.append(f"{status['model']} at {status['url']}{version}")
    if status["reason"]:
        parts.append(status["reason"])
    return " · ".join(parts)


class Reporter:
    """Tells each new status: on a terminal a bar while the engine starts, in a log one line a phase; and to systemd."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._bar = StartupBar.on(sys.stderr)
        self._told: tuple[str, str | None, str] | None = None
        self._notified = False

    def __call__(self, status: Status) -> None:
        """Take a new status."""
        line = describe(json.loads(status.json()))
        notify(STATUS=line)
        if not self._notified:
            serving()  # the launcher: nothing needs to wait for a model that takes minutes to load
            self._notified = True
        if self._bar is not None and self._bar.show(status):
            return
        told = (status.state, status.phase, status.reason)
        if told != self._told:
            self._told = told
            with contextlib.suppress(OSError):  # nobody reads any more: no reason to lose the engine
                self._write(line)
                for text in status.tail if status.state == "failed" else ():
                    self._write(f"  | {text}")


def launcher_log(context: EngineContext) -> AbstractContextManager[None]:
    """Log into the record. The stream does not show the launcher's states: the Reporter tells them."""
    return process_log(context.settings.logging, context.state_dir, "launcher", told_elsewhere="launcher")


async def _run(context: EngineContext) -> int:
    launcher = Launcher(
        context.settings.engine,
        context.state_dir,
        context.engine_api_key(),
        on_change=Reporter(lambda line: click.echo(line, err=True)),
    )
    stop = asyncio.Event()

    def end() -> None:
        stopping()
        if stop.is_set():
            launcher.hurry()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # SIGHUP: the terminal is gone
        loop.add_signal_handler(number, end)
    try:
        async with signs_of_life(patience=True):
            await launcher.run(stop)
    except (LauncherRunningError, OSError) as error:
        click.echo(f"gatehouse engine: {error}", err=True)
        return _EXIT_FAILED
    return 0


def _call(context: EngineContext, method: str, path: str) -> dict[str, Any]:
    """Ask the running launcher; ends the program with a message when that fails."""
    socket = context.state_dir / SOCKET_NAME
    try:
        code, answer = asyncio.run(_ask(socket, method, path))
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or error or "timeout"
        _fail(
            f"no launcher answers at {socket} ({reason}): start one with `gatehouse engine` or `gatehouse up`",
            _EXIT_UNREACHABLE,
        )
    if code >= 400:
        _fail(str(answer.get("error", answer)), _EXIT_FAILED)
    return answer


async def _ask(socket: Path, method: str, path: str) -> tuple[int, dict[str, Any]]:
    timeout = aiohttp.ClientTimeout(total=_CALL_SECONDS)
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(socket)), timeout=timeout) as session,
        session.request(method, f"http://launcher{path}") as response,
    ):
        return response.status, await response.json()


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"gatehouse engine: {message}", err=True)
    sys.exit(code)
