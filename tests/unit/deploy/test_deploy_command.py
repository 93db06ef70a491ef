"""`gatehouse deploy`: what it writes is complete, valid by the programs' own word, and nobody's file is lost."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gatehouse.cli import gatehouse
from gatehouse.commands.deploy import installed_nginx
from gatehouse.deploy.nginx import ERRORS, NginxSite, render, upstreams
from gatehouse.deploy.systemd import Services, units
from gatehouse.deploy.templates import fill, find_templates, is_whole
from gatehouse.settings import Sections
from gateway.config import GatewaySettings
from launcher.config import EngineSettings, engine_environment
from tests.support.nginx import nginx_path

ROOT = Path(__file__).parents[3]
SITE = NginxSite("chat.example.com", ("127.0.0.1:8080",))
EXPOSURE = {"gatehouse-engine.service": 2.0, "gatehouse-gateway.service": 1.2}


def run(*words: object) -> Result:
    return CliRunner().invoke(gatehouse, ["deploy", *map(str, words)])


def nginx(folder: Path) -> subprocess.CompletedProcess[str]:
    argv = [nginx_path(), "-t", "-e", "stderr", "-c", str(folder / "nginx.conf")]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("flags", [[], ["--basic-auth"], ["--upstream", "unix:/run/gatehouse/worker-1.sock"]])
def test_nginx_takes_what_is_written(tmp_path: Path, flags: list[str]) -> None:
    """`nginx -t` finds nothing to complain of in the folder that the command fills, warnings included.

    What belongs to the machine (ports, log, pid, temp, user) is replaced by the test's own, the rest is as the user
    gets it.
    """
    result = run("nginx", "--domain", "chat.example.com", "--self-signed", "--out", tmp_path, *flags)
    assert result.exit_code == 0, result.output
    file = tmp_path / "nginx.conf"
    text = file.read_text().replace("/var/log/nginx", str(tmp_path)).replace("/run/nginx.pid", str(tmp_path / "pid"))
    text = re.sub(r"^user .*", "", text, flags=re.MULTILINE)
    temp = "".join(
        f"{kind}_temp_path {tmp_path}/temp;" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file.write_text(text.replace("sendfile on;", f"sendfile on; {temp}"))
    log = tmp_path / "gatehouse/http.conf"
    log.write_text(log.read_text().replace("/var/log/nginx", str(tmp_path)))
    server = tmp_path / "gatehouse/server.conf"  # nginx -t opens the ports, unless somebody has them
    server.write_text(re.sub(r"(?m)^( +listen \S+):(80|443)\b", r"\1:10\2", server.read_text()))
    checked = nginx(tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr


@pytest.mark.parametrize(
    ("version", "directive"), [((), False), ((1, 25, 0), False), ((1, 25, 1), True), ((1, 28), True)]
)
def test_http2_is_asked_for_in_the_versions_own_words(version: tuple[int, ...], directive: bool) -> None:
    """From 1.25.1 on `http2 on;` stands in each server with TLS; before, and where nothing is known, it follows `listen`."""
    text = render(replace(SITE, version=version))["gatehouse/server.conf"]
    assert text.count(" ssl http2") == (0 if directive else 4)
    assert text.count("    http2 on;\n") == (2 if directive else 0)


@pytest.mark.parametrize(
    ("said", "version"),
    [("nginx/1.26.3", "1.26.3"), ("nginx/1.24.0 (Ubuntu)", "1.24.0"), ("openresty/1.27.1.2", ""), (None, "")],
)
def test_the_machines_nginx_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, version: str
) -> None:
    """What `nginx -v` says of itself; without an nginx, or of a relative's numbers, nothing is known."""
    program = tmp_path / "nginx"
    if said is not None:
        program.write_text(f"#!/bin/sh\necho 'nginx version: {said}' >&2\n")
        program.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda *_args, **_how: str(program) if said is not None else None)
    assert installed_nginx() == version


def test_another_machines_nginx_can_be_named() -> None:
    """`--nginx-version` goes before the one that is here."""
    assert "http2 on;" in run("nginx", "--domain", "a.example", "--nginx-version", "1.28").output
    assert " ssl http2;" in run("nginx", "--domain", "a.example", "--nginx-version", "1.24.0").output
    refused = run("nginx", "--domain", "a.example", "--nginx-version", "latest")
    assert refused.exit_code == 2
    assert "'latest' is no version; expected one such as 1.26.3" in refused.output


def test_a_key_and_credentials_are_private(tmp_path: Path) -> None:
    """Key and tokens.map are their owner's alone; htpasswd is not for everybody; a second run replaces none of them."""
    args = ("nginx", "--domain", "chat.example.com", "--self-signed", "--basic-auth", "--out", tmp_path)
    assert run(*args).exit_code == 0
    modes = {
        name: stat.S_IMODE((tmp_path / "gatehouse" / name).stat().st_mode)
        for name in ("tls/privkey.pem", "tokens.map", "htpasswd")
    }
    assert modes == {"tls/privkey.pem": 0o600, "tokens.map": 0o600, "htpasswd": 0o640}
    (tmp_path / "gatehouse/tokens.map").write_text("mine")
    key = (tmp_path / "gatehouse/tls/privkey.pem").read_text()
    assert run(*args).exit_code == 0
    assert (tmp_path / "gatehouse/tokens.map").read_text() == "mine"
    assert (tmp_path / "gatehouse/tls/privkey.pem").read_text() == key


def test_somebody_elses_file_is_left_or_kept(tmp_path: Path) -> None:
    """Without --force nothing is written where a foreign nginx.conf is; with it, that one stays beside."""
    (tmp_path / "nginx.conf").write_text("theirs")
    args = ("nginx", "--domain", "chat.example.com", "--out", tmp_path)
    refused = run(*args)
    assert refused.exit_code == 1
    assert "nginx.conf" in refused.output
    assert [path.name for path in tmp_path.iterdir()] == ["nginx.conf"]
    assert run(*args, "--force").exit_code == 0
    assert (tmp_path / "nginx.conf.before-gatehouse").read_text() == "theirs"
    assert run(*args).exit_code == 0  # now it is ours


@pytest.mark.parametrize(
    "domain",
    [
        "a;b",
        "chat.example.com:443",
        "https://chat.example.com",
        "-a.example",
        "a..b",
        "",
        "10.0.0.1",
        "a b",
        "x" * 64,
        "$x",
    ],
)
def test_what_is_no_domain_is_refused(domain: str) -> None:
    """Nothing that could mean something to nginx, and no address, gets into its configuration."""
    result = run("nginx", "--domain", domain)
    assert result.exit_code == 2
    assert "no domain name" in result.output


def test_an_international_domain_is_written_in_ascii() -> None:
    """`bücher.example` becomes its xn-- form; capitals become small."""
    assert "server_name xn--bcher-kva.example;" in run("nginx", "--domain", "bücher.example").output
    assert "server_name chat.example.com;" in run("nginx", "--domain", "Chat.Example.COM").output


@pytest.mark.parametrize("option", ["--certificate", "--static-root", "--acme-dir", "--upstream"])
def test_paths_that_would_end_a_line_are_refused(option: str) -> None:
    """A semicolon in a path would begin another directive."""
    result = run("nginx", "--domain", "a.example", option, "/x; include /etc/passwd")
    assert result.exit_code == 2


def test_sizes_and_deadlines_are_the_gateways() -> None:
    """nginx takes as large a body as the gateway, and waits longer than it for everything that the gateway bounds."""
    settings = GatewaySettings(max_body_bytes=1234, total_seconds=100, hold_seconds=7, write_seconds=9)
    files = render(NginxSite("a.example", ("127.0.0.1:1",), settings))
    assert "client_max_body_size 1234;" in files["gatehouse/server.conf"]
    assert "send_timeout 39s;" in files["gatehouse/server.conf"]
    assert "proxy_read_timeout 157s;" in files["gatehouse/proxy.conf"]


def test_the_gateways_address_is_found_in_its_settings() -> None:
    """Each worker's own socket where there are any; who listens everywhere is reached on loopback."""
    assert upstreams(GatewaySettings(host="0.0.0.0", port=81)) == ("127.0.0.1:81",)
    assert upstreams(GatewaySettings(host="::1")) == ("[::1]:8080",)
    sockets = GatewaySettings(workers=2, socket_dir=Path("/run/gatehouse"))
    assert upstreams(sockets) == ("unix:/run/gatehouse/worker-1.sock", "unix:/run/gatehouse/worker-2.sock")


def test_no_placeholder_is_left() -> None:
    """Every template is filled; one without a value is an error."""
    services = Services(Sections(), "/opt/gatehouse/bin/gatehouse")
    assert all(is_whole(text) for text in [*render(SITE).values(), *units(services).values()])
    with pytest.raises(KeyError):
        fill("@UNKNOWN@", {})
    with pytest.raises(FileNotFoundError):
        find_templates("nothing")


def test_nginxs_codes_are_documented() -> None:
    """docs/nginx.md has a row for each error that nginx answers itself, and no other."""
    table = (ROOT / "docs/nginx.md").read_text("utf-8").split("\n## Errors of nginx's own\n")[1].split("\n## ")[0]
    documented = re.findall(r"^\| (\d+) \| `(\w+)` \|", table, re.MULTILINE)
    said = {(str(status), code) for seen, (status, code, _) in ERRORS.items()}
    assert set(documented) == said


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing; `security` gives each unit no more exposure."""
    program = shutil.which("true")
    assert program is not None
    args = ("systemd", "--program", program, "--user", "daemon", "--out", tmp_path)
    assert run(*args).exit_code == 0
    paths = [str(tmp_path / name) for name in EXPOSURE]
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    for name, path in zip(EXPOSURE, paths, strict=True):
        rated = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager", path],
            capture_output=True,
            text=True,
            check=False,
        )
        found = re.search(r"exposure level for \S+: ([\d.]+)", rated.stdout)
        assert found is not None, rated.stderr
        assert float(found[1]) <= EXPOSURE[name]


def test_units_wait_as_long_as_a_stop_may_take() -> None:
    """The gateway gets its drain, the engine its requests' time, both signals and the proof of its end; then some."""
    sections = Sections(
        gateway=GatewaySettings(drain_seconds=100),
        engine=EngineSettings(shutdown_timeout=50, stop_timeout=20, kill_timeout=40),
    )
    files = units(Services(sections, "/opt/gatehouse/bin/gatehouse"))
    assert "TimeoutStopSec=130\n" in files["gatehouse-gateway.service"]
    assert "TimeoutStopSec=160\n" in files["gatehouse-engine.service"]


def test_what_the_engine_compiles_lasts() -> None:
    """Triton's kernels go below HOME, vLLM's graphs below XDG_CACHE_HOME: the unit's own cache, which no stop empties."""
    unit = units(Services(Sections(), "/x"))["gatehouse-engine.service"]
    lines = [line.partition("=")[::2] for line in unit.splitlines() if "=" in line and not line.startswith("#")]
    cache = "/var/cache/" + dict(lines)["CacheDirectory"]
    variables = dict(pair.split("=") for name, given in lines if name == "Environment" for pair in given.split())
    assert variables["HOME"] == variables["XDG_CACHE_HOME"] == cache
    assert not {"TRITON_CACHE_DIR", "TRITON_HOME", "VLLM_CACHE_ROOT"} & variables.keys()
    kept = engine_environment(EngineSettings(), "key", variables)
    assert variables.items() <= kept.items(), "the launcher hands them on"


def test_the_gateway_stops_before_its_engine() -> None:
    """systemd stops in the reverse order of After=."""
    after = re.search(r"^After=(.*)", units(Services(Sections(), "/x"))["gatehouse-gateway.service"], re.MULTILINE)
    assert after is not None
    assert "gatehouse-engine.service" in after[1].split()


def test_the_pages_files_are_written_with_compressed_siblings(tmp_path: Path) -> None:
    """`deploy static` fills static/BUILD/; a second build would stand beside the first."""
    assert run("static", "--out", tmp_path).exit_code == 0
    (build,) = (tmp_path / "static").iterdir()
    assert (build / "js/main.js").is_file()
    assert (build / "js/view/app.js.gz").is_file()
    assert not (build / "index.html").exists()  # the gateway's: it names the build
