"""gatehouse.yaml and the environment → one frozen value, or a list of everything that is wrong with them.

Precedence: GATEHOUSE_SECTION__KEY variables, then the file, then the defaults.
"""

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from gateway.chat.settings import ChatSettings
from gateway.config import (
    DEFAULT_PLANS,
    AuthSettings,
    DatabaseSettings,
    GatewaySettings,
    LimitsSettings,
    LoggingSettings,
    PlanSettings,
    RedisSettings,
    TracingSettings,
)
from launcher.config import EngineSettings

PREFIX = "GATEHOUSE_"
# read elsewhere: by the command line, and by deploy/cpu
_OWN_VARIABLES = {"GATEHOUSE_CONFIG", "GATEHOUSE_STATE_DIR", "GATEHOUSE_CACHE", "GATEHOUSE_TORCH"}


class Sections(BaseModel):
    """The sections of gatehouse.yaml, each documented where it is used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: EngineSettings = EngineSettings()
    gateway: GatewaySettings = GatewaySettings()
    redis: RedisSettings = RedisSettings()
    database: DatabaseSettings = DatabaseSettings()
    auth: AuthSettings = AuthSettings()
    plans: dict[str, PlanSettings] = DEFAULT_PLANS
    limits: LimitsSettings = LimitsSettings()
    logging: LoggingSettings = LoggingSettings()
    tracing: TracingSettings = TracingSettings()
    chat: ChatSettings = ChatSettings()

    @field_validator("plans", mode="before")
    @classmethod
    def _on_top_of_the_defaults(cls, plans: Any) -> Any:
        """A plan that changes one figure of a default one keeps the others: a limit is lifted with null only."""
        if not isinstance(plans, dict):
            return plans
        merged: dict[str, Any] = {**DEFAULT_PLANS, **plans}
        for name, default in DEFAULT_PLANS.items():
            if isinstance(merged[name], dict):
                merged[name] = default.model_dump() | merged[name]
        return merged

    @model_validator(mode="after")
    def _plans_exist(self) -> Self:
        named = {"auth.default_plan": self.auth.default_plan, "auth.user_plan": self.auth.user_plan}
        for number, issuer in enumerate(self.auth.issuers):
            named[f"auth.issuers.{number}.default_plan"] = issuer.default_plan or self.auth.default_plan
            named |= {f"auth.issuers.{number}.plan_names.{group}": plan for group, plan in issuer.plan_names.items()}
        wrong = [f"{key}: there is no plan {plan!r}" for key, plan in named.items() if plan not in self.plans]
        if wrong:
            raise ValueError(f"{'; '.join(wrong)}; plans are {', '.join(sorted(self.plans))}")
        return self


class ConfigError(Exception):
    """The configuration is wrong; `problems` names every wrong key with what was expected."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(file: Path | None, *, demo: bool = False) -> Sections:
    """Read the settings. `demo` puts the simulated engine in the engine's place. Raises ConfigError."""
    problems = _misspelt_variables(os.environ)
    if file is not None and (unreadable := _unreadable(file)):
        raise ConfigError([*problems, *unreadable])

    class Source(BaseSettings, Sections):
        model_config = SettingsConfigDict(
            env_prefix=PREFIX, env_nested_delimiter="__", yaml_file=file, frozen=True, extra="forbid"
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is the library's
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, YamlConfigSettingsSource(settings_cls)

    try:
        settings = Source(**(_DEMO if demo else {}))
    except ValidationError as error:
        problems += [_sentence(dict(problem)) for problem in error.errors()]
    except SettingsError as error:  # a variable that should hold JSON: a list, or a section as a whole
        problems.append(f"{error}; it must be JSON")
    if problems:
        raise ConfigError(problems)
    return settings


# a free port: a demo may run beside a real engine, or another demo
_DEMO: dict[str, Any] = {"engine": {"kind": "simulated", "port": 0}, "logging": {"format": "console"}}


def _misspelt_variables(environ: Mapping[str, str]) -> list[str]:
    """A variable that names no section would be ignored in silence; its author meant something by it."""
    sections = {name.upper() for name in Sections.model_fields}
    names = (name for name in environ if name.upper().startswith(PREFIX) and name.upper() not in _OWN_VARIABLES)
    return [_no_section(name) for name in sorted(names) if _section_of(name) not in sections]


def _section_of(variable: str) -> str:
    return variable.upper().removeprefix(PREFIX).partition("__")[0]


def _no_section(variable: str) -> str:
    section, _, key = variable.upper().removeprefix(PREFIX).partition("_")
    if section.lower() in Sections.model_fields and key:
        return f"{variable}: two underscores stand between section and key: {PREFIX}{section}__{key}"
    return f"{variable}: there is no such section; sections are {', '.join(sorted(Sections.model_fields))}"


class _DuplicateKeyError(Exception):
    """A key stands twice in one mapping: YAML forbids it, PyYAML takes the last one in silence."""


class _UniqueKeys(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise _DuplicateKeyError(f"the key {name!r} stands twice (line {node.start_mark.line + 1} and below)")
        return super().construct_mapping(node, deep)


def _unreadable(file: Path) -> list[str]:
    try:
        content = yaml.load(file.read_text("utf-8"), _UniqueKeys)  # noqa: S506 - a SafeLoader
    except OSError as error:
        return [f"{file}: cannot be read: {error.strerror}"]
    except UnicodeDecodeError:
        return [f"{file}: is not UTF-8"]
    except _DuplicateKeyError as error:
        return [f"{file}: {error}"]
    except yaml.YAMLError as error:
        told = " ".join(str(error).replace('in "<unicode string>",', "at").split())
        return [f"{file}: is not YAML: {told}"]
    if content is not None and not isinstance(content, dict):
        return [f"{file}: must hold sections ({', '.join(Sections.model_fields)}), not {type(content).__name__}"]
    return []


def _sentence(problem: dict[str, Any]) -> str:
    """`gateway.port: must be less than or equal to 65535, got 99999`."""
    if not problem["loc"]:  # between sections: the message names the keys
        return str(problem["msg"]).removeprefix("Value error, ")
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{where}: there is no such key{_expected(problem['loc'])}"
    if problem["type"] == "model_type":
        return f"{where}: must hold keys ({', '.join(_keys(problem['loc']))}), got {problem['input']!r}"
    message = str(problem["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    given = problem.get("input")
    return f"{where}: {message}" + (f", got {given!r}" if isinstance(given, str | int | float) else "")


def _expected(loc: tuple[int | str, ...]) -> str:
    """What an unknown key may have been meant to be."""
    known = _keys(loc[:-1])
    close = difflib.get_close_matches(str(loc[-1]), known, 1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def _keys(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at `loc` knows; names and numbers of a mapping's or list's items are passed over."""
    section: type[BaseModel] = Sections
    for part in loc:
        if (field := section.model_fields.get(str(part))) is not None:
            section = next(_sections(field.annotation), section)
    return sorted(section.model_fields)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)
