"""Regular expressions, on every Python that runs the gateway."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = [file for folder in ("gateway", "launcher", "gatehouse") for file in sorted((ROOT / folder).rglob("*.py"))]
CHARACTER_CLASS = re.compile(r"(?<!\\)\[[^\]\n]*\]")
GROUP_REPEATED_POSSESSIVELY = re.compile(r"\)(?:[*+?]|\{\d*,?\d*\})\+")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_group_is_repeated_possessively(file: Path) -> None:
    """Before 3.11.5, so on Debian 12, such a pattern may match what it should not (CPython gh-100061)."""
    assert not GROUP_REPEATED_POSSESSIVELY.findall(CHARACTER_CLASS.sub("x", file.read_text("utf-8")))
