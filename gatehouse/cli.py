"""The command `gatehouse`: puts the subcommands together and knows how each takes its settings.

Exit codes: 0 done, 1 it could not be done, 2 wrong usage or configuration.
"""

import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click

from gatehouse.commands.engine import engine
from gatehouse.commands.gateway import gateway
from gatehouse.commands.identity import token, user
from gatehouse.commands.settings import config
from gatehouse.commands.up import up
from gatehouse.context import Context
from gatehouse.settings import ConfigError


def _set_config(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.find_object(Context).config_file = value  # type: ignore[union-attr]


def _set_state_dir(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.find_object(Context).chosen_state_dir = value  # type: ignore[union-attr]


def _shared_options() -> list[click.Option]:
    path = click.Path(path_type=Path)
    return [
        click.Option(
            ["--config"], type=path, envvar="GATEHOUSE_CONFIG", expose_value=False, callback=_set_config, is_eager=True,
            help="The file gatehouse.yaml.  [env: GATEHOUSE_CONFIG]",
        ),
        click.Option(
            ["--state-dir"], type=path, envvar="GATEHOUSE_STATE_DIR", expose_value=False, callback=_set_state_dir,
            is_eager=True, help="Where keys, database and logs are kept.  [env: GATEHOUSE_STATE_DIR]",
        ),
    ]  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("vllm-gatehouse"), prog_name="gatehouse")
@click.pass_context
def gatehouse(ctx: click.Context) -> None:
    """One command puts a language model to work for a whole team."""
    ctx.obj = Context()


for _command in (up, engine, gateway, token, user, config):
    gatehouse.add_command(_command)


def _walk(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for sub in command.commands.values():
            yield from _walk(sub)


for _command in _walk(gatehouse):
    if _command is not gatehouse:
        _command.params += _shared_options()


def main() -> None:
    """Run the command line."""
    try:
        gatehouse()
    except ConfigError as error:
        click.echo("gatehouse: the configuration is wrong; nothing was started:", err=True)
        for problem in error.problems:
            click.echo(f"  {problem}", err=True)
        sys.exit(2)
