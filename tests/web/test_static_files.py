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
    found = {path.name for path in (STATIC / "vendor").iterdir()}
    assert found == {*manifest["files"], "VENDOR.json"}
    for name, facts in manifest["files"].items():
        body = (STATIC / "vendor" / name).read_bytes()
        assert (len(body), hashlib.sha256(body).hexdigest()) == (facts["bytes"], facts["sha256"])
        assert all(package["licence"] and package["version"] for package in facts.get("packages", []))


def test_both_languages_have_every_text() -> None:
    """English and Chinese have the same keys and placeholders, and every key that the code names exists."""
    texts = {tag: _texts(STATIC / "js" / "locales" / f"{tag}.js") for tag in ("en", "zh-CN")}
    assert texts["en"].keys() == texts["zh-CN"].keys()
    for key, text in texts["en"].items():
        placeholders = re.findall(r"\{\w+\}", text)
        assert sorted(placeholders) == sorted(re.findall(r"\{\w+\}", texts["zh-CN"][key])), key
    apart = {"account.js", "account.texts.js"}  # fetched when it is opened, with texts of its own
    scripts = [
        path for path in (STATIC / "js").rglob("*.js") if path.parent.name != "locales" and path.name not in apart
    ]
    used = set(re.findall(r'\bt\("([\w.]+)"', "".join(path.read_text("utf-8") for path in scripts)))
    assert used <= texts["en"].keys()


def test_the_account_page_has_every_text_in_both_languages() -> None:
    """It is fetched apart from the chat, and so are its texts."""
    source = (STATIC / "js" / "view" / "account.texts.js").read_text("utf-8")
    english, chinese = source.split('"zh-CN": {')
    keys = [set(re.findall(r'^    "([\w.]+)":', part, re.MULTILINE)) for part in (english, chinese)]
    assert keys[0] == keys[1]
    used = set(re.findall(r'\bt\("([\w.]+)"', (STATIC / "js" / "view" / "account.js").read_text("utf-8")))
    assert used
    assert used <= keys[0]


def test_preloads_are_the_import_graph() -> None:
    """index.html preloads exactly the modules that main.js imports, directly or not."""
    graph: set[Path] = set()
    waiting = [STATIC / "js" / "main.js"]
    while waiting:
        module = waiting.pop()
        imports = re.findall(r'^import[^"]*"(\.[^"]+)";', module.read_text("utf-8"), re.MULTILINE)
        found = {(module.parent / target).resolve() for target in imports} - graph
        graph |= found
        waiting += found
    preloaded = re.findall(r'rel="modulepreload" href="/static/([^"]+)"', (STATIC / "index.html").read_text("utf-8"))
    assert {STATIC / path for path in preloaded} == graph
    assert len(preloaded) == len(graph)


def _texts(path: Path) -> dict[str, str]:
    return dict(re.findall(r'^  "([\w.]+)": "(.*)",$', path.read_text("utf-8"), re.MULTILINE))
