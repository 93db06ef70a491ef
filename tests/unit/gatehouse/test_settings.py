"""gatehouse.yaml and the environment: what is in force, and what is said of mistakes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gatehouse.cli import main
from gatehouse.settings import ConfigError, Sections, load
from gateway.config import DEFAULT_PLANS

FIVE_MISTAKES = """
engine: {kind: llama, tensor_parallel_size: 0}
gateway: {port: 99999, prot: 8080}
plans:
  member: {requests_per_minute: -1}
"""
WHERE = (
    "engine.kind",
    "engine.tensor_parallel_size",
    "gateway.port",
    "gateway.prot",
    "plans.member.requests_per_minute",
)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("GATEHOUSE_")]:
        monkeypatch.delenv(name)


def written(folder: Path, text: str) -> Path:
    file = folder / "gatehouse.yaml"
    file.write_text(text, "utf-8")
    return file


def problems(file: Path | None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file)
    return caught.value.problems


def gatehouse(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as a shell does."""
    return subprocess.run(
        [sys.executable, "-m", "gatehouse", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_five_mistakes_are_reported_at_once_and_nothing_starts(tmp_path: Path) -> None:
    """`gatehouse up` names each wrong key on a line of its own, exits with 2, and has not even made its state folder."""
    state_dir = tmp_path / "state"
    done = gatehouse("up", "--config", written(tmp_path, FIVE_MISTAKES), "--state-dir", state_dir)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert "nothing was started" in lines[0]
    assert [line.strip().partition(":")[0] for line in lines[1:]] == list(WHERE)
    assert not state_dir.exists()


@pytest.mark.parametrize("command", [["engine"], ["gateway"], ["config", "show"], ["token", "list"], ["user", "list"]])
def test_every_command_refuses_a_wrong_file(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same file means the same everywhere: no command works with half of it."""
    monkeypatch.setattr(sys, "argv", ["gatehouse", *command, "--config", str(written(tmp_path, FIVE_MISTAKES))])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert all(where in told for where in WHERE)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gateway: {port: 99999}", "gateway.port: must be less than or equal to 65535, got 99999"),
        ("gatway: {}", "gatway: there is no such key; did you mean gateway?"),
        ("gateway: {prot: 1}", "gateway.prot: there is no such key; did you mean port?"),
        ("chat: {ui: {enter: 1}}", "chat.ui.enter: there is no such key; there are flush_ms, max_attach_kb, send_key"),
        ("plans: {member: {rpm: 3}}", "plans.member.rpm: there is no such key; there are concurrent_requests, "),
        (
            "limits: {team: {red: {tokens_per_dy: 3}}}",
            "limits.team.red.tokens_per_dy: there is no such key; did you mean",
        ),
        ("gateway: 7", "gateway: must hold keys (admin_host, admin_port, "),
        ("- gateway", "must hold sections (engine, "),
        ("gateway: {port: 1", "is not YAML"),
        ("auth: {default_plan: gold}", "auth.default_plan: there is no plan 'gold'; plans are member, service"),
        ("engine: {kind: external}", "engine: kind: external needs url"),
        ("engine: {max_model_len: 64, warmup_lengths: [64]}", "warmup_lengths must lie between 1 and 63"),
        ("engine: {warmup_lengths: [{first: 1, last: 8193}]}", "warmup_lengths must lie between 1 and 8191"),
        ("engine: {warmup_lengths: [{first: 1, last: 8000, step: 1}]}", "are 8000 prompts, more than 1024"),
        ("engine: {warmup_lengths: [{first: 9, last: 8}]}", "last must not be below first, 9, got 8"),
        (
            "engine: {warmup_lengths: [{frist: 9, last: 8, first: 1}]}",
            "frist: there is no such key; did you mean first",
        ),
        ("engine: {warmup_lengths: [many]}", "engine.warmup_lengths.0.length: must be a valid integer"),
        ("engine: {extra_args: [--port, '1']}", "engine.extra_args: may not hold --port: set engine.port"),
    ],
)
def test_a_mistake_says_where_and_what_was_expected(tmp_path: Path, text: str, told: str) -> None:
    """One line a mistake, with the key's full name."""
    [problem] = problems(written(tmp_path, text))
    assert told in problem


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file is an error, not the defaults: its author meant something by it."""
    assert problems(tmp_path / "none.yaml") == [f"{tmp_path}/none.yaml: cannot be read: No such file or directory"]
    (tmp_path / "latin.yaml").write_bytes(b"chat: {title: caf\xe9}")
    assert problems(tmp_path / "latin.yaml") == [f"{tmp_path}/latin.yaml: is not UTF-8"]


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    """Nothing needs to be configured."""
    assert load(written(tmp_path, "")).model_dump() == Sections().model_dump() == load(None).model_dump()


def test_variables_go_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GATEHOUSE_SECTION__KEY replaces one key and leaves its neighbours; lists are JSON."""
    monkeypatch.setenv("GATEHOUSE_GATEWAY__PORT", "8081")
    monkeypatch.setenv("GATEHOUSE_ENGINE__EXTRA_ARGS", '["--enforce-eager"]')
    settings = load(written(tmp_path, "gateway: {port: 1, admin_port: 2}\nengine: {max_model_len: 4096}"))
    assert (settings.gateway.port, settings.gateway.admin_port) == (8081, 2)
    assert (settings.engine.extra_args, settings.engine.max_model_len) == (["--enforce-eager"], 4096)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("GATEHOUSE_GATWAY__PORT", "1", "GATEHOUSE_GATWAY__PORT: there is no such section"),
        ("GATEHOUSE_GATEWAY_PORT", "1", "GATEHOUSE_GATEWAY_PORT: two underscores stand between section and key"),
        ("gatehouse_portt", "1", "gatehouse_portt: there is no such section"),
        ("GATEHOUSE_GATEWAY__PROT", "1", "gateway.prot: there is no such key"),
        ("GATEHOUSE_GATEWAY__PORT", "many", "gateway.port: must be a valid integer"),
    ],
)
def test_a_misspelt_variable_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    """It is not ignored in silence."""
    monkeypatch.setenv(name, value)
    [problem] = problems(None)
    assert problem.startswith(told)


def test_the_commands_own_variables_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """GATEHOUSE_CONFIG and GATEHOUSE_STATE_DIR stand for options."""
    monkeypatch.setenv("GATEHOUSE_CONFIG", "x")
    monkeypatch.setenv("GATEHOUSE_STATE_DIR", "x")
    load(None)


def test_a_list_in_a_variable_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no JSON is named, not thrown; the file's mistakes are told in the same breath."""
    monkeypatch.setenv("GATEHOUSE_ENGINE__EXTRA_ARGS", "--foo")
    assert "JSON" in problems(None)[0]
    monkeypatch.setenv("GATEHOUSE_ENGINE__EXTRA_ARGS", '["--foo"]')
    assert load(None).engine.extra_args == ["--foo"]


def test_variables_and_file_are_judged_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every problem at once, wherever it comes from."""
    monkeypatch.setenv("GATEHOUSE_GATEWAY_PORT", "1")
    told = problems(written(tmp_path, "engine: {kind: x}"))
    assert [line.split(":")[0] for line in told] == ["GATEHOUSE_GATEWAY_PORT", "engine.kind"]
    assert "GATEHOUSE_GATEWAY__PORT" in told[0]


def test_a_plan_keeps_the_limits_that_are_not_mentioned(tmp_path: Path) -> None:
    """Changing a default plan's priority must not lift its limits; null does."""
    plans = load(written(tmp_path, "plans: {member: {priority: 5, tokens_per_day: null}, big: {}}")).plans
    assert plans["member"].model_dump() == DEFAULT_PLANS["member"].model_dump() | {
        "priority": 5,
        "tokens_per_day": None,
    }
    assert plans["service"] == DEFAULT_PLANS["service"]
    assert plans["big"].requests_per_minute is None


def test_a_plan_that_does_not_exist(tmp_path: Path) -> None:
    """Whoever is given one, by the house or by an issuer: said at the start, not at the first request."""
    issuer = (
        "{name: corp, audience: a, issuer: 'https://x', jwks_file: /x, plan_names: {staff: gold}, default_plan: tin}"
    )
    [told] = problems(written(tmp_path, f"auth: {{user_plan: silver, issuers: [{issuer}]}}"))
    for key in ("auth.user_plan: ", "auth.issuers.0.default_plan: ", "auth.issuers.0.plan_names.staff: "):
        assert key in told


def test_a_key_that_stands_twice(tmp_path: Path) -> None:
    """PyYAML would take the last one in silence."""
    assert "'port' stands twice" in problems(written(tmp_path, "gateway: {port: 1, port: 2}"))[0]


def test_a_time_zone_that_does_not_exist(tmp_path: Path) -> None:
    """Said at the start, not at midnight."""
    assert problems(written(tmp_path, "limits: {time_zone: Mars/Base}"))[0].startswith(
        "limits.time_zone: must be a time zone"
    )


def test_a_state_directory_that_cannot_be_made() -> None:
    """A sentence, exit code 2, no traceback."""
    done = gatehouse("up", "--demo", "--state-dir", "/proc/nowhere")
    assert done.returncode == 2
    assert "/proc/nowhere cannot be made" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_show_prints_is_a_config_that_means_the_same(tmp_path: Path) -> None:
    """`config show` round-trips: its output, given back as the file, shows the same; every section and key is there."""
    text = "engine: {kind: external, url: 'http://10.0.0.7:8000'}\nlimits: {team: {red: {tokens_per_day: 5}}}\n"
    first = gatehouse("config", "show", "--config", written(tmp_path, text))
    second = gatehouse("config", "show", "--config", written(tmp_path, first.stdout))
    assert first.stdout == second.stdout
    shown = yaml.safe_load(first.stdout)
    assert shown["engine"]["url"] == "http://10.0.0.7:8000"
    assert shown["limits"]["team"]["red"]["tokens_per_day"] == 5
    assert shown.keys() == Sections.model_fields.keys()


def test_show_masks_secrets(tmp_path: Path) -> None:
    """A database URL holds a password."""
    done = gatehouse("config", "show", "--config", written(tmp_path, "database: {url: 'postgresql://u:hunter2@db/x'}"))
    assert done.returncode == 0
    assert "hunter2" not in done.stdout + done.stderr
    assert yaml.safe_load(done.stdout)["database"]["url"] == "**********"


def test_the_demo_takes_the_file_too(tmp_path: Path) -> None:
    """`--demo` replaces the engine's kind and port, and prints for people; the rest of the file counts."""
    settings = load(written(tmp_path, "engine: {kind: vllm, max_model_len: 1024}\nchat: {title: Ours}"), demo=True)
    assert (settings.engine.kind, settings.engine.port, settings.engine.max_model_len) == ("simulated", 0, 1024)
    assert (settings.logging.format, settings.chat.title) == ("console", "Ours")


def test_the_schema_knows_every_key() -> None:
    """`config schema` prints a JSON Schema with a property for each key, and none besides."""
    properties: dict[str, Any] = Sections.model_json_schema()["properties"]
    assert properties.keys() == Sections.model_fields.keys()
