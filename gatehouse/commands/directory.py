"""What the identity commands share: the settings they need, the store opened for one command, errors as messages."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from gateway.auth.keys import KeyFileError
from gateway.auth.passwords import Passwords
from gateway.auth.throttle import Throttle
from gateway.auth.users import InvalidName, Users
from gateway.config import Config
from gateway.errors import GatewayError
from gateway.store import Store, StoreError, database_address

T = TypeVar("T")


class Context(Protocol):
    """What these commands need of `ctx.obj`."""

    state_dir: Path

    def gateway_config(self) -> Config:
        """The effective settings of the gateway."""
        ...


def known_plan(config: Config, name: str) -> str:
    """The plan that an option names. Raises click.BadParameter."""
    if name not in config.plans:
        raise click.BadParameter(f"{name}: there are {', '.join(config.plans)}", param_hint="--plan")
    return name


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[Store]:
    """The store of this configuration, made and migrated as needed, closed at the end."""
    store = await Store.open(database_address(config))
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def opened_users(config: Config) -> AsyncIterator[tuple[Users, Store]]:
    """What can be done with users, and the store behind it."""
    passwords = Passwords()
    try:
        async with opened(config) as store:
            yield Users(store, config.auth, passwords, Throttle()), store
    finally:
        passwords.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do the work of one command. What went wrong becomes one line on stderr and exit code 1."""
    try:
        return asyncio.run(work)
    except (StoreError, KeyFileError, InvalidName, GatewayError) as error:
        raise click.ClickException(str(error)) from None


def when(seconds: float) -> str:
    """A time in Unix seconds for people to read, in UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):  # a token may claim any number
        return f"{seconds} (not a time)"
