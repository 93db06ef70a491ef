"""What `gatehouse up` prints once everything is there: where to go, and in a demo how to get in."""

import asyncio
import contextlib
import json
from pathlib import Path

import psutil

from gatehouse.commands.identity import ensure_demo_user, issue_demo_token
from gatehouse.context import Context
from gateway.listening import Listening, whereabouts

POLL_SECONDS = 0.05


async def gateway_of(parent: int, state_dir: Path) -> Listening:
    """Wait until the gateway that `parent` (a pid) started has said where it listens."""
    while (where := _where(parent, state_dir)) is None:  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(POLL_SECONDS)
    return where


def _where(parent: int, state_dir: Path) -> Listening | None:
    """What the gateway says, unless it was said by another gateway."""
    pid, listening = whereabouts(state_dir) or (0, None)
    with contextlib.suppress(psutil.Error):
        if pid and psutil.Process(pid).ppid() == parent:
            return listening
    return None


async def greeting(context: Context, where: Listening) -> str:
    """Make the text; in a demo with a fresh password for the user `demo` and a ready-made token."""
    url, metrics = where.url, f"{where.admin_url}/metrics"
    if not context.demo:
        return "\n".join(
            (
                f"chat      {url}/",
                f"API       {url}/v1",
                f"metrics   {metrics}",
                "a login:  gatehouse user add NAME",
                "a token:  gatehouse token issue --subject NAME",
            )
        )
    config = context.gateway_config()
    name, password = await ensure_demo_user(config)
    token = issue_demo_token(config)
    body = json.dumps(
        {"model": config.engine.model, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    )
    curl = (
        f"curl -N {url}/v1/chat/completions -H 'Authorization: Bearer {token}' "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
    return "\n".join(
        (
            "This is a demo: the engine is simulated, its answers are not a model's.",
            f"chat      {url}/",
            f"login     {name} / {password}",
            f"metrics   {metrics}",
            f"token     {token}",
            "",
            curl,
        )
    )
