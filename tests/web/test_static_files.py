"""The chat's files, read without a browser: vendored code, both languages complete, preloads."""

import hashlib
import json
import re
from pathlib import Path

from gateway.chat.pages import find_static_dir

STATIC = find_static_dir()


def test_vendored_files_are_those_of_the_manifest() -> None:
    """Every file in static/vendor has the size and SHA-256 that VENDOR.json names, and every package a licence."""
    manifest = json.loads((STATIC / "vendor" / "VENDOR.json").read_text("utf-8"))
    vendor = STATIC / "vendor"
    found = {path.relative_to(vendor).as_posix() for path in vendor.rglob("*") if path.is_file()}
    assert found == {*manifest["files"], "VENDOR.json"}
    for name, facts in manifest["files"].items():
        body = (STATIC / "vendor" / name).read_bytes()
        assert (len(body), hashlib.sha256(body).hexdigest()) == (facts["bytes"], facts["sha256"])
        assert all(package["licence"] and package["version"] for package in facts.get("packages", []))


def test_both_languages_have_every_text() -> None:
    """English and Chinese have the same keys and placeholders, and every key that the code names exists where it is used.

    What opens over the chat brings its texts along: a module of the first load may only use those of the chat.
    """
    known: dict[str, set[str]] = {}
    for part in ("", "pages."):
        texts = {tag: _texts(STATIC / "js" / "locales" / f"{part}{tag}.js") for tag in ("en", "zh-CN")}
        assert texts["en"].keys() == texts["zh-CN"].keys()
        for key, text in texts["en"].items():
            placeholders = re.findall(r"\{\w+\}", text)
            assert sorted(placeholders) == sorted(re.findall(r"\{\w+\}", texts["zh-CN"][key])), key
        known[part] = set(texts["en"])
    assert known[""] & known["pages."] == set()
    first = _graph()
    for path in (STATIC / "js").rglob("*.js"):
        used = set(re.findall(r'\bt\("([\w.-]+)"', path.read_text("utf-8")))
        allowed = known[""] if path in first else known[""] | known["pages."]
        assert used <= allowed, (path.name, used - allowed)


def test_preloads_are_the_import_graph() -> None:
    """index.html preloads exactly the modules that main.js imports, directly or not."""
    preloaded = re.findall(r'rel="modulepreload" href="/static/([^"]+)"', (STATIC / "index.html").read_text("utf-8"))
    assert {STATIC / path for path in preloaded} == _graph() - {STATIC / "js" / "main.js"}
    assert len(preloaded) == len(set(preloaded))


def _graph() -> set[Path]:
    """The modules of the first load."""
    graph = {STATIC / "js" / "main.js"}
    waiting = [*graph]
    while waiting:
        module = waiting.pop()
        imports = re.findall(r'^import[^"]*"(\.[^"]+)";', module.read_text("utf-8"), re.MULTILINE)
        found = {(module.parent / target).resolve() for target in imports} - graph
        graph |= found
        waiting += found
    return graph


def _texts(path: Path) -> dict[str, str]:
    return dict(re.findall(r'^  "([\w.-]+)": "(.*)",$', path.read_text("utf-8"), re.MULTILINE))
