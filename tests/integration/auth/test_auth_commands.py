"""`gatehouse token` and `gatehouse user`, and that a gateway believes what they do."""

import asyncio
import json
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from gatehouse.commands.identity import ensure_demo_user, issue_demo_token, token, user
from gateway.config import Config
from gateway.store import Store, User
from tests.integration.auth.house import config_at, serve
from tests.unit.gateway.auth.foreign import claims, jwks, public_jwk, settings, sign

Run = Callable[..., Result]


@dataclass
class Settings:
    """What the composition root gives to commands."""

    state_dir: Path

    def gateway_config(self) -> Config:
        """The settings of a gateway in the same state directory."""
        return config_at(self.state_dir)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command line, without the leading `gatehouse`."""
    main = click.Group("gatehouse", commands=[token, user])

    def invoke(*arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(main, arguments, input=stdin, obj=Settings(tmp_path))

    return invoke


def test_issue_prints_the_token_alone(run: Run, tmp_path: Path) -> None:
    """Stdout has the token and a newline; id, end and the new key's place stand on stderr."""
    result = run("token", "issue", "--subject", "ci", "--ttl", "1h")
    assert result.exit_code == 0
    assert result.stdout.count(".") == 2
    assert result.stdout.strip().isascii()
    assert result.stdout.count("\n") == 1
    assert str(tmp_path / "jwt.key") in result.stderr
    assert stat.S_IMODE((tmp_path / "jwt.key").stat().st_mode) == 0o600
    assert "jwt.key" not in run("token", "issue", "--subject", "ci").stderr


def test_list(run: Run) -> None:
    """The list has what was issued and its state, never the token; the newest first."""
    issued = run(
        "token", "issue", "--subject", "ci", "--team", "eng", "--scopes", "api, chat", "--models", "gpt-*"
    ).stdout
    run("token", "issue", "--subject", "other", "--plan", "member")
    other, first = json.loads(run("token", "list", "--json").stdout)
    assert (first["subject"], first["team"], first["plan"], first["state"]) == ("ci", "eng", "service", "active")
    assert (first["scopes"], first["models"]) == (["api", "chat"], ["gpt-*"])
    assert (other["subject"], other["plan"], other["scopes"]) == ("other", "member", ["api"])
    text = run("token", "list").stdout
    assert "ci (eng)" in text
    assert "all models" in text
    assert issued.split(".")[2].strip() not in text + json.dumps(first)
    assert [row["subject"] for row in json.loads(run("token", "list", "--subject", "ci", "--json").stdout)] == ["ci"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("--subject", "ci", "--plan", "gold"), 2, "gold: there are member, service"),
        (("--subject", "ci", "--ttl", "400d"), 1, "366 days"),
        (("--subject", "ci", "--ttl", "soon"), 2, "is not a duration"),
        (("--subject", "ci", "--ttl", "0d"), 2, "is not a duration"),
        (("--subject", "ci", "--scopes", "api,root"), 2, "unknown: root"),
        (("--subject", ""), 1, "`sub`"),
        (("--subject", "a\nb"), 1, "`sub`"),
        ((), 2, "--subject"),
    ],
)
def test_what_would_be_refused_is_not_issued(
    run: Run, arguments: tuple[str, ...], exit_code: int, message: str
) -> None:
    """A token that the gateway would not accept is never handed out nor recorded."""
    result = run("token", "issue", *arguments)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert message in result.stderr
    assert json.loads(run("token", "list", "--json").stdout) == []


def test_revoke_and_inspect(run: Run) -> None:
    """`inspect` says that a good token is good, exit code 0, and why a revoked one is not, exit code 1."""
    issued = run("token", "issue", "--subject", "ci").stdout.strip()
    good = run("token", "inspect", stdin=issued + "\n")
    assert good.exit_code == 0
    assert "accepted" in good.stdout
    assert "exp: 20" in good.stdout
    token_id = json.loads(run("token", "inspect", "--json", issued).stdout)["claims"]["jti"]
    assert run("token", "revoke", "--id", token_id).exit_code == 0
    refused = run("token", "inspect", "-", "--json", stdin=issued)
    assert refused.exit_code == 1
    assert [reason["code"] for reason in json.loads(refused.stdout)["refusals"]] == ["token_revoked"]
    assert json.loads(run("token", "list", "--json").stdout)[0]["state"] == "revoked"


def test_revoke_a_subject(run: Run) -> None:
    """Revoking a subject refuses what it has, and not what it is given afterwards."""
    before = run("token", "issue", "--subject", "ci").stdout.strip()
    assert run("token", "revoke", "--subject", "ci").exit_code == 0
    after = run("token", "issue", "--subject", "ci").stdout.strip()
    assert run("token", "inspect", before).exit_code == 1
    assert run("token", "inspect", after).exit_code == 0
    assert [row["state"] for row in json.loads(run("token", "list", "--json").stdout)] == ["active", "revoked"]


def test_revoke_needs_one_target(run: Run) -> None:
    """Neither nothing nor both; an id that was not issued here is refused all the same, and said so."""
    assert run("token", "revoke").exit_code == 2
    assert run("token", "revoke", "--id", "x", "--subject", "y").exit_code == 2
    assert "not issued here" in run("token", "revoke", "--id", "x").stderr


@pytest.mark.parametrize("value", ["x", "a.b.c", "eyJhbGciOiJub25lIn0.eyJleHAiOjFlMzAwfQ."])
def test_inspect_anything(run: Run, value: str) -> None:
    """Whatever is given is explained, with exit code 1 and no traceback."""
    result = run("token", "inspect", value)
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert "token_malformed" in result.stdout


def test_users(run: Run) -> None:
    """Add, list, disable and enable; without a terminal a password is made and printed alone."""
    added = run("user", "add", "Ada", "--display-name", "Ada L.", "--team", "research")
    assert added.exit_code == 0
    assert len(added.stdout.strip()) == 23
    assert run("user", "add", "bob", "--password-stdin", "--plan", "service", stdin="a good password\n").stdout == ""
    ada, bob = json.loads(run("user", "list", "--json").stdout)
    assert (ada["name"], ada["display_name"], ada["team"], ada["plan"]) == ("ada", "Ada L.", "research", "member")
    assert (bob["name"], bob["display_name"], bob["plan"], bob["disabled_at"]) == ("bob", "bob", "service", None)
    assert run("user", "admin", "Bob").exit_code == 0
    assert [each["admin"] for each in json.loads(run("user", "list", "--json").stdout)] == [False, True]
    assert run("user", "admin", "bob", "--revoke").exit_code == 0
    assert json.loads(run("user", "list", "--json").stdout)[1]["admin"] is False
    assert run("user", "admin", "nobody").exit_code == 1
    assert run("user", "disable", "ADA").exit_code == 0
    assert "ada  disabled" in run("user", "list").stdout
    refused = run("token", "issue", "--subject", "ada")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert run("user", "enable", "ada").exit_code == 0
    assert run("token", "issue", "--subject", "ada").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "stdin", "exit_code", "message"),
    [
        (("add", "ada"), "", 1, "already"),
        (("add", "new", "--password-stdin"), "short\n", 1, "10 to 256"),
        (("add", "new", "--password-stdin"), "", 1, "10 to 256"),
        (("add", "new", "--plan", "gold"), "", 2, "member, service"),
        (("add", "no spaces"), "", 1, "letters, digits"),
        (("add", "-"), "", 1, "letters, digits"),
        (("passwd", "nobody"), "", 1, "no user nobody"),
        (("disable", "nobody"), "", 1, "no user nobody"),
        (("enable", "nobody"), "", 1, "no user nobody"),
    ],
)
def test_user_mistakes(run: Run, arguments: tuple[str, ...], stdin: str, exit_code: int, message: str) -> None:
    """A mistake is one line on stderr, an exit code, and no traceback."""
    run("user", "add", "ada")
    result = run("user", *arguments, stdin=stdin)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert message in result.stderr
    assert len(json.loads(run("user", "list", "--json").stdout)) == 1


def test_broken_places(run: Run, tmp_path: Path) -> None:
    """A database that is none and a key that others may read are said in one line."""
    (tmp_path / "gatehouse.db").write_text("x" * 4096)
    result = run("user", "list")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    (tmp_path / "jwt.key").write_text("x" * 64)
    (tmp_path / "jwt.key").chmod(0o644)
    result = run("token", "issue", "--subject", "ci")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "chmod 600" in result.stderr


def test_passwd(run: Run) -> None:
    """A new password may be given or made."""
    run("user", "add", "ada")
    assert run("user", "passwd", "ada", "--password-stdin", stdin="another password\n").exit_code == 0
    assert len(run("user", "passwd", "ada").stdout.strip()) == 23


async def test_a_gateway_believes_the_demo(tmp_path: Path) -> None:
    """The demo's user signs in with the fresh password only, however often it is made, and its token is accepted."""
    config = config_at(tmp_path)
    _, old = await ensure_demo_user(config)
    name, password = await ensure_demo_user(config)
    async for house in serve(config):
        assert (await house.login(name, old)).status == 401
        assert (await house.login(name, password)).json["user"]["name"] == "demo"
        answer = await house.request("GET", "/v1/who", headers={"x-api-key": issue_demo_token(config)})
        assert answer.json["subject"] == "demo"


def test_users_of_an_issuer(run: Run, tmp_path: Path) -> None:
    """Who signs in at an issuer is disabled and enabled by that name; nobody is added or given a password under it."""

    async def sign_in() -> None:
        store = await Store.open(tmp_path / "gatehouse.db")
        await store.users.add(User("corp:auth0|Ada", "Ada", None, "member", 100.0))
        await store.close()

    asyncio.run(sign_in())
    assert run("user", "disable", "corp:auth0|Ada").stderr == "disabled corp:auth0|Ada\n"
    assert "corp:auth0|Ada  disabled" in run("user", "list").stdout
    assert run("token", "issue", "--subject", "corp:auth0|Ada").exit_code == 1
    assert run("user", "enable", "corp:auth0|Ada").exit_code == 0
    for command in ("add", "passwd"):
        assert "letters, digits" in run("user", command, "corp:eve").stderr
    assert "no user corp:eve" in run("user", "disable", "corp:eve").stderr


def test_inspect_a_foreign_token(tmp_path: Path) -> None:
    """The token of an issuer that publishes its keys is explained by those keys, fetched then and there."""
    jwks_file = tmp_path / "jwks.json"
    jwks_file.write_bytes(jwks(public_jwk("ES256")))

    class Foreign(Settings):
        def gateway_config(self) -> Config:
            return config_at(self.state_dir, issuers=(settings(jwks_url=None, jwks_file=jwks_file),))

    def inspect(text: str) -> Result:
        main = click.Group("gatehouse", commands=[token])
        return CliRunner().invoke(main, ["token", "inspect", "--json", text], obj=Foreign(tmp_path))

    now = time.time()
    good = inspect(sign("ES256", claims(iat=now, exp=now + 60)))
    assert (good.exit_code, json.loads(good.stdout)["refusals"]) == (0, [])
    refused = inspect(sign("ES256", claims(aud="other"), number=1))
    codes = [reason["code"] for reason in json.loads(refused.stdout)["refusals"]]
    assert codes == ["unknown_key", "wrong_audience", "token_not_yet_valid"]
