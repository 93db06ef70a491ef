"""`gatehouse top`: the live state in a terminal."""

import contextlib
import http.client
import sys
import time

import click

from gatehouse.commands.logs import LogContext, record_path
from gatehouse.record import Line, Record, is_request
from gateway.listening import whereabouts

_ERRORS = 5


@click.command()
@click.option("--url", help="the admin listener; default: that of the gateway which runs on this state directory")
@click.option("--every", default=1.0, show_default=True, type=click.FloatRange(0.1), help="seconds between two looks")
@click.option("--once", is_flag=True, help="print one picture and end")
@click.pass_obj
def top(context: LogContext, url: str | None, every: float, *, once: bool) -> None:
    """Show the engine, the requests in flight, the rates and the last errors, until Ctrl-C."""
    from rich.console import Console  # noqa: PLC0415 - other commands start without it
    from rich.live import Live  # noqa: PLC0415

    from gatehouse.live import Look, look, picture  # noqa: PLC0415

    url = url or _admin_url(context)
    console = Console()

    def see() -> Look:
        try:
            return look(url)
        except (OSError, http.client.HTTPException) as error:
            click.echo(f"gatehouse top: no gateway answers at {url} ({error})", err=True)
            sys.exit(3)

    before = see()
    time.sleep(every)
    now = see()
    if once:
        console.print(picture(now, before, _errors(context)))
        return
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(picture(now, before, _errors(context)), refresh=True)
            time.sleep(every)
            before, now = now, see()


def _admin_url(context: LogContext) -> str:
    found = whereabouts(context.state_path)
    if found is None:
        click.echo(f"gatehouse top: no gateway runs on {context.state_path}; or say --url", err=True)
        sys.exit(3)
    _, listening = found
    return listening.admin_url


def _errors(context: LogContext) -> list[Line]:
    with contextlib.closing(Record(record_path(context))) as record:
        return record.newest(_ERRORS, lambda line: is_request(line) and line["outcome"] != "complete")
