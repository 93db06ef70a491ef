"""The chat in a real Chromium through the real nginx: TLS, HTTP/2, files from disk, and the tabs' socket."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser

from gatehouse.commands.identity import ensure_demo_user
from gateway.chat.pages import find_static_dir, page_files
from tests.support.engines import simulator
from tests.support.gateways import gateway
from tests.support.nginx import nginx_before
from tests.web.chatpage import new_page

pytestmark = [pytest.mark.web, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

_PROTOCOLS = """() => Object.fromEntries(performance.getEntriesByType("resource").concat(performance.getEntriesByType("navigation"))
  .map((entry) => [new URL(entry.name).pathname, entry.nextHopProtocol]))"""


async def test_a_member_signs_in_and_asks_while_nginx_is_reloaded(browser: Browser, tmp_path: Path) -> None:
    """The page comes by HTTP/2 and its files from disk; a session cookie is set, which only TLS allows; an answer that is
    under way when nginx takes over its configuration arrives whole; the record has the browser's address.
    """
    async with (
        simulator("--sim-control", knobs={"tps": 100}) as engine,
        gateway(engine.url, tmp_path, gateway={"trusted_proxies": ["127.0.0.0/8"]}) as gate,
        nginx_before(gate.url) as edge,
        new_page(browser, edge.url, ignore_https_errors=True) as chat,
    ):
        for name, content in page_files(find_static_dir()):
            path = Path(edge.site.static_root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        await chat.enter(*await ensure_demo_user(gate.config))
        seen = await chat.page.evaluate(_PROTOCOLS)
        assert seen["/"] == "h2"
        assert {protocol for path, protocol in seen.items() if path.startswith("/static/")} == {"h2"}
        from_disk = [line for line in edge.log_lines() if line["path"].startswith("/static/") and not line["gateway"]]
        assert len(from_disk) > 10
        await chat.ask("Tell me something long")
        await engine.until("vllm:generation_tokens_total", lambda tokens: tokens > 5)
        await edge.reload()
        answer = await chat.answered()
        assert "simulated engine" in await answer.inner_text()
        [line] = await gate.logged(1, route="/api/chats/{id}/runs", outcome="complete")
        assert line["client_ip"] == "127.0.0.1"
        cookies = await chat.page.context.cookies()
        assert [(each["name"], each["secure"], each["httpOnly"]) for each in cookies] == [
            ("__Host-session", True, True)
        ]
        await chat.page.goto("about:blank")  # the tab's socket ends, and nginx writes it down
        await edge.logged(1, path="/api/ws", status=101)
