"""`gatehouse token`: what programs call with.

What a program wants stands alone on stdout, messages go to stderr. Exit code 1: refused or failed; 2: wrong usage.
"""

import json
import re
import sys
import time
from dataclasses import asdict
from typing import Any

import click

from gatehouse.commands.directory import Context, known_plan, opened, opened_users, run, when
from gateway.auth.claims import Refusal
from gateway.auth.issuers import ForeignIssuers
from gateway.auth.keys import KeySet, key_file, load_keys
from gateway.auth.revocations import RevocationList
from gateway.auth.tokens import Explanation, TokenVerifier, issue_token
from gateway.config import Config
from gateway.store import IssuedToken, Revocation, RevocationKind

SCOPES = ("api", "chat", "usage:all", "admin")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class Ttl(click.ParamType[float]):
    """A duration such as 90d, 12h, 30m or 3600, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; fails on anything else."""
        match = re.fullmatch(r"(\d{1,9})([smhd]?)", str(value))
        if match is None or int(match[1]) == 0:
            self.fail(f"{value!r} is not a duration; write 90d, 12h, 30m or seconds", param, ctx)
        return float(int(match[1]) * _UNITS[match[2]])


class Words(click.ParamType[tuple[str, ...]]):
    """Words between commas or spaces."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:  # noqa: ARG002
        """The words, in their order."""
        return value if isinstance(value, tuple) else tuple(filter(None, re.split(r"[,\s]+", value)))


@click.group()
def token() -> None:
    """Issue, list, inspect and revoke API tokens."""


@token.command("issue")
@click.option("--subject", required=True, help="who or what calls with it; limits and usage go by this name")
@click.option("--team", help="team whose limits and usage it shares")
@click.option("--plan", help="plan with its limits; default: auth.default_plan")
@click.option("--scopes", type=Words(), help="api, chat, usage:all, admin; default: auth.default_scopes")
@click.option("--models", type=Words(), default=(), help="models it may use, as globs; default: all")
@click.option("--ttl", type=Ttl(), default="90d", show_default=True, help="how long it is valid")
@click.pass_obj
def token_issue(
    obj: Context,
    *,
    subject: str,
    team: str | None,
    plan: str | None,
    scopes: tuple[str, ...] | None,
    models: tuple[str, ...],
    ttl: float,
) -> None:
    """Print a new token, alone on stdout; only its id and what it may do are kept."""
    config = obj.gateway_config()
    if plan is not None:
        known_plan(config, plan)
    unknown = sorted(set(scopes or ()) - set(SCOPES))
    if unknown:
        raise click.BadParameter(f"unknown: {', '.join(unknown)}; there are {', '.join(SCOPES)}", param_hint="--scopes")

    async def issue() -> tuple[str, IssuedToken]:
        keys = _keys(config)
        issued, record = issue_token(
            keys.signing,
            config.auth,
            subject=subject,
            team=team,
            plan=plan,
            scopes=scopes,
            models=models,
            ttl_seconds=ttl,
        )
        explanation = _verifier(config, keys, []).explain(issued)
        if explanation.refusals:  # never hand out what would be refused
            raise click.ClickException(" ".join(refusal.message for refusal in explanation.refusals))
        async with opened(config) as store:
            user = await store.users.find(subject)
            if user is None:
                await store.tokens.record(record)
            elif not await store.tokens.record_for_user(record):
                raise click.ClickException(f"the user {subject} is disabled")
        return issued, record

    issued, record = run(issue())
    click.echo(f"token {record.id} for {record.subject}, valid until {when(record.expires_at)}", err=True)
    click.echo(issued)


@token.command("list")
@click.option("--subject", help="only this subject's")
@click.option("--json", "as_json", is_flag=True, help="one JSON array")
@click.pass_obj
def token_list(obj: Context, subject: str | None, as_json: bool) -> None:
    """List the tokens that were issued here, newest first."""
    config = obj.gateway_config()

    async def read() -> tuple[list[IssuedToken], list[Revocation]]:
        async with opened(config) as store:
            return await store.tokens.list(subject), await store.revocations.current(time.time())

    tokens, revocations = run(read())
    rows = [{**asdict(record), "state": _state(record, revocations)} for record in tokens]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        scopes, models = " ".join(row["scopes"]), " ".join(row["models"]) or "all models"
        owner = row["subject"] if row["team"] is None else f"{row['subject']} ({row['team']})"
        until = when(row["expires_at"])
        click.echo(f"{row['id']}  {row['state']:<8} until {until}  {owner}  {row['plan']}  {scopes}  {models}")


@token.command("inspect")
@click.argument("value", metavar="[TOKEN]", default="-")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@click.pass_obj
def token_inspect(obj: Context, value: str, as_json: bool) -> None:
    """Say what TOKEN contains and every reason why it would be refused; exit code 1 if there is one.

    Asks nobody but, for a token of an issuer who publishes its keys, that issuer. Without TOKEN, or for -, reads stdin:
    arguments are visible to others in the process list.
    """
    config = obj.gateway_config()
    presented = sys.stdin.readline().strip() if value == "-" else value

    async def explain() -> Explanation:
        keys, issuers = load_keys(config), ForeignIssuers(config.auth)
        try:
            async with opened(config) as store:
                revocations = await store.revocations.current(time.time())
            verifier = _verifier(config, keys, revocations, issuers)
            found = verifier.explain(presented)
            if await issuers.fetch_for(found.claims.get("iss")):
                found = verifier.explain(presented)
            return found
        finally:
            await issuers.fetcher.close()

    found = run(explain())
    if as_json:
        refusals = [asdict(refusal) for refusal in found.refusals]
        click.echo(json.dumps({"header": found.header, "claims": found.claims, "refusals": refusals}))
    else:
        _print_explanation(found)
    sys.exit(1 if found.refusals else 0)


@token.command("revoke")
@click.option("--id", "token_id", help="one token, by the id that `list` shows (its jti)")
@click.option("--subject", help="everything this subject has been given until now: tokens and chat sessions")
@click.pass_obj
def token_revoke(obj: Context, token_id: str | None, subject: str | None) -> None:
    """Refuse tokens from now on; every running gateway knows within a second."""
    if (token_id is None) == (subject is None):
        raise click.UsageError("name either --id or --subject")
    config = obj.gateway_config()
    kind, target = (RevocationKind.TOKEN, token_id) if token_id is not None else (RevocationKind.SUBJECT, subject)

    async def revoke() -> bool:
        async with opened_users(config) as (users, store):
            await users.revoke(kind, str(target))
            return kind is RevocationKind.SUBJECT or await store.tokens.find(str(target)) is not None

    issued_here = run(revoke())
    click.echo(
        f"revoked {kind} {target}" + ("" if issued_here else " (not issued here; refused all the same)"), err=True
    )


def _keys(config: Config) -> KeySet:
    path = key_file(config)
    made = not path.exists()
    keys = load_keys(config)
    if made:
        click.echo(f"made the signing key {path}; keep it: tokens are worth nothing without it", err=True)
    return keys


def _verifier(
    config: Config, keys: KeySet, revocations: list[Revocation], issuers: ForeignIssuers | None = None
) -> TokenVerifier:
    revoked = RevocationList(time.time)
    revoked.add(revocations)
    foreign = issuers.by_claim if issuers is not None else {}
    return TokenVerifier(config.auth, config.plans, keys, revoked, issuers=foreign)


def _state(record: IssuedToken, revocations: list[Revocation]) -> str:
    for revocation in revocations:
        match revocation.kind:
            case RevocationKind.TOKEN if revocation.target == record.id:
                return "revoked"
            case RevocationKind.SUBJECT if (
                revocation.target == record.subject and record.issued_at <= revocation.revoked_at
            ):
                return "revoked"
            case _:
                pass
    return "expired" if record.expires_at <= time.time() else "active"


def _print_explanation(found: Explanation) -> None:
    for title, part in (("header", found.header), ("claims", found.claims)):
        click.echo(f"{title}: {json.dumps(part)}")
    for name in ("iat", "nbf", "exp"):
        if isinstance(found.claims.get(name), int | float):
            click.echo(f"{name}: {when(found.claims[name])}")
    for refusal in found.refusals or [Refusal("accepted", "This token is good.")]:
        click.echo(f"{refusal.code}: {refusal.message}")
