"""Who may call: the command groups `token` and `user`, and the identities of `gatehouse up --demo`."""

from gatehouse.commands.directory import Context, opened_users
from gatehouse.commands.tokens import token
from gatehouse.commands.users import user
from gateway.auth.keys import load_keys
from gateway.auth.passwords import generate_password
from gateway.auth.tokens import issue_token
from gateway.config import Config

__all__ = ["Context", "ensure_demo_user", "issue_demo_token", "token", "user"]

DEMO_USER = "demo"


async def ensure_demo_user(config: Config) -> tuple[str, str]:
    """Make sure that the demo's user can sign in, with a fresh password; returns name and password."""
    password = generate_password()
    async with opened_users(config) as (users, _):
        plan = config.auth.user_plan
        if not await users.add(DEMO_USER, password, display_name="Demo", team=None, plan=plan):
            await users.set_password(DEMO_USER, password)
            await users.enable(DEMO_USER)
    return DEMO_USER, password


def issue_demo_token(config: Config) -> str:
    """A token for the demo's user, valid for a day. It is not recorded; revoke it by its subject."""
    issued, _ = issue_token(load_keys(config).signing, config.auth, subject=DEMO_USER, ttl_seconds=86_400)
    return issued
