"""The command `gatehouse`: puts the subcommands together and knows how each takes its settings.

Exit codes: 0 done, 1 it could not be done, 2 wrong usage or configuration.
"""

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import click

from gatehouse.context import Context
from gatehouse.settings import ConfigError

# name: where it is, and its line in --help; only the command that is called is imported
COMMANDS = {
    "up": ("gatehouse.commands.up", "Start the engine and the gateway."),
    "engine": ("gatehouse.commands.engine", "Run the engine alone, or operate the one that runs."),
    "gateway": ("gatehouse.commands.gateway", "Run the gateway alone."),
    "check": ("gatehouse.commands.check", "Say what is good and what is wrong with configuration and machine."),
    "deploy": ("gatehouse.commands.deploy", "Write the configuration of nginx and systemd."),
    "token": ("gatehouse.commands.identity", "Issue, list, inspect and revoke API tokens."),
    "user": ("gatehouse.commands.identity", "Add, list and change the users of the chat."),
    "usage": ("gatehouse.commands.usage", "Show who used what."),
    "logs": ("gatehouse.commands.logs", "Show the record: who asked what, and how it ended."),
    "top": ("gatehouse.commands.top", "Show the live state: engine, requests in flight, rates, last errors."),
    "bench": ("gatehouse.commands.bench", "Measure how fast a server answers, or two side by side."),
    "config": ("gatehouse.commands.settings", "Show the effective settings, or their schema."),
}


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
            help="The file gatehouse.yaml.  [env: GATEHOUSE_CONFIG; default: none, every setting has one]",
        ),
        click.Option(
            ["--state-dir"], type=path, envvar="GATEHOUSE_STATE_DIR", expose_value=False, callback=_set_state_dir,
            is_eager=True, help="Where keys, database and logs are kept.  [env: GATEHOUSE_STATE_DIR; default: "
            "~/.local/state/gatehouse, with --demo gatehouse-demo beside it]",
        ),
    ]  # fmt: skip


def _walk(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for sub in command.commands.values():
            yield from _walk(sub)


class _Commands(click.Group):
    """The table above as a click group; --config and --state-dir mean the same for every command in it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            command: click.Command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
            for each in _walk(command):
                each.params += _shared_options()
            self.add_command(command, cmd_name)
        return self.commands[cmd_name]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("vllm-gatehouse"), prog_name="gatehouse")
@click.pass_context
def gatehouse(ctx: click.Context) -> None:
    """One command puts a language model to work for a whole team."""
    ctx.obj = Context()


def main() -> None:
    """Run the command line."""
    try:
        gatehouse()
    except ConfigError as error:
        click.echo("gatehouse: the configuration is wrong; nothing was started:", err=True)
        for problem in error.problems:
            click.echo(f"  {problem}", err=True)
        sys.exit(2)
