"""`gatehouse gateway`: the gateway alone, for systemd or a host of its own; and the word to replace its workers."""

import json
import sys
import urllib.error
import urllib.request
from typing import NoReturn

import click
import uvloop

from gatehouse.context import Context
from gatehouse.lean import import_aiohttp
from gatehouse.life import CannotStart, Life
from gatehouse.listeners import taken_ports
from gatehouse.parenthood import die_with_parent
from gatehouse.settings import ConfigError
from gateway.listening import whereabouts

_CALL_SECONDS = 5.0


@click.group(invoke_without_command=True)
@click.option("--demo", is_flag=True, help="Stand before the simulated engine.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the public listener; 0 picks a free one.")
@click.option("--admin-port", type=click.IntRange(0, 65535), help="Port of the admin listener; 0 picks a free one.")
@click.option("--worker", type=int, hidden=True, help="Serve as this worker of several; its parent says so.")
@click.option("--inherited", hidden=True, default="", help="A worker's descriptors: its channel, its sockets.")
@click.pass_context
def gateway(
    ctx: click.Context, port: int | None, admin_port: int | None, worker: int | None, inherited: str, *, demo: bool
) -> None:
    """Run the gateway until SIGTERM; running streams may finish first, a second SIGTERM ends them.

    SIGHUP, or a change of the file, takes over plans and limits; SIGUSR2 replaces the workers, as `restart` does.
    """
    if ctx.invoked_subcommand is not None:
        return
    die_with_parent()
    import_aiohttp()
    from gateway.logs import process_log  # noqa: PLC0415 - imports it, too

    context: Context = ctx.obj
    context.demo = demo
    config = context.gateway_config()
    changed = {name: value for name, value in (("port", port), ("admin_port", admin_port)) if value is not None}
    config = config.model_copy(update={"gateway": config.gateway.model_copy(update=changed)})
    if config.workers_apart:
        raise ConfigError(
            [f"gateway.workers: {config.gateway.workers} workers need redis.url: they count limits together there"]
        )
    if worker is None and (taken := taken_ports(config.gateway)):
        _cannot_start("; ".join(taken))
    life = Life(context, config)
    try:
        with process_log(config.logging, config.state_dir, "gateway"):
            if worker is not None:
                uvloop.run(life.as_worker([int(each) for each in inherited.split(",")]))
            elif config.gateway.workers == 1:
                uvloop.run(life.alone())
            else:
                uvloop.run(life.as_parent())
    except CannotStart as error:
        _cannot_start(error)


def _cannot_start(reason: object) -> NoReturn:
    click.echo(f"gatehouse: the gateway cannot start: {reason}", err=True)
    sys.exit(1)


@gateway.command()
@click.pass_obj
def restart(context: Context) -> None:
    """Replace the workers one after another, without losing a request; the new ones read the configuration anew."""
    found = whereabouts(context.state_path)
    try:
        answered = found is not None and _ask_to_replace(found[1].admin_url)
    except urllib.error.HTTPError as error:
        click.echo(f"gatehouse gateway: {json.load(error)['error']['message']}", err=True)
        sys.exit(1)
    if not answered:
        told = f"no gateway runs on {context.state_path}: start one with `gatehouse gateway` or `gatehouse up`"
        click.echo(f"gatehouse gateway: {told}", err=True)
        sys.exit(3)
    click.echo("The workers are replaced one after another.", err=True)


def _ask_to_replace(admin_url: str) -> bool:
    """Whether a gateway answers there; raises HTTPError when it refuses."""
    request = urllib.request.Request(f"{admin_url}/workers/restart", method="POST")  # noqa: S310 - our own listener
    try:
        with urllib.request.urlopen(request, timeout=_CALL_SECONDS):  # noqa: S310
            return True
    except urllib.error.HTTPError:
        raise
    except OSError:
        return False
