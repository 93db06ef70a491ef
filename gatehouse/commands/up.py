"""`gatehouse up`: engine and gateway together, from one command, until Ctrl-C."""

import asyncio
import contextlib
import os
import signal
import sys
import time

import click

from gatehouse.checks import tracing
from gatehouse.commands.engine import Reporter, launcher_log
from gatehouse.commands.greeting import gateway_of, greeting
from gatehouse.context import Context
from gatehouse.listeners import taken_ports
from gatehouse.parenthood import PARENT
from gatehouse.private_redis import PrivateRedis
from launcher.config import EngineSettings
from launcher.preflight import preflight
from launcher.service import Launcher
from launcher.status import Status

RESTART_SECONDS = 1.0
GRACE_SECONDS = 10.0  # beyond drain_seconds, before a gateway that does not stop is killed


@click.command()
@click.option("--demo", is_flag=True, help="Try it without a GPU: a simulated engine, a demo user and a ready token.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the public listener; 0 picks a free one.")
@click.option("--admin-port", type=click.IntRange(0, 65535), help="Port of the admin listener; 0 picks a free one.")
@click.pass_obj
def up(context: Context, port: int | None, admin_port: int | None, *, demo: bool) -> None:
    """Start the engine and the gateway. Ctrl-C lets running requests finish and leaves nothing behind."""
    context.demo = demo
    with launcher_log(context):
        code = asyncio.run(_Up(context, port, admin_port).run())
    sys.exit(code)


class _Up:
    def __init__(self, context: Context, port: int | None, admin_port: int | None) -> None:
        self._context = context
        self._settings = context.settings
        chosen = {"port": port, "admin_port": admin_port}
        self._ports = {name: number for name, number in chosen.items() if number is not None}
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._gateway: asyncio.subprocess.Process | None = None
        self._redis = PrivateRedis(context.state_dir) if context.gateway_config().workers_apart else None
        self._had_terminal = _has_terminal()
        self._engine_ready = asyncio.Event()
        self._report = Reporter(lambda line: click.echo(f"gatehouse: {line}", err=True))
        self._launcher = Launcher(
            self._settings.engine,
            context.state_dir,
            context.engine_api_key(),
            on_change=self._engine_changed,
        )

    async def run(self) -> int:
        """Run until told to stop; returns the exit code."""
        problems = [
            *taken_ports(self._settings.gateway.model_copy(update=self._ports)),
            *_engine_problems(self._settings.engine),
            *(
                f"{finding.what}; {finding.remedy}"
                for finding in tracing(self._context.gateway_config())
                if finding.remedy
            ),
        ]
        if self._redis is not None and (problem := await self._redis.problem()) is not None:
            problems.append(problem)
        if problems:
            click.echo("gatehouse: nothing was started:", err=True)
            for problem in problems:
                click.echo(f"  {problem}", err=True)
            return 1
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        engine_stop = asyncio.Event()
        engine = asyncio.create_task(self._launcher.run(engine_stop), name="launcher")
        gateway = asyncio.create_task(self._keep_gateway(), name="gateway")
        greet = asyncio.create_task(self._greet(), name="greeting")
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({engine, gateway, stopped}, return_when=asyncio.FIRST_COMPLETED)
        failed = next((task.exception() for task in (engine, gateway) if task.done() and task.exception()), None)
        if failed is not None:
            click.echo(f"gatehouse: {failed}", err=True)
        self._stop.set()
        greet.cancel()
        stopped.cancel()
        await asyncio.wait({gateway})  # it drains first: what still runs there needs the engine
        engine_stop.set()
        await asyncio.wait({engine, greet})
        return 1 if failed is not None else 0

    def _engine_changed(self, status: Status) -> None:
        self._report(status)
        if status.state == "ready":
            self._engine_ready.set()

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
            self._launcher.hurry()
        else:
            click.echo("gatehouse: stopping; running requests may finish (again Ctrl-C: at once)", err=True)
        self._stop.set()

    def _hung_up(self) -> None:
        """Pass SIGHUP on: plans and limits are taken over. When the terminal is gone, that is what it means."""
        if self._had_terminal and not _has_terminal():
            self._signalled()
        elif self._gateway is not None:
            with contextlib.suppress(ProcessLookupError):
                self._gateway.send_signal(signal.SIGHUP)

    async def _keep_gateway(self) -> None:
        """Run the gateway, after the Redis that it may need."""
        async with self._redis.running() if self._redis is not None else contextlib.nullcontext():
            await self._keep_gateway_process()

    async def _keep_gateway_process(self) -> None:
        """Run the gateway in a process of its own; start it again when it dies."""
        argv = [sys.executable, "-m", "gatehouse", "gateway", "--state-dir", str(self._context.state_dir)]
        if self._context.config_file is not None:
            argv += ["--config", str(self._context.config_file)]
        if self._context.demo:
            argv.append("--demo")
        for name, number in self._ports.items():
            argv += [f"--{name.replace('_', '-')}", str(number)]
        env = {**os.environ, PARENT: str(os.getpid())}
        if self._redis is not None:
            env["GATEHOUSE_REDIS__URL"] = self._redis.url
        while not self._stop.is_set():
            started = time.monotonic()
            # a session of its own: Ctrl-C reaches this process alone, which then stops the others in order
            self._gateway = await asyncio.create_subprocess_exec(*argv, env=env, start_new_session=True)
            code = await self._until_gone(self._gateway)
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
                await self._end(process, gone)
            return await gone
        finally:
            stop.cancel()

    async def _end(self, process: asyncio.subprocess.Process, gone: asyncio.Task[int]) -> None:
        """TERM, so that it drains; TERM again when that takes too long or somebody is in a hurry; KILL at last."""
        process.terminate()
        hurry = asyncio.create_task(self._hurry.wait())
        patience = self._settings.gateway.drain_seconds + GRACE_SECONDS
        await asyncio.wait({gone, hurry}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not gone.done():
            process.terminate()
            await asyncio.wait({gone}, timeout=GRACE_SECONDS)
        if not gone.done():
            process.kill()

    async def _greet(self) -> None:
        """Say where everything is, once it is there."""
        where = await gateway_of(os.getpid(), self._context.state_dir)
        await self._engine_ready.wait()
        click.echo(f"\n{await greeting(self._context, where)}\n")


def _engine_problems(settings: EngineSettings) -> list[str]:
    return [f"{problem.what}; {problem.remedy}" for problem in preflight(settings)]


def _has_terminal() -> bool:
    """Whether this process has a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
