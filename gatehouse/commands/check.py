"""`gatehouse check`: configuration and machine, every problem at once, each with its remedy. It changes nothing."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict

import click

from gatehouse import checks
from gatehouse.context import Context
from gatehouse.production import production as unsafe
from gatehouse.settings import ConfigError
from launcher.findings import Finding, Level, problem
from launcher.preflight import examine
from launcher.status import lock_holder

_MARKS = {Level.OK: ("ok", "green"), Level.NOTE: ("note", "yellow"), Level.PROBLEM: ("PROBLEM", "red")}
_SUBJECT_WIDTH = 20


@click.command()
@click.option("--demo", is_flag=True, help="Check for the demo: a simulated engine.")
@click.option("--production", is_flag=True, help="Also refuse what is unsafe on a network.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_obj
def check(context: Context, *, demo: bool, production: bool, as_json: bool) -> None:
    """Say what is good and what is wrong with configuration and machine; exit code 1 where something is wrong."""
    context.demo = demo
    found = list(findings(context, production=production))
    good = all(finding.level is not Level.PROBLEM for finding in found)
    if as_json:
        listed = [{name: value for name, value in asdict(one).items() if name != "passing"} for one in found]
        click.echo(json.dumps({"ok": good, "findings": listed}))
    else:
        for finding in found:
            click.echo(line(finding))
    sys.exit(0 if good else 1)


def findings(context: Context, *, production: bool = False) -> Iterable[Finding]:
    """Everything that is found, in the order in which a start would meet it."""
    try:
        settings = context.settings
    except ConfigError as error:
        yield from (problem("configuration", text, "correct it; `gatehouse config schema` says what may be written")
                    for text in error.problems)  # fmt: skip
        return
    where = context.config_file or "no file, the defaults"
    yield Finding("configuration", f"{where}{' with --demo' if context.demo else ''}")
    config = checks.read_only_config(context)
    holder = lock_holder(config.state_dir)
    if holder is not None:
        yield Finding("running", f"pid {holder} runs the engine of {config.state_dir}; its port and memory are its own")
    yield from checks.state_directory(config.state_dir)
    yield from examine(settings.engine, running=holder is not None)
    yield from checks.listeners(config)
    yield from checks.secrets(config)
    yield from checks.database(config)
    yield from checks.redis(config)
    if production:
        yield from unsafe(settings, config, context.config_file, holder)
    yield from checks.tracing(config)


def line(finding: Finding) -> str:
    """One line for people."""
    word, colour = _MARKS[finding.level]
    return f"{click.style(f'{word:<8}', fg=colour)}{finding.subject:<{_SUBJECT_WIDTH}}{finding}"
