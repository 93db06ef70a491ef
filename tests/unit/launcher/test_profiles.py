"""The profiles in deploy/: plain files that load, each for what its name says."""

import os
from pathlib import Path

import pytest

from gatehouse.settings import Sections, load

PROFILES = Path(__file__).parents[3] / "deploy" / "profiles"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    """Nothing of this machine's configuration."""
    for name in [name for name in os.environ if name.startswith("GATEHOUSE_")]:
        monkeypatch.delenv(name)


def test_these_are_all():
    """Each profile has its test here."""
    assert {path.name for path in PROFILES.iterdir()} == {"dual-gpu.yaml", "single-gpu.yaml", "cpu.yaml", "demo.yaml"}


def test_dual_gpu_is_the_default():
    """The reference box needs no file at all."""
    assert load(PROFILES / "dual-gpu.yaml").model_dump() == Sections().model_dump()


def test_single_gpu_differs_in_one_thing():
    """One GPU instead of two."""
    single, both = load(PROFILES / "single-gpu.yaml").model_dump(), Sections().model_dump()
    assert single["engine"].pop("tensor_parallel_size") == 1
    assert both["engine"].pop("tensor_parallel_size") == 2
    assert single == both


def test_demo_is_the_demo():
    """The same as --demo."""
    assert load(PROFILES / "demo.yaml").model_dump() == load(None, demo=True).model_dump()


def test_cpu_is_like_the_one_that_the_tests_run():
    """Flags and variables of deploy/cpu, which really starts vLLM; only model and sizes differ."""
    profile, tried = load(PROFILES / "cpu.yaml").engine, load(PROFILES.parent / "cpu" / "gatehouse.yaml").engine
    assert profile.extra_args == tried.extra_args
    assert set(profile.env) <= set(tried.env)
    assert profile.tensor_parallel_size == tried.tensor_parallel_size == 1
