"""`gatehouse user`: the people who use the chat.

What a program wants stands alone on stdout, messages go to stderr. Exit code 1: failed; 2: wrong usage.
"""

import json
import sys

import click

from gatehouse.commands.directory import Context, known_plan, opened, opened_users, run
from gateway.auth.passwords import generate_password
from gateway.auth.users import account_name, normal_name
from gateway.store import User


@click.group()
def user() -> None:
    """Add, list, disable and enable the people who use the chat."""


_password_stdin = click.option("--password-stdin", is_flag=True, help="read the password from stdin, one line")


@user.command("add")
@click.argument("name")
@click.option("--display-name", help="how the chat addresses them; default: NAME")
@click.option("--team", help="team whose limits and usage they share")
@click.option("--plan", help="plan with its limits; default: auth.user_plan")
@_password_stdin
@click.pass_obj
def user_add(
    obj: Context, *, name: str, display_name: str | None, team: str | None, plan: str | None, password_stdin: bool
) -> None:
    """Add a user. Asks for a password; without a terminal, or left empty, makes one and prints it."""
    config = obj.gateway_config()
    chosen = known_plan(config, plan or config.auth.user_plan)
    password, generated = _ask_password(from_stdin=password_stdin)

    async def add() -> bool:
        async with opened_users(config) as (users, _):
            return await users.add(name, password, display_name=display_name, team=team, plan=chosen)

    if not run(add()):
        raise click.ClickException(f"there is a user {normal_name(name)} already; see `gatehouse user passwd`")
    _say_password(f"added {normal_name(name)}", password, generated=generated)


@user.command("passwd")
@click.argument("name")
@_password_stdin
@click.pass_obj
def user_passwd(obj: Context, name: str, password_stdin: bool) -> None:
    """Set a user's password and end their sessions."""
    config = obj.gateway_config()
    password, generated = _ask_password(from_stdin=password_stdin)

    async def change() -> bool:
        async with opened_users(config) as (users, _):
            return await users.set_password(name, password)

    _require_user(run(change()), name)
    _say_password(f"changed the password of {normal_name(name)}", password, generated=generated)


@user.command("list")
@click.option("--json", "as_json", is_flag=True, help="one JSON array")
@click.pass_obj
def user_list(obj: Context, as_json: bool) -> None:
    """List the users, by name."""
    config = obj.gateway_config()

    async def read() -> list[User]:
        async with opened(config) as store:
            return await store.users.list()

    rows = [
        {
            "name": person.name,
            "display_name": person.display_name,
            "team": person.team,
            "plan": person.plan,
            "admin": person.admin,
            "created_at": person.created_at,
            "disabled_at": person.disabled_at,
        }
        for person in run(read())
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        state = "active" if row["disabled_at"] is None else "disabled"
        role = "  admin" if row["admin"] else ""
        click.echo(f"{row['name']}  {state}  {row['plan']}  {row['team'] or '-'}  {row['display_name']}{role}")


@user.command("disable")
@click.argument("name")
@click.pass_obj
def user_disable(obj: Context, name: str) -> None:
    """Shut a user out at once: sign-in, sessions, and the tokens issued to them until now."""
    config = obj.gateway_config()

    async def disable() -> bool:
        async with opened_users(config) as (users, _):
            return await users.disable(name)

    _require_user(run(disable()), name)
    click.echo(f"disabled {account_name(name)}", err=True)


@user.command("enable")
@click.argument("name")
@click.pass_obj
def user_enable(obj: Context, name: str) -> None:
    """Let a user sign in again; tokens that were revoked stay revoked."""
    config = obj.gateway_config()

    async def enable() -> bool:
        async with opened_users(config) as (users, _):
            return await users.enable(name)

    _require_user(run(enable()), name)
    click.echo(f"enabled {account_name(name)}", err=True)


@user.command("admin")
@click.argument("name")
@click.option("--revoke", is_flag=True, help="not any longer")
@click.pass_obj
def user_admin(obj: Context, name: str, *, revoke: bool) -> None:
    """Let a user see the admin page: operate the engine, see everybody's usage, change plans. Within seconds."""
    config = obj.gateway_config()

    async def change() -> bool:
        async with opened(config) as store:
            return await store.users.change(account_name(name), admin=not revoke)

    _require_user(run(change()), name)
    click.echo(f"{account_name(name)} is {'no longer ' if revoke else ''}an admin", err=True)


def _ask_password(*, from_stdin: bool) -> tuple[str, bool]:
    """The password to set, and whether it was made here."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n"), False
    if sys.stdin.isatty():
        typed: str = click.prompt(
            "Password (empty: make one)",
            default="",
            show_default=False,
            hide_input=True,
            confirmation_prompt=True,
            err=True,
        )
        if typed:
            return typed, False
    return generate_password(), True


def _say_password(message: str, password: str, *, generated: bool) -> None:
    click.echo(message, err=True)
    if generated:
        click.echo(password)


def _require_user(found: bool, name: str) -> None:
    if not found:
        raise click.ClickException(f"there is no user {account_name(name)}")
