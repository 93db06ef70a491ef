"""`gatehouse logs`: the record for people."""

import contextlib
import datetime as dt
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from gatehouse.record import Line, Record, is_request

if TYPE_CHECKING:
    from rich.text import Text

STYLES = {"complete": "green", "client_gone": "yellow", "rejected": "yellow", "shutdown": "yellow"}  # others: red
LEVELS = {"debug": "dim", "info": "cyan", "warning": "yellow"}  # others: red
SOURCES = ("requests", "gateway", "launcher", "engine")


class _Logging(Protocol):
    @property
    def file(self) -> Path | None: ...


class _Settings(Protocol):
    @property
    def logging(self) -> _Logging: ...


class LogContext(Protocol):
    """What the commands that read the record need of `ctx.obj`."""

    @property
    def settings(self) -> _Settings:
        """The effective settings."""
        ...

    @property
    def state_path(self) -> Path:
        """Where the record is by default."""
        ...


def record_path(context: LogContext) -> Path:
    """Where the record is."""
    return context.settings.logging.file or context.state_path / "requests.jsonl"


@click.command()
@click.option("-f", "--follow", is_flag=True, help="go on with the lines that come, until Ctrl-C")
@click.option("-n", "--lines", default=50, show_default=True, type=click.IntRange(0), help="the last so many")
@click.option("--subject", help="only of this caller")
@click.option("--request-id", help="the one request, with everything that is known of it")
@click.option(
    "--slow", type=click.FloatRange(0), is_flag=False, flag_value=10.0, metavar="[SECONDS]",
    help="only what took longer; 10 where no number is given",
)  # fmt: skip
@click.option("--errors", is_flag=True, help="only what was not answered in full, and warnings")
@click.option("--source", type=click.Choice(SOURCES), help="only requests, or the messages of one of the three")
@click.option("--json", "as_json", is_flag=True, help="print the lines as they are in the file")
@click.pass_obj
def logs(  # noqa: PLR0917 - click gives them by name
    context: LogContext,
    lines: int,
    subject: str | None,
    request_id: str | None,
    slow: float | None,
    source: str | None,
    *,
    follow: bool,
    errors: bool,
    as_json: bool,
) -> None:
    """Show the record: who asked what, how it ended, how long it took; and what gateway, launcher and engine said
    meanwhile. Reads the rotated files, too.
    """

    def wanted(line: Line) -> bool:
        if not is_request(line):
            return (
                subject is None
                and slow is None
                and (source is None or line.get("source") == source)
                and (request_id is None or request_id in line["message"])
                and not (errors and line.get("level") in {"debug", "info"})
            )
        return (
            source in {None, "requests"}
            and (subject is None or line.get("subject") == subject)
            and (request_id is None or line.get("request_id") == request_id)
            and (slow is None or line.get("duration_ms", 0) > slow * 1000)
            and not (errors and line.get("outcome") == "complete")
        )

    show = _printer(as_json=as_json, whole=request_id is not None)
    with (
        contextlib.closing(Record(record_path(context))) as record,
        contextlib.suppress(KeyboardInterrupt, BrokenPipeError),
    ):
        found = record.newest(lines, wanted) if lines else []
        for line in found:
            show(line)
        for line in filter(wanted, record.follow()) if follow else ():
            show(line)
    if not found and not follow:
        click.echo(f"gatehouse logs: nothing of that kind in {record_path(context)}", err=True)
        sys.exit(1)


def _printer(*, as_json: bool, whole: bool) -> Callable[[Line], None]:
    """What prints one line, in colours where somebody sees them."""
    from rich.console import Console  # noqa: PLC0415 - other commands start without it

    console = Console(highlight=False, soft_wrap=True)

    def show(line: Line) -> None:
        if as_json:
            click.echo(json.dumps(line, ensure_ascii=False, separators=(",", ":")))
        elif whole and is_request(line):
            width = max(map(len, line))
            for name, value in line.items():
                text = "-" if value is None else str(value).replace("\n", "\n" + " " * (width + 2))
                click.echo(f"{name:{width}}  {text}")
        else:
            console.print(brief(line))
            console.file.flush()

    return show


def brief(line: Line) -> "Text":
    """One line of the record as one line for people; a traceback below it."""
    from rich.text import Text  # noqa: PLC0415

    if not is_request(line):
        return _message(line)

    def get(name: str) -> str:
        value = line.get(name)
        return "-" if value is None else str(value)

    ended = get("outcome")
    if line.get("error_code") not in {None, ended}:
        ended += f" ({line['error_code']})"
    text = Text(f"{_moment(line)} ", style="dim", end="")
    text.append(f"{get('status')} {ended}", style=STYLES.get(get("outcome"), "red"))
    text.append(f"  {get('subject')}", style="bold")
    text.append(f"  {get('route')}  {get('model')}  {_seconds(line.get('duration_ms'))}")
    if line.get("stream") and line.get("ttft_ms") is not None:
        text.append(f", first token {_seconds(line['ttft_ms'])}")
    text.append(f"  {line.get('prompt_tokens', 0)}+{line.get('completion_tokens', 0)} tokens")
    if line.get("tokens_per_second"):
        text.append(f" {line['tokens_per_second']:.0f}/s")
    text.append(f"  {get('request_id')}", style="dim")
    return text


def _message(line: Line) -> "Text":
    from rich.text import Text  # noqa: PLC0415

    text = Text(f"{_moment(line)} ", style="dim", end="")
    text.append(f"{line.get('source')} {line.get('level')}", style=LEVELS.get(str(line.get("level")), "red"))
    text.append(f"  {line['message']}")
    if line.get("exception"):
        text.append(f"\n{line['exception']}", style="dim")
    return text


def _moment(line: Line) -> str:
    """When, as the reader's clock shows it; what is no time as it is."""
    try:
        when = dt.datetime.fromisoformat(line["ts"])
    except (KeyError, TypeError, ValueError):
        return str(line.get("ts"))
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}"


def _seconds(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"
