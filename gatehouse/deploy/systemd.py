"""The systemd units of engine and gateway, from the templates in deploy/systemd. Pure.

Two units and not one that runs `gatehouse up`: the gateway can be upgraded, restarted and can crash without the minutes
that a model takes to load. They are stopped in order, the gateway first.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final

from gatehouse.deploy.templates import fill, find_templates
from gatehouse.settings import Sections

_SPARE_SECONDS: Final = 30  # beyond the sum of what each step of a stop may take
_SECOND_LOOK: Final = 2  # SIGTERM is sent twice before SIGKILL


@dataclass(frozen=True)
class Services:
    """What the units run, and for how long they may stop."""

    settings: Sections
    program: str
    user: str = "gatehouse"
    config_file: str = "/etc/gatehouse/gatehouse.yaml"

    @property
    def gateway_stop_seconds(self) -> int:
        """Long enough for running streams."""
        return ceil(self.settings.gateway.drain_seconds) + _SPARE_SECONDS

    @property
    def engine_stop_seconds(self) -> int:
        """Long enough for running requests, both signals and the proof that nothing is left."""
        engine = self.settings.engine
        return ceil(engine.shutdown_timeout + _SECOND_LOOK * engine.stop_timeout + engine.kill_timeout) + _SPARE_SECONDS


def units(services: Services) -> dict[str, str]:
    """File name → content."""
    values = {
        "CONFIG": services.config_file,
        "ENGINE_STOP_SECONDS": str(services.engine_stop_seconds),
        "GATEWAY_STOP_SECONDS": str(services.gateway_stop_seconds),
        "PROGRAM": services.program,
        "USER": services.user,
    }
    folder = find_templates("systemd")
    return {path.name: fill(path.read_text("utf-8"), values) for path in sorted(folder.glob("*.service"))}
