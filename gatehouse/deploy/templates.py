"""The templates below deploy/: where they are, and how their @PLACEHOLDERS@ are filled."""

import re
from collections.abc import Mapping
from pathlib import Path

_PLACEHOLDER = re.compile(r"@([A-Z_]+)@")


def find_templates(name: str) -> Path:
    """The folder deploy/NAME: inside the installed package, or beside it in a checkout.

    Raises FileNotFoundError when it is in neither place.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "templates" / name, package.parent.parent / "deploy" / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the templates of {name} are missing from this installation")


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put `values` in the place of their @NAMES@. KeyError for a placeholder that has no value."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def is_whole(text: str) -> bool:
    """Whether no placeholder is left."""
    return _PLACEHOLDER.search(text) is None
