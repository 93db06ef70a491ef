"""Plans and limits are taken over while the gateway runs: on SIGHUP, or when the file has changed.

Nothing that runs is interrupted. A file that is wrong changes nothing, and every mistake in it is logged. Other
sections take a restart; where they have changed, that is said.
"""

import asyncio
import logging
from pathlib import Path

from gatehouse.context import Context
from gatehouse.notifying import reloading, serving
from gatehouse.settings import ConfigError
from gateway.app import Gateway
from gateway.config import Config

LOOK_SECONDS = 1.0  # between two looks at the file
RELOADED = ("plans", "limits")
_log = logging.getLogger("gatehouse.gateway")


class Reloader:
    """Follows the file of a context. `hang_up` is set by SIGHUP."""

    def __init__(self, context: Context, hang_up: asyncio.Event) -> None:
        self._context = context
        self._hang_up = hang_up
        self._config = context.gateway_config()
        self._mark = _mark(context.config_file)

    async def follow(self, gateway: Gateway) -> None:
        """Keep the gateway's plans and limits those of the file, until cancelled."""
        while True:
            asked = await self._asked_within(LOOK_SECONDS)
            mark = await asyncio.to_thread(_mark, self._context.config_file)
            if asked or mark != self._mark:
                self._mark = mark
                reloading()
                await self._reload(gateway)
                serving()

    async def _asked_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._hang_up.wait()
        except TimeoutError:
            return False
        self._hang_up.clear()
        return True

    async def _reload(self, gateway: Gateway) -> None:
        source = Context(self._context.config_file, self._context.chosen_state_dir, self._context.demo)
        try:
            config = await asyncio.to_thread(source.gateway_config)
            gateway.reload(config)
        except (ConfigError, ValueError, OSError) as error:
            problems = error.problems if isinstance(error, ConfigError) else [str(error)]
            _log.error("configuration: not taken over, what was in force stays: %s", "; ".join(problems))
            return
        _log.warning("configuration: plans and limits are taken over")
        if others := _changed(self._config, config):
            _log.warning("configuration: %s changed, too; that takes a restart", ", ".join(others))


def _changed(old: Config, new: Config) -> list[str]:
    return [name for name in Config.model_fields if name not in RELOADED and getattr(old, name) != getattr(new, name)]


def _mark(file: Path | None) -> tuple[int, int, int] | None:
    """What changes when the file does; None: there is none."""
    if file is None:
        return None
    try:
        stat = file.stat()  # of what a link leads to: configuration maps are swapped that way
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
