"""What every command shares: the settings, the state directory, and the secrets kept in it."""

import contextlib
import os
import secrets
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile

from pydantic import SecretStr

from gatehouse.settings import ConfigError, Sections, load
from gateway.config import Config, EngineTarget

ENGINE_SOCKET = "engine.sock"
# the gateway gives its idle connections up well before the engine does: no request meets a closing connection
IDLE_SHARE = 0.5


@dataclass
class Context:
    """One call of the command. Reads the settings when they are first needed; ConfigError when they are wrong."""

    config_file: Path | None = None
    chosen_state_dir: Path | None = None
    demo: bool = False

    @cached_property
    def settings(self) -> Sections:
        """The effective settings."""
        return load(self.config_file, demo=self.demo)

    @property
    def state_path(self) -> Path:
        """Where everything that must last is kept, whether it is there or not."""
        return (self.chosen_state_dir or _default_state_dir(demo=self.demo)).absolute()

    @cached_property
    def state_dir(self) -> Path:
        """The same folder; made, with mode 0700, when it is missing."""
        try:
            self.state_path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError([f"--state-dir: {self.state_path} cannot be made: {error.strerror}"]) from None
        return self.state_path

    def engine_api_key(self) -> str:
        """The key between gateway and engine; made once, mode 0600, the same for both halves."""
        if (given := self.settings.engine.api_key_file) is not None:
            return _read_key(given)
        file = self.state_dir / "engine.key"
        if not file.exists():
            # written aside and linked into place: whoever starts beside us sees the whole key or none
            with NamedTemporaryFile("w", dir=self.state_dir, encoding="ascii") as draft:  # mode 0600
                draft.write(secrets.token_urlsafe(32))
                draft.flush()
                with contextlib.suppress(FileExistsError):
                    os.link(draft.name, file)
        return file.read_text("ascii")

    def gateway_config(self) -> Config:
        """What the gateway is told."""
        settings = self.settings
        engine = settings.engine
        target = EngineTarget(
            url=engine.url,
            api_key=SecretStr(self.engine_api_key()),
            status_socket=self.state_dir / ENGINE_SOCKET if engine.owned else None,
            model=engine.served_model_name,
            max_model_len=engine.max_model_len,
            keep_alive_seconds=engine.keep_alive_seconds * IDLE_SHARE if engine.owned else 4,
        )
        return Config(
            state_dir=self.state_dir,
            engine=target,
            **{name: getattr(settings, name) for name in Sections.model_fields if name != "engine"},
        )


def _read_key(file: Path) -> str:
    try:
        if key := file.read_text("ascii").strip():
            return key
        raise ConfigError([f"engine.api_key_file: {file} is empty"])
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is not ASCII"
        raise ConfigError([f"engine.api_key_file: {file}: {why}"]) from None


def _default_state_dir(*, demo: bool) -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / ("gatehouse-demo" if demo else "gatehouse")
