"""`gatehouse config`: what is in force, and what may be written."""

import json

import click
import yaml

from gatehouse.context import Context
from gatehouse.settings import Sections


@click.group()
def config() -> None:
    """Show the effective settings, or their schema."""


@config.command()
@click.pass_obj
def show(context: Context) -> None:
    """Print the effective settings, secrets masked."""
    click.echo(yaml.safe_dump(context.settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)


@config.command()
def schema() -> None:
    """Print the JSON Schema of gatehouse.yaml."""
    click.echo(json.dumps(Sections.model_json_schema(), indent=2, ensure_ascii=False))
