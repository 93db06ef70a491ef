"""docs/install.md can be followed: `tools/follow.py` does it in a clean root; here is what needs no root."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from gatehouse.settings import Sections
from tests.unit.deploy.test_deploy_command import EXPOSURE

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs/install.md").read_text("utf-8")


@pytest.fixture(scope="module")
def follow() -> ModuleType:
    """tools/follow.py as a module."""
    spec = importlib.util.spec_from_file_location("follow", ROOT / "tools/follow.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_block_is_found_and_is_shell(follow: ModuleType) -> None:
    """All blocks are taken, each parses, and those left out say why in words that are known."""
    blocks = list(follow.blocks(GUIDE))
    assert len(blocks) == GUIDE.count("```sh") > 15
    for block in blocks:
        subprocess.run(["bash", "-n", "-c", block.commands], check=True)
        assert re.fullmatch(r"|needs: (gpu|systemd|network|public name)|may fail: .+", block.mark), block.mark
    left_out = [block.heading for block in blocks if block.missing]
    assert left_out == ["## 1. The driver", "## 3. vLLM", "## 6. nginx and the certificate", "## PostgreSQL"]
    assert any(block.heading == follow.BOOTED_FROM for block in blocks)


def test_its_settings_are_settings(follow: ModuleType) -> None:
    """The file that the guide writes is a valid configuration."""
    (written,) = re.findall(r"gatehouse\.yaml <<'END'\n(.*?)END\n", GUIDE, re.DOTALL)
    settings = Sections.model_validate(yaml.safe_load(written))
    assert settings.gateway.workers == 2


def test_the_units_exposure_is_stated() -> None:
    """What systemd rated is what the guide says."""
    for name, exposure in EXPOSURE.items():
        assert f"`{name}` {exposure}" in GUIDE
