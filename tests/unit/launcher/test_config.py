"""The engine's settings, command line and environment."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from launcher.config import (
    MAX_WARMUP_LENGTHS,
    REFUSED_FLAGS,
    EngineSettings,
    contradiction,
    engine_argv,
    engine_environment,
    engine_url,
)


def test_default_argv_is_the_reference_box():
    """The defaults start gpt-oss-20b with tensor parallel 2 and 8K context, exactly so."""
    assert engine_argv(EngineSettings(), 8000) == [
        *("vllm", "serve", "openai/gpt-oss-20b", "--host", "127.0.0.1", "--port", "8000"),
        *("--served-model-name", "gpt-oss-20b", "--tensor-parallel-size", "2", "--max-model-len", "8192"),
        *("--gpu-memory-utilization", "0.9", "--enable-prefix-caching", "--scheduling-policy", "priority"),
        *("--shutdown-timeout", "20", "--enable-prompt-tokens-details", "--enable-request-id-headers"),
    ]


def test_argv_of_other_settings():
    """Every field that has a flag reaches the command line, extra_args last and untouched."""
    settings = EngineSettings(
        command=["/opt/vllm/bin/vllm"],
        model="/models/tiny",
        served_model_name="tiny",
        tensor_parallel_size=1,
        max_num_seqs=16,
        api_servers=4,
        enable_prefix_caching=False,
        scheduling_policy="fcfs",
        extra_args=["--dtype", "bfloat16", "--chat-template", "/etc/template with space.jinja"],
    )
    argv = engine_argv(settings, 18000)
    assert argv[:3] == ["/opt/vllm/bin/vllm", "serve", "/models/tiny"]
    assert argv[-4:] == settings.extra_args
    assert argv[-8:-4] == ["--max-num-seqs", "16", "--api-server-count", "4"]
    assert "--no-enable-prefix-caching" in argv
    assert argv[argv.index("--scheduling-policy") + 1] == "fcfs"


def test_simulator_takes_the_same_flags_and_its_knobs():
    """kind: simulated runs our own module with this Python; knobs become --sim- flags."""
    knobs = {"tokens_per_second": 50, "tree": True, "control": False, "ttft": 0.25}
    argv = engine_argv(EngineSettings(kind="simulated", simulator=knobs), 1234)
    real = engine_argv(EngineSettings(), 1234)
    assert argv[:3] == [sys.executable, "-m", "launcher.simulator"]
    assert argv[3 : 3 + len(real) - 1] == real[1:]
    assert argv[len(real) + 2 :] == ["--sim-tokens-per-second", "50", "--sim-tree", "--sim-ttft", "0.25"]


def test_environment_carries_the_key_and_none_of_our_secrets():
    """The key goes by environment, Gatehouse's own variables do not go at all, `env` adds and overrides."""
    settings = EngineSettings(env={"HF_HOME": "/models/hub", "NO_COLOR": ""})
    base = {"PATH": "/bin", "GATEHOUSE_AUTH__SECRET": "s", "VLLM_API_KEY": "old", "HF_HOME": "/root"}
    assert engine_environment(settings, "key", base) == {
        "PATH": "/bin",
        "HF_HOME": "/models/hub",
        "NO_COLOR": "",
        "VLLM_LOGGING_COLOR": "0",
        "PYTHONUNBUFFERED": "1",
        "VLLM_API_KEY": "key",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
    }
    assert "key" not in engine_argv(settings, 1)


@settings(deadline=None)
@given(st.sampled_from(sorted(REFUSED_FLAGS)), st.sampled_from(["", "=x"]), st.booleans())
def test_contradicting_flags_are_refused_in_every_spelling(flag: str, value: str, underscores: bool):
    """A refused flag is refused as --flag, --flag=value and --fl_ag, and the message says what to do instead."""
    spelled = flag[:2] + flag[2:].replace("-", "_") if underscores else flag
    with pytest.raises(ValidationError, match="extra_args") as caught:
        EngineSettings(extra_args=[spelled + value])
    assert REFUSED_FLAGS[flag] in str(caught.value)


@pytest.mark.parametrize(
    "arg",
    [
        "--hos",
        "--ho=0.0.0.0",
        "--api-k",
        "--ud",
        "--root",
        "--ssl-key",
        "--por",
        "--served",
        "--tensor",
        "-tp",
        "-tp=4",
        "-tp4",
    ],
)
def test_abbreviations_are_refused(arg: str):
    """Argparse takes any unambiguous beginning of a flag, so the beginnings are refused too."""
    assert contradiction(arg)


@pytest.mark.parametrize(
    "arg",
    [
        *(
            "--dtype",
            "bfloat16",
            "--model-impl",
            "--config-format=hf",
            "--enforce-eager",
            "-O3",
            "--max-num-batched-tokens",
        ),
        *(
            "--tool-call-parser=openai",
            "/models/x",
            "-",
            "--",
            "--load-format",
            "--served-by-nobody",
            "127.0.0.1",
            "--seed=1",
        ),
    ],
)
def test_other_flags_pass(arg: str):
    """What does not touch the gateway's ground is passed through."""
    assert contradiction(arg) is None


def test_every_contradiction_is_named_at_once():
    """All wrong extra_args stand in one message."""
    with pytest.raises(ValidationError) as caught:
        EngineSettings(extra_args=["--host", "0.0.0.0", "--dtype", "auto", "--api-key=x", "--uds", "/x"])
    assert all(flag in str(caught.value) for flag in ("--host:", "--api-key:", "--uds:"))


@pytest.mark.parametrize("name", ["VLLM_API_KEY", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE"])
def test_owned_variables_are_refused(name: str):
    """`env` cannot take over what Gatehouse sets itself."""
    with pytest.raises(ValidationError, match=name):
        EngineSettings(env={name: "1"})


def test_external_needs_its_url_and_only_external():
    """An external engine has a URL; one that is started here has not."""
    assert engine_url(EngineSettings(kind="external", url="http://10.0.0.7:8000/"), 0) == "http://10.0.0.7:8000"
    for wrong in ({"kind": "external"}, {"kind": "external", "url": "10.0.0.7:8000"}, {"url": "http://x"}):
        with pytest.raises(ValidationError, match="url"):
            EngineSettings(**wrong)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9"),
        ("0.0.0.0", "http://127.0.0.1:9"),
        ("::", "http://[::1]:9"),
        ("::1", "http://[::1]:9"),
    ],
)
def test_url_of_an_owned_engine(host: str, url: str):
    """An engine that listens everywhere is reached over loopback."""
    assert engine_url(EngineSettings(host=host), 9) == url


def test_every_field_is_described():
    """Each key of the section has a default and a description."""
    for name, field in EngineSettings.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name


@pytest.mark.parametrize(
    ("endpoint", "protocol"),
    [
        ("http://127.0.0.1:4318/v1/traces", "http/protobuf"),
        ("http://127.0.0.1:4317", "grpc"),
        ("grpc://c:4317/", "grpc"),
    ],
)
def test_where_vllm_sends_its_spans(endpoint: str, protocol: str) -> None:
    """The flag, and the variable by which vLLM chooses its exporter; a setting of `env` comes before it."""
    settings = EngineSettings(otlp_traces_endpoint=endpoint)
    argv = engine_argv(settings, 1)
    assert argv[argv.index("--otlp-traces-endpoint") + 1] == endpoint
    assert engine_environment(settings, "key", {})["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == protocol
    own = EngineSettings(otlp_traces_endpoint=endpoint, env={"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "mine"})
    assert engine_environment(own, "key", {})["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "mine"
    assert "--otlp-traces-endpoint" not in engine_argv(EngineSettings(), 1)


@pytest.mark.parametrize("endpoint", ["localhost:4317", "http://", "ftp://c"])
def test_an_address_of_spans_that_is_none(endpoint: str) -> None:
    """The message says what it may look like."""
    with pytest.raises(ValueError, match="must be a URL: http://HOST:4318/v1/traces"):
        EngineSettings(otlp_traces_endpoint=endpoint)


def test_a_range_of_lengths_reaches_every_multiple_of_32():
    """What the documentation advises: beyond a graph of 1,024 tokens one number in each 32, none of them divisible by 16."""
    lengths = EngineSettings(warmup_lengths=[{"first": 1025, "last": 8191}]).warmup_prompt_lengths
    assert {-(-length // 32) * 32 for length in lengths} == set(range(1056, 8193, 32))
    assert len(lengths) == 224
    assert all(length % 16 for length in lengths)


_lengths = st.integers(-2, 9000)
_ranges = st.fixed_dictionaries({"first": _lengths, "last": _lengths, "step": st.integers(-1, 9000)})


@settings(deadline=None)
@given(st.lists(_lengths | _ranges, max_size=5), st.integers(1, 9000))
def test_a_warm_up_is_bounded(given: list[int | dict[str, int]], max_model_len: int):
    """Whatever is given is refused, or is prompts that the model takes, and not too many."""
    try:
        engine = EngineSettings(warmup_lengths=given, max_model_len=max_model_len)
    except ValidationError:
        return
    lengths = engine.warmup_prompt_lengths
    assert len(lengths) <= MAX_WARMUP_LENGTHS
    assert all(0 < length < max_model_len for length in lengths)
    assert all((one if isinstance(one, int) else one["first"]) in lengths for one in given)
