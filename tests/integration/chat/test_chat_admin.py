"""The admin page's calls: for admins only, and each does what it says."""

from pathlib import Path

import aiohttp

from tests.support.engines import simulator
from tests.support.gateways import gateway
from tests.support.members import OVER_HTTP, add_user, member, sign_in
from tests.support.stack import running_stack

READS = ["engine", "requests", "users", "plans", "usage?by=subject,day&days=7"]


async def test_what_an_admin_sees_and_does(tmp_path: Path) -> None:
    """Users, plans, usage, live requests and the engine are shown; a user is changed, and shut out with what they run."""
    async with simulator(knobs={"tps": 50}) as engine, gateway(engine.url, tmp_path, auth=OVER_HTTP) as gate:
        root, ada = await member(gate, "root", admin=True), await member(gate, "ada", team="lab")
        assert "admin" in (await root.ok("GET", "/api/account"))["scopes"]
        for path in READS:
            refused = await ada.call("GET", f"/api/admin/{path}")
            assert (refused.status, refused.code) == (403, "insufficient_scope")
            token = {"Authorization": f"Bearer {gate.token('root', scopes=('api', 'chat', 'admin'))}"}
            assert (await root.call("GET", f"/api/admin/{path}", **token)).code == "session_required"
            await root.ok("GET", f"/api/admin/{path}")
        for method, path in (("PATCH", "users/root"), ("POST", "engine/restart"), ("POST", "engine/drain")):
            assert (await ada.call(method, f"/api/admin/{path}", {})).status == 403
        shown = await root.ok("GET", "/api/admin/engine")
        assert (shown["state"], shown["waiting"]) == ("ready", 0)
        assert (await root.call("POST", "/api/admin/engine/restart", {})).code == "no_launcher"

        chat = await ada.made(params={"max_tokens": 4000})
        run = await ada.asked(chat)
        async with ada.tab() as tab:
            await tab.sub(run)
            await tab.until("r")
            requests = (await root.ok("GET", "/api/admin/requests"))["requests"]
            assert "/api/admin/requests" not in [each["route"] for each in requests]
            (live,) = [each for each in requests if each["subject"] == "ada"]
            assert (live["route"], live["team"], live["doing"]) == ("/api/chats/{id}/runs", "lab", "answering")
            changed = await root.ok(
                "PATCH", "/api/admin/users/ada", {"plan": "service", "team": "", "display_name": "Ada L."}
            )
            assert (changed["plan"], changed["team"], changed["display_name"]) == ("service", None, "Ada L.")
            wrong = [
                {"plan": "none"},
                {"admin": True},
                {"display_name": ""},
                {"display_name": "x" * 65},
                {"disabled": 1},
            ]
            for body in wrong:
                assert (await root.call("PATCH", "/api/admin/users/ada", body)).status == 400, body
            assert (await root.call("PATCH", "/api/admin/users/root", {"disabled": True})).status == 400
            assert (await root.call("PATCH", "/api/admin/users/nobody", {"plan": "member"})).code == "user_not_found"
            await root.ok("PATCH", "/api/admin/users/ada", {"disabled": True})
            assert await tab.closed() == 4401
        await engine.until("vllm:num_requests_running", 0)
        assert (await ada.call("GET", "/api/chats")).status == 401
        users = {user["name"]: user for user in (await root.ok("GET", "/api/admin/users"))["users"]}
        assert (users["ada"]["disabled_at"] is not None, users["root"]["admin"]) == (True, True)
        assert "password_hash" not in users["ada"]
        back = await root.ok("PATCH", "/api/admin/users/ada", {"disabled": False})
        assert back["disabled_at"] is None
        plans = await root.ok("GET", "/api/admin/plans")
        assert plans["plans"].keys() == {"member", "service"}
        assert (await root.call("GET", "/api/admin/usage?by=password")).status == 400


async def test_an_engine_that_was_launched_here() -> None:
    """Its last lines are shown, and a restart from the page is one."""
    engine = {"kind": "simulated", "simulator": {"startup": 0.2}}
    with running_stack({"engine": engine, "auth": OVER_HTTP}) as stack:
        await add_user(stack.state_dir / "gatehouse.db", "root", admin=True)
        async with aiohttp.ClientSession() as http:
            root = await sign_in(stack.url, http, "root")
            shown = await root.ok("GET", "/api/admin/engine?tail=5")
            assert shown["state"] == "ready"
            assert len(shown["tail"]) == 5
            answer = await root.call("POST", "/api/admin/engine/restart", {})
            assert answer.status in {200, 202}, answer.body
