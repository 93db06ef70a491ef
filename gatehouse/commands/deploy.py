"""`gatehouse deploy`: write the configuration of what stands around Gatehouse. Nothing is started, nothing reloaded."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from gatehouse.context import Context
from gatehouse.deploy.certificate import self_signed
from gatehouse.deploy.nginx import NginxSite, render, upstreams, version_numbers
from gatehouse.deploy.systemd import Services, units
from gateway.chat.pages import find_static_dir, page_files

MARK = "# Written by `gatehouse deploy`; run it again rather than edit this file.\n"
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.ASCII)


class _Domain(click.ParamType[str]):
    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name in lower case; an international one in its xn-- form. Fails for what is no name."""
        try:
            name = str(value).encode("idna").decode().lower()
        except UnicodeError:
            name = ""
        labels = name.split(".")
        if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdecimal():
            self.fail(f"{value!r} is no domain name; expected one such as chat.example.com, without port", param, ctx)
        return name


class _Plain(click.ParamType[str]):
    """Text that goes into a configuration file as it is, so it may have no quote, space or semicolon."""

    def __init__(self, name: str, pattern: str) -> None:
        self.name = name
        self._pattern = re.compile(pattern, re.ASCII)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it unchanged. Fails for anything else."""
        if not self._pattern.fullmatch(str(value)):
            self.fail(f"{value!r} is no {self.name} of plain letters, digits and ./_-", param, ctx)
        return str(value)


class _Version(click.ParamType[tuple[int, ...]]):
    name = "version"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return its numbers; none for an empty text. Fails for what is no version."""
        if not re.fullmatch(r"(\d+(\.\d+)*)?", value, re.ASCII):
            self.fail(f"{value!r} is no version; expected one such as 1.26.3", param, ctx)
        return version_numbers(value)


def installed_nginx() -> str:
    """The version of this machine's nginx; empty where there is none."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        return ""
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
    found = re.search(r"nginx/([\d.]*\d)", said)
    return found[1] if found else ""


_PATH = _Plain("path", r"/[\w./-]*")
_USER = _Plain("user", r"[a-z_][a-z0-9_-]{0,31}")
_UPSTREAM = _Plain("address", r"unix:/[\w./-]+|[\w.-]+:\d{1,5}|\[[0-9a-f:]+\]:\d{1,5}")
_out = click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to write to; none: print.")
_force = click.option("--force", is_flag=True, help="Replace files of others; NAME.before-gatehouse keeps them.")


@click.group()
def deploy() -> None:
    """Write the configuration of nginx and systemd, and the page's files for nginx. Starts and reloads nothing."""


@deploy.command()
@click.option("--domain", type=_Domain(), required=True, help="The name that browsers and clients use.")
@click.option("--basic-auth", is_flag=True, help="Ask for a name and a password (Basic) before everything.")
@click.option("--self-signed", is_flag=True, help="Write a certificate of its own where there is none yet.")
@click.option("--certificate", type=_PATH, help="Chain in PEM.  [default: gatehouse/tls/fullchain.pem]")
@click.option("--certificate-key", type=_PATH, help="Its key in PEM.  [default: gatehouse/tls/privkey.pem]")
@click.option(
    "--upstream",
    "addresses",
    type=_UPSTREAM,
    multiple=True,
    help="Where a gateway listens, unix:PATH or HOST:PORT; several times for several.  [default: this one's]",
)
@click.option(
    "--nginx-version",
    "version",
    type=_Version(),
    default=installed_nginx,
    show_default="this machine's",
    help="Of the nginx that reads it.",
)
@click.option("--static-root", type=_PATH, default=NginxSite.static_root, show_default=True, help="See deploy static.")
@click.option("--acme-dir", type=_PATH, default=NginxSite.acme_dir, show_default=True, help="certbot's --webroot-path.")
@click.option(
    "--requests-per-second",
    type=click.IntRange(1),
    default=NginxSite.requests_per_second,
    show_default=True,
    help="Of one address; four seconds' worth at once.",
)
@click.option(
    "--connections",
    type=click.IntRange(1),
    default=NginxSite.connections,
    show_default=True,
    help="Of one address; with HTTP/2: requests at the same time.",
)
@_out
@_force
@click.pass_obj
def nginx(
    context: Context, /, out: Path | None, addresses: tuple[str, ...], *, self_signed: bool, force: bool, **given: Any
) -> None:
    """Write nginx's configuration: nginx.conf and the folder gatehouse/, for --out /etc/nginx."""
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = context.settings.gateway
    site = NginxSite(upstreams=addresses or upstreams(settings), settings=settings, **chosen)
    _write(out, {name: MARK + text for name, text in render(site).items()}, force=force)
    if out is None:
        return
    if self_signed:
        _write_certificate(out, site)
    if site.basic_auth:
        _write_once(out / "gatehouse/htpasswd", "", 0o640)
        _write_once(out / "gatehouse/tokens.map", "", 0o600)
    if not site.upstreams[0].startswith("unix:") and not settings.trusted_proxies:
        click.echo("gatehouse: set gateway.trusted_proxies to nginx's address, such as [127.0.0.1]: without it every "
                   "caller has nginx's address in the record and in the login's back-off", err=True)  # fmt: skip
    click.echo("gatehouse: now `nginx -t && systemctl reload nginx`", err=True)


@deploy.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=NginxSite.static_root,
    show_default=True,
    help="nginx's --static-root.",
)
def static(out: Path) -> None:
    """Write the page's files, each with a gzipped sibling, for nginx to serve. Files of earlier builds stay.

    Again after each upgrade; until then the gateway serves them itself.
    """
    for name, content in page_files(find_static_dir()):
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@deploy.command()
@click.option("--user", type=_USER, default=Services.user, show_default=True, help="Whom the services run as.")
@click.option("--config-file", type=_PATH, default=Services.config_file, show_default=True, help="Their --config.")
@click.option("--program", type=_PATH, help="The command.  [default: this one]")
@_out
@_force
@click.pass_obj
def systemd(context: Context, /, out: Path | None, program: str | None, *, force: bool, **given: str) -> None:
    """Write the units gatehouse-engine.service and gatehouse-gateway.service, for --out /etc/systemd/system."""
    services = Services(context.settings, program=program or str(Path(sys.executable).parent / "gatehouse"), **given)
    _write(out, {name: MARK + text for name, text in units(services).items()}, force=force)
    if out is not None:
        click.echo("gatehouse: now `systemctl daemon-reload`", err=True)


def _write(out: Path | None, files: Mapping[str, str], *, force: bool) -> None:
    """Write the files, or print them all. Somebody else's file is left, unless with force, and then kept beside."""
    if out is None:
        click.echo("\n".join(f"# ==> {name}\n{text}" for name, text in files.items()), nl=False)
        return
    foreign = [out / name for name in files if (out / name).exists() and MARK not in (out / name).read_text("utf-8")]
    if foreign and not force:
        click.echo(f"gatehouse: not ours: {', '.join(map(str, foreign))}; --force replaces it and keeps it as "
                   "NAME.before-gatehouse; nothing was written", err=True)  # fmt: skip
        sys.exit(1)
    for path in foreign:
        path.rename(path.with_name(f"{path.name}.before-gatehouse"))
    for name, text in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        click.echo(f"gatehouse: wrote {path}", err=True)


def _write_certificate(out: Path, site: NginxSite) -> None:
    """The two files, where neither is there; they may be links to a real certificate one day."""
    certificate, key = out / site.certificate, out / site.certificate_key
    if certificate.exists() or key.exists():
        return
    chain, private = self_signed(site.domain)
    _write_once(key, private, 0o600)
    _write_once(certificate, chain, 0o644)


def _write_once(path: Path, text: str, mode: int) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode)
        path.write_text(text, "utf-8")
        click.echo(f"gatehouse: wrote {path}", err=True)
