"""`gatehouse usage`: who used what."""

import csv
import datetime as dt
import json
import sys
from typing import Any

import click

from gatehouse.commands.directory import Context, opened, run
from gateway.config import Config
from gateway.store.usage import FIGURES, KEYS
from gateway.usage_book import UsageBook


class Since(click.ParamType[str]):
    """A day such as 2026-11-01, or so many days ago: 30d."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The day as ISO 8601 has it; fails on anything else."""
        text = str(value)
        try:
            if text.endswith("d") and text[:-1].isdecimal():
                return (dt.datetime.now().astimezone().date() - dt.timedelta(days=int(text[:-1]))).isoformat()
            return dt.date.fromisoformat(text).isoformat()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a day; write 2026-11-01 or 30d", param, ctx)


@click.command()
@click.option("--by", multiple=True, type=click.Choice(KEYS), help="Group by this; may be given several times.")
@click.option("--since", type=Since(), help="From this day on: 2026-11-01, or 30d.")
@click.option("--subject", help="Only this subject's.")
@click.option("--json", "form", flag_value="json", help="One JSON array.")
@click.option("--csv", "form", flag_value="csv", help="CSV with a header.")
@click.pass_obj
def usage(obj: Context, by: tuple[str, ...], since: str | None, subject: str | None, form: str | None) -> None:
    """Show requests and tokens; by subject unless asked otherwise. What the record holds is counted first."""
    config = obj.gateway_config()
    groups = [key for key in KEYS if key in (by or ("subject",))]

    async def read() -> list[dict[str, Any]]:
        async with opened(config) as store:
            await book(config, store).catch_up()
            return await store.usage.totals(groups, since=since, subject=subject)

    rows = run(read())
    if form == "json":
        click.echo(json.dumps(rows))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, [*groups, *FIGURES], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        _print_table(groups, rows)


def book(config: Config, store: Any) -> UsageBook:
    """The book of this configuration."""
    record = config.logging.file or config.state_dir / "requests.jsonl"
    return UsageBook(store, record, config.logging.keep_files, config.limits.time_zone)


def _print_table(groups: list[str], rows: list[dict[str, Any]]) -> None:
    titles = [*groups, *(name.replace("_tokens", "") for name in FIGURES)]
    total = {name: sum(row[name] for row in rows) for name in FIGURES}
    lines = [[str(row[key]) or "-" for key in groups] + [f"{row[name]:,}" for name in FIGURES] for row in rows]
    lines.append(["total", *[""] * (len(groups) - 1), *(f"{total[name]:,}" for name in FIGURES)])
    widths = [max(len(line[at]) for line in [titles, *lines]) for at in range(len(titles))]
    for line in [titles, *lines]:
        cells = (
            cell.ljust(width) if at < len(groups) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        click.echo("  ".join(cells).rstrip())
    click.echo("prompt includes cached, completion includes reasoning; rejected are not among the requests", err=True)
