"""Dockerfile and deploy/compose, as far as they can be judged without a container engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from gatehouse.settings import load
from launcher.config import EngineSettings, engine_argv

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "deploy/compose"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((COMPOSE / "compose.yaml").read_text("utf-8"))


def test_the_image_is_built_from_what_it_copies(tmp_path: Path) -> None:
    """The wheel builds from the Dockerfile's COPY lines alone, and has the page, the templates and the migrations."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text("utf-8")
    source = tmp_path / "source"
    for line in lines:
        *names, target = line.split()
        for name in names:
            assert re.search(rf"^!{re.escape(name)}\b", ignored, re.MULTILINE), f"{name} is not in the build's context"
            to = source / target / (name if target in (".", "./") else "")
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, to)
    argv = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*argv, "--no-index", "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "gateway/static/index.html", "gateway/limits/acquire.lua", "gateway/store/migrations/env.py",
        "gatehouse/deploy/templates/nginx/gatehouse/server.conf",
        "gatehouse/deploy/templates/systemd/gatehouse-engine.service",
    } <= names  # fmt: skip


def test_the_image_is_locked_and_not_roots() -> None:
    """Dependencies come by hash, the process is a numbered user's, and the image says whether it is healthy."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    installs = re.findall(r"pip install (.+)", text)
    assert all("--require-hashes" in each or "--no-deps" in each for each in installs)
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK .*\\\n.*healthz", text, re.MULTILINE)


def test_only_nginx_faces_the_network(compose: dict[str, Any]) -> None:
    """Ports to the outside are nginx's; the engine, Redis and PostgreSQL are in a network that has no way out."""
    ports = {name: each["ports"] for name, each in compose["services"].items() if "ports" in each}
    assert ports.pop("nginx") == ["80:80", "443:443"]
    assert all(port.startswith("127.0.0.1:") for each in ports.values() for port in each)
    assert compose["networks"]["inside"]["internal"]
    assert compose["networks"]["metrics"]["internal"]
    assert (
        set(compose["services"]["redis"]["networks"]) == set(compose["services"]["postgres"]["networks"]) == {"inside"}
    )
    assert "inside" not in compose["services"]["nginx"]["networks"]


def test_images_have_versions_and_no_password_is_written_down(compose: dict[str, Any]) -> None:
    """No `latest`; each password comes from .env, and .env.example names all of them, empty."""
    images = [each["image"] for each in compose["services"].values() if "build" not in each]
    assert all(re.search(r":v?\d", image) for image in images)
    text = (COMPOSE / "compose.yaml").read_text("utf-8")
    asked = set(re.findall(r"(?<!\$)\$\{(\w+):\?", text))
    assert asked == set(re.findall(r"(?<!\$)\$\{(\w+)", text)), "each must be required"
    example = dict(re.findall(r"^(\w+)=(.*)$", (COMPOSE / ".env.example").read_text("utf-8"), re.MULTILINE))
    assert set(example) == asked
    assert all(not value for name, value in example.items() if name.endswith("PASSWORD"))


def test_the_engine_has_the_launchers_flags(compose: dict[str, Any]) -> None:
    """vLLM runs with every flag that `gatehouse engine` gives it: the gateway relies on them."""
    given = compose["services"]["engine"]["command"]
    wanted = [word for word in engine_argv(EngineSettings(), 8000) if word.startswith("--")]
    assert {word.split("=")[0] for word in given if word.startswith("--")} == set(wanted)


def test_what_the_engine_compiles_outlives_its_container(compose: dict[str, Any]) -> None:
    """Kernels and graphs lie in a named volume: a request waits for each that is missing."""
    engine = compose["services"]["engine"]
    [lasting] = [path for name, path in (each.split(":") for each in engine["volumes"]) if name == "compiled"]
    assert "compiled" in compose["volumes"]
    for variable in ("TRITON_CACHE_DIR", "VLLM_CACHE_ROOT"):
        assert engine["environment"][variable].startswith(lasting + "/")


def test_its_settings_hold(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """gatehouse.yaml with the environment of the compose file is a valid configuration, and nginx's address is nginx's."""
    for name, value in compose["services"]["gateway"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:[^}]*\}", "x", value))
    settings = load(COMPOSE / "gatehouse.yaml")
    address = compose["services"]["nginx"]["networks"]["front"]["ipv4_address"]
    assert [str(each) for each in settings.gateway.trusted_proxies] == [f"{address}/32"]
    assert settings.engine.url == "http://engine:8000"
    assert str(settings.engine.api_key_file) == f"/run/secrets/{compose['services']['gateway']['secrets'][0]}"


def test_nginxs_configuration_is_made_for_its_image(compose: dict[str, Any]) -> None:
    """docs/compose.md has `deploy nginx` write for the version that the compose file runs."""
    image = compose["services"]["nginx"]["image"]
    [version] = re.findall(r"--nginx-version (\S+)", (ROOT / "docs/compose.md").read_text("utf-8"))
    assert image == f"nginx:{version}-alpine"


def test_mounted_files_are_there_and_prometheus_takes_its_own(compose: dict[str, Any], tmp_path: Path) -> None:
    """Each file of this repository that a container sees exists (nginx's are made); promtool accepts the scrape targets."""
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            path = volume.split(":")[0]
            assert not path.startswith(".") or path.startswith("./nginx") or (COMPOSE / path).exists(), volume
    shutil.copy(COMPOSE / "prometheus.yml", tmp_path)
    shutil.copy(ROOT / "deploy/prometheus/alerts.yml", tmp_path)
    checked = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr.decode()
