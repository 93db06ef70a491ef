"""What Gatehouse is made of: its bill of materials, and what is known against it.

    tools/supply.py sbom > sbom.json    # CycloneDX 1.6, from the lock file and static/vendor/VENDOR.json
    tools/supply.py audit               # a report; exit code 0 whatever it finds, and without a network

The audit asks OSV (https://osv.dev), which has the advisories that pip-audit and npm audit know, for all of it at once.
"""

import argparse
import base64
import json
import re
import sys
import tomllib
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

ROOT = Path(__file__).parents[1]
OSV = "https://api.osv.dev/v1/querybatch"
ANSWER_SECONDS = 20.0
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "gatehouse.sbom")


class Component(NamedTuple):
    """A package of one version, and the hashes of its files: (algorithm as CycloneDX writes it, hex)."""

    ecosystem: str
    name: str
    version: str
    hashes: tuple[tuple[str, str], ...]
    licence: str | None = None

    @property
    def purl(self) -> str:
        """https://github.com/package-url/purl-spec"""
        return f"pkg:{self.ecosystem.lower()}/{quote(self.name, safe='/')}@{self.version}"


def components() -> list[Component]:
    """Everything that runs: the locked Python packages and those that the page's vendored files are made of."""
    return [*_locked(ROOT / "requirements.lock"), *_vendored(ROOT / "static/vendor/VENDOR.json")]


def _locked(file: Path) -> Iterator[Component]:
    for entry in re.split(r"\n(?=\S)", file.read_text("utf-8")):
        if pin := _PIN.match(entry):
            hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)
            yield Component("PyPI", pin[1], pin[2], tuple(("SHA-256", each) for each in hashes))


def _vendored(file: Path) -> Iterator[Component]:
    files = json.loads(file.read_text("utf-8"))["files"].values()
    packages = {(each["name"], each["version"]): each for content in files for each in content.get("packages", ())}
    for (name, version), package in sorted(packages.items()):
        algorithm, _, digest = package["integrity"].partition("-")
        hashes = (f"SHA-{algorithm.removeprefix('sha')}", base64.b64decode(digest).hex())
        yield Component("npm", name, version, (hashes,), package["licence"])


def sbom() -> dict[str, Any]:
    """The bill of materials: the same for the same lock file, so that a change shows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    listed = [_listed(component) for component in components()]
    serial = uuid.uuid5(_NAMESPACE, json.dumps(listed))
    subject = {
        "type": "application",
        "bom-ref": project["name"],
        "name": project["name"],
        "version": project["version"],
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": {**subject, "licenses": [{"license": {"id": project["license"]}}]}},
        "components": [*listed, *_files(ROOT / "static/vendor")],
        "dependencies": [{"ref": subject["bom-ref"], "dependsOn": [each["bom-ref"] for each in listed]}],
    }


def _listed(component: Component) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "library", "bom-ref": component.purl, "name": component.name, "version": component.version,
        "purl": component.purl,
    }  # fmt: skip
    if component.licence:
        found["licenses"] = [{"expression": component.licence}]
    hashes = [{"alg": algorithm, "content": content} for algorithm, content in component.hashes]
    pages = {
        "PyPI": f"https://pypi.org/project/{component.name}/{component.version}/",
        "npm": f"https://www.npmjs.com/package/{component.name}/v/{component.version}",
    }
    return {
        **found,
        "externalReferences": [{"type": "distribution", "url": pages[component.ecosystem], "hashes": hashes}],
    }


def _files(folder: Path) -> Iterator[dict[str, Any]]:
    for name, content in json.loads((folder / "VENDOR.json").read_text("utf-8"))["files"].items():
        hashes = [{"alg": "SHA-256", "content": content["sha256"]}]
        yield {"type": "file", "bom-ref": f"static/vendor/{name}", "name": f"static/vendor/{name}", "hashes": hashes}


def audit(address: str) -> list[str]:
    """The report, line by line."""
    listed = components()
    queries = [
        {"package": {"name": each.name, "ecosystem": each.ecosystem}, "version": each.version} for each in listed
    ]
    request = urllib.request.Request(
        address, json.dumps({"queries": queries}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            results = json.load(answer)["results"]
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "reason", None) or error
        return [f"not audited: {address} gave no answer ({reason})"]
    found = [
        f"{each.name} {each.version}: {advisory['id']}  https://osv.dev/{advisory['id']}"
        for each, result in zip(listed, results, strict=True)
        for advisory in result.get("vulns", ())
    ]
    return [*found, f"{len(listed)} packages audited, {len(found)} advisories"]


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["sbom", "audit"])
    parser.add_argument("--osv", default=OSV, help="where advisories are asked for")
    chosen = parser.parse_args()
    if chosen.what == "sbom":
        json.dump(sbom(), sys.stdout, indent=1)
        print()
    else:
        print("\n".join(audit(chosen.osv)))


if __name__ == "__main__":
    main()
