"""`gatehouse gateway`: the gateway alone, for systemd or a host of its own."""

import asyncio
import ctypes
import logging
import os
import signal
import sys

import click
import uvloop

from gatehouse.context import Context
from gatehouse.reload import Reloader
from gateway.auth.keys import KeyFileError
from gateway.logs import process_log
from gateway.server import Listening, serve
from gateway.store import StoreError
from gateway.tracing import TracingUnavailableError

PARENT = "GATEHOUSE_PARENT_PID"
_PR_SET_PDEATHSIG = 1
log = logging.getLogger("gatehouse.gateway")


@click.command()
@click.option("--demo", is_flag=True, help="Stand before the simulated engine.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the public listener; 0 picks a free one.")
@click.option("--admin-port", type=click.IntRange(0, 65535), help="Port of the admin listener; 0 picks a free one.")
@click.pass_obj
def gateway(context: Context, port: int | None, admin_port: int | None, *, demo: bool) -> None:
    """Run the gateway until SIGTERM; running streams may finish first, a second SIGTERM ends them.

    SIGHUP, or a change of the file, takes over plans and limits.
    """
    die_with_parent()
    context.demo = demo
    config = context.gateway_config()
    changed = {name: value for name, value in (("port", port), ("admin_port", admin_port)) if value is not None}
    config = config.model_copy(update={"gateway": config.gateway.model_copy(update=changed)})

    async def run() -> None:
        stop, hurry, hang_up = asyncio.Event(), asyncio.Event(), asyncio.Event()

        def end() -> None:
            (hurry if stop.is_set() else stop).set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        loop.add_signal_handler(signal.SIGHUP, hang_up.set)
        reloader = Reloader(context, hang_up)
        await serve(config, stop, hurry=hurry, on_listening=_announce, beside=reloader.follow)

    try:
        with process_log(config.logging, config.state_dir, "gateway"):
            uvloop.run(run())
    except (OSError, KeyFileError, StoreError, TracingUnavailableError) as error:
        click.echo(f"gatehouse: the gateway cannot start: {error}", err=True)
        sys.exit(1)


def _announce(listening: Listening) -> None:
    log.info("gateway: listening on %s, admin on %s", listening.url, listening.admin_url)


def die_with_parent() -> None:
    """Under `gatehouse up`: stop when it is gone, even if it was killed. Linux does it (prctl(2), PR_SET_PDEATHSIG)."""
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before the line above
        sys.exit(1)
