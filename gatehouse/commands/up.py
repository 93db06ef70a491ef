"""`gatehouse up`: engine and gateway together, from one command, until Ctrl-C."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import click

from gatehouse.commands.gateway import PARENT
from gatehouse.commands.identity import ensure_demo_user, issue_demo_token
from gatehouse.context import ENGINE_SOCKET, Context
from gateway.server import STATE_FILE
from launcher.service import Launcher

RESTART_SECONDS = 1.0
GRACE_SECONDS = 10.0  # beyond drain_seconds, before a gateway that does not stop is killed
POLL_SECONDS = 0.05


@click.command()
@click.option("--demo", is_flag=True, help="Try it without a GPU: a simulated engine, a demo user and a ready token.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the public listener; 0 picks a free one.")
@click.option("--admin-port", type=click.IntRange(0, 65535), help="Port of the admin listener; 0 picks a free one.")
@click.pass_obj
def up(context: Context, port: int | None, admin_port: int | None, *, demo: bool) -> None:
    """Start the engine and the gateway. Ctrl-C lets running requests finish and leaves nothing behind."""
    context.demo = demo
    sys.exit(asyncio.run(_Up(context, port, admin_port).run()))


class _Up:
    def __init__(self, context: Context, port: int | None, admin_port: int | None) -> None:
        self._context = context
        self._settings = context.settings
        self._port = port
        self._admin_port = admin_port
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> int:
        """Run until told to stop; returns the exit code."""
        problems = _taken_ports(self._context, self._port, self._admin_port)
        if problems:
            for problem in problems:
                click.echo(f"gatehouse: {problem}", err=True)
            return 1
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        engine_stop = asyncio.Event()
        launcher = Launcher(self._settings.engine, self._context.state_dir, self._context.engine_api_key())
        engine = asyncio.create_task(launcher.run(engine_stop), name="launcher")
        gateway = asyncio.create_task(self._keep_gateway(), name="gateway")
        greeting = asyncio.create_task(self._greet(), name="greeting")
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({engine, gateway, stopped}, return_when=asyncio.FIRST_COMPLETED)
        failed = next((task.exception() for task in (engine, gateway) if task.done() and task.exception()), None)
        if failed is not None:
            click.echo(f"gatehouse: {failed}", err=True)
        self._stop.set()
        greeting.cancel()
        stopped.cancel()
        with contextlib.suppress(Exception):  # reported above
            await gateway  # it drains first: what it sends on needs the engine
        engine_stop.set()
        with contextlib.suppress(Exception):
            await engine
        return 1 if failed is not None else 0

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        else:
            click.echo("gatehouse: stopping; running requests may finish (again Ctrl-C: at once)", err=True)
        self._stop.set()

    async def _keep_gateway(self) -> None:
        """Run the gateway in a process of its own; start it again when it dies."""
        argv = [sys.executable, "-m", "gatehouse", "gateway", "--state-dir", str(self._context.state_dir)]
        if self._context.config_file is not None:
            argv += ["--config", str(self._context.config_file)]
        if self._context.demo:
            argv.append("--demo")
        for flag, value in (("--port", self._port), ("--admin-port", self._admin_port)):
            if value is not None:
                argv += [flag, str(value)]
        while not self._stop.is_set():
            started = time.monotonic()
            # a session of its own: Ctrl-C reaches this process alone, which then stops the others in order
            process = await asyncio.create_subprocess_exec(
                *argv, env={**os.environ, PARENT: str(os.getpid())}, start_new_session=True
            )
            code = await self._until_gone(process)
            if self._stop.is_set():
                return
            if time.monotonic() - started < GRACE_SECONDS:
                raise RuntimeError(f"the gateway stopped as soon as it was started (exit {code}); its message is above")
            click.echo(f"gatehouse: the gateway died (exit {code}) and is started again", err=True)
            await asyncio.sleep(RESTART_SECONDS)

    async def _until_gone(self, process: asyncio.subprocess.Process) -> int:
        gone = asyncio.create_task(process.wait())
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({gone, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not gone.done():
                process.terminate()
                hurry = asyncio.create_task(self._hurry.wait())
                patience = self._settings.gateway.drain_seconds + GRACE_SECONDS
                await asyncio.wait({gone, hurry}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                hurry.cancel()
                if not gone.done():
                    process.kill()
            return await gone
        finally:
            stop.cancel()

    async def _greet(self) -> None:
        """Say where everything is once it is there, and meanwhile what it waits for."""
        file = self._context.state_dir / STATE_FILE
        where = await _gateway_of(os.getpid(), file)
        async for line in _engine_progress(self._context.state_dir / ENGINE_SOCKET):
            click.echo(f"gatehouse: {line}", err=True)
        lines = [f"chat      {where['url']}/"]
        if self._context.demo:
            config = self._context.gateway_config()
            name, password = await ensure_demo_user(config)
            token = issue_demo_token(config)
            body = json.dumps(
                {
                    "model": config.engine.model,
                    "stream": True,
                    "messages": [{"role": "user", "content": "Hello!"}],
                }
            )
            lines += [
                f"login     {name} / {password}",
                f"metrics   {where['admin_url']}/metrics",
                f"token     {token}",
                "",
                f"curl -N {where['url']}/v1/chat/completions -H 'Authorization: Bearer {token}' "
                f"-H 'Content-Type: application/json' -d '{body}'",
            ]
        else:
            lines += [
                f"API       {where['url']}/v1",
                f"metrics   {where['admin_url']}/metrics",
                "a login:  gatehouse user add NAME",
                "a token:  gatehouse token issue --subject NAME",
            ]
        click.echo("\n" + "\n".join(lines) + "\n")


async def _gateway_of(parent: int, file: Path) -> dict[str, str]:
    """Wait until our own gateway has said where it listens; a file of another one is not ours to read."""
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError):
            where = json.loads(file.read_text("utf-8"))
            stat = Path(f"/proc/{where['pid']}/stat").read_text("ascii", "replace")
            if int(stat.rpartition(")")[2].split()[1]) == parent:
                return {"url": where["url"], "admin_url": where["admin_url"]}
        await asyncio.sleep(POLL_SECONDS)


async def _engine_progress(status_socket: Path) -> AsyncIterator[str]:
    """Yield a line for each phase of the engine's start; ends when it is ready."""
    last = ""
    while True:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            connector = aiohttp.UnixConnector(str(status_socket))
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.get("http://launcher/events") as events,
            ):
                async for line in events.content:
                    if not line.startswith(b"data:"):
                        continue
                    status = json.loads(line[5:])
                    phase = " ".join(str(part) for part in (status["state"], status.get("phase")) if part)
                    reason = f": {status['reason']}" if status.get("reason") else ""
                    if phase + reason != last:
                        last = phase + reason
                        yield f"engine {last}"
                    if status["state"] == "ready":
                        return
        await asyncio.sleep(POLL_SECONDS)


def _taken_ports(context: Context, port: int | None, admin_port: int | None) -> list[str]:
    """Name the listeners whose port is taken, before anything is started."""
    settings = context.settings.gateway
    listeners = (
        ("gateway.port", settings.host, settings.port if port is None else port, "--port"),
        ("gateway.admin_port", settings.admin_host, settings.admin_port if admin_port is None else admin_port,
         "--admin-port"),
    )  # fmt: skip
    problems = []
    for name, host, number, flag in listeners:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, number))
            except OSError as error:
                problems.append(
                    f"{name}: {host}:{number} cannot be used ({error.strerror}); choose another with {flag}"
                )
    return problems
