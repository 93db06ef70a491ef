"""gatehouse.example.yaml is the defaults, all of them, explained."""

import re
from pathlib import Path

import yaml

from gatehouse.settings import Sections, load

EXAMPLE = Path(__file__).parents[3] / "gatehouse.example.yaml"
_KEY = re.compile(r" +(\w+):(?P<value>[^#]*)(?P<comment>#.*)?")


def test_the_example_is_the_defaults() -> None:
    """Key by key and value by value: nothing is missing, nothing is out of date."""
    assert yaml.safe_load(EXAMPLE.read_text("utf-8")) == Sections().model_dump(mode="json")


def test_the_keys_stand_in_the_schemas_order() -> None:
    """Whoever compares `config show` with the example reads both from top to bottom."""
    written = yaml.safe_load(EXAMPLE.read_text("utf-8"))
    shown = Sections().model_dump(mode="json")
    assert list(written) == list(shown)
    for name, section in shown.items():
        assert list(written[name]) == list(section), name


def test_the_example_is_a_valid_config() -> None:
    """It can be used as it is."""
    load(EXAMPLE)


def test_every_key_is_explained() -> None:
    """Each line with a value says what it means; a section and a plan have their text above them."""
    lines = EXAMPLE.read_text("utf-8").splitlines()
    silent = [line for line in lines if (key := _KEY.fullmatch(line)) and key["value"].strip() and not key["comment"]]
    assert silent == []
    sections = [number for number, line in enumerate(lines) if re.match(r"\w", line)]
    assert len(sections) == len(Sections.model_fields)
    assert all(lines[number - 1].startswith("# ") for number in sections)
