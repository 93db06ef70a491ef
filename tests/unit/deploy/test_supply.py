"""The bill of materials has everything that is locked and vendored; the audit reports, and fails nothing."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def supply(*words: str) -> str:
    argv = [sys.executable, str(ROOT / "tools/supply.py"), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    return json.loads(supply("sbom"))


def test_everything_that_is_locked_is_in_it_with_its_hashes(bill: dict[str, Any]) -> None:
    """Each pin of requirements.lock is a component with all of the pin's hashes, and there is no other of PyPI's."""
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", lock, re.MULTILINE))
    python = {each["name"]: each for each in bill["components"] if each.get("purl", "").startswith("pkg:pypi/")}
    assert {name: each["version"] for name, each in python.items()} == pins
    hashes = {entry["content"] for each in python.values() for entry in each["externalReferences"][0]["hashes"]}
    assert hashes == set(re.findall(r"sha256:([0-9a-f]{64})", lock))
    assert "aiohttp" in pins


def test_vendored_files_are_in_it_as_they_are_on_disk(bill: dict[str, Any]) -> None:
    """Each file that VENDOR.json names, with the SHA-256 of what lies there; each npm package with its licence."""
    files = {each["name"]: each["hashes"][0]["content"] for each in bill["components"] if each["type"] == "file"}
    assert any(name.endswith(".js") for name in files)
    assert files == {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in files}
    npm = [each for each in bill["components"] if each.get("purl", "").startswith("pkg:npm/")]
    assert "dompurify" in {each["name"] for each in npm}
    assert all(each["licenses"] for each in npm)


def test_it_is_the_same_twice(bill: dict[str, Any]) -> None:
    """No time and no chance in it: a difference is a change of what Gatehouse is made of."""
    assert json.loads(supply("sbom")) == bill
    references = [each["bom-ref"] for each in bill["components"]]
    assert len(references) == len(set(references))


@pytest.fixture
def osv() -> Iterator[str]:
    """A service that knows something against aiohttp."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            known = [{"vulns": [{"id": "GHSA-1"}]} if each["package"]["name"] == "aiohttp" else {} for each in asked]
            body = json.dumps({"results": known}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_audit_names_what_is_known(osv: str, bill: dict[str, Any]) -> None:
    """One line an advisory, and how many packages were asked about; exit code 0."""
    first, last = supply("audit", "--osv", osv).splitlines()
    assert re.fullmatch(r"aiohttp [\d.]+: GHSA-1  https://osv.dev/GHSA-1", first)
    packages = sum("purl" in each for each in bill["components"])
    assert last == f"{packages} packages audited, 1 advisories"


def test_without_a_network_the_audit_says_so() -> None:
    """No answer is not `nothing found`; exit code 0 all the same."""
    assert supply("audit", "--osv", "http://127.0.0.1:1").startswith("not audited: http://127.0.0.1:1 gave no answer")
