"""The probes and the admin listener, over real sockets, the launcher's Unix socket included."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway.admin import create_admin_app
from gateway.app import Gateway
from gateway.config import Config, EngineTarget
from gateway.health import setup_health, why_not_ready
from gateway.metrics import Metrics
from gateway.upstream import UpstreamClosed

READY = {"state": "ready", "phase": None, "percent": None, "reason": None}


class KnownEngine:
    """An engine whose status the test sets."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = dict(READY)
        self.text: bytes | None = b"vllm:num_requests_running 1.0\n"

    @property
    def state(self) -> str:
        """Its state."""
        return str(self.status["state"])

    @property
    def ready(self) -> bool:
        """Whether it is ready."""
        return self.state == "ready"

    async def metrics(self) -> bytes:
        """Its metrics, or none to be had."""
        if self.text is None:
            raise UpstreamClosed("the engine's metrics cannot be read: refused")
        return self.text


@pytest.fixture
def engine() -> KnownEngine:
    return KnownEngine()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(models=["m"], plans=["member"], version="1")


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Path]:
    """A launcher's control socket that says what it was asked."""

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/metrics":
            return web.Response(text="gatehouse_engine_restarts_total 2.0\n")
        if request.path == "/reset-prefix-cache":
            return web.json_response({"error": "not offered"}, status=501)
        return web.json_response({"asked": f"{request.method} {request.path_qs}"}, status=202)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    socket = tmp_path / "engine.sock"
    await web.UnixSite(runner, str(socket)).start()
    yield socket
    await runner.cleanup()


async def serve(app: web.Application) -> TestClient:
    client: TestClient = TestClient(TestServer(app))
    await client.start_server()
    return client


async def test_healthz_is_200_while_the_process_lives(engine: KnownEngine) -> None:
    """Alive is not ready: it says 200 and the version, also while the engine is down."""
    engine.status["state"] = "failed"
    app = web.Application()

    async def reasons() -> list[str]:
        return ["the engine is failed"]

    setup_health(app, engine, reasons)
    client = await serve(app)
    answer = await client.get("/healthz")
    assert answer.status == 200
    assert set(await answer.json()) == {"status", "version"}
    await client.close()


async def test_readyz_says_why_not(engine: KnownEngine) -> None:
    """200 only when a request can be served now; else 503 with every reason, and when to ask again."""
    draining = False
    app = web.Application()

    async def reasons() -> list[str]:
        return why_not_ready(engine, draining=draining)

    setup_health(app, engine, reasons)
    client = await serve(app)
    answer = await client.get("/readyz")
    assert (answer.status, await answer.json()) == (200, {"ready": True, "reasons": [], "engine": "ready"})
    engine.status = {"state": "starting", "phase": "loading weights", "percent": 40, "reason": None}
    draining = True
    answer = await client.get("/readyz")
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await answer.json())["reasons"] == [
        "the gateway is shutting down",
        "the engine is starting: loading weights, 40 %",
    ]
    draining = False
    engine.status = {"state": "failed", "reason": "5 failures in 10 minutes"}
    answer = await client.get("/readyz")
    assert (await answer.json())["reasons"] == ["the engine is failed (5 failures in 10 minutes)"]
    await client.close()


async def test_the_admin_listener_tells_it_too(tmp_path: Path) -> None:
    """Also of a process that serves alone."""
    gateway = Gateway(Config(state_dir=tmp_path, engine=EngineTarget(url="http://127.0.0.1:1")))
    client = await serve(gateway.admin_app)
    assert (await client.get("/healthz")).status == 200
    answer = await client.get("/readyz")
    assert (answer.status, await answer.json()) == (
        503,
        {"ready": False, "reasons": ["the engine is unknown"], "engine": "unknown"},
    )
    await client.close()


async def test_both_sides_metrics_are_on_one_listener(engine: KnownEngine, metrics: Metrics) -> None:
    """Ours and vLLM's, in Prometheus' own content type; an engine without metrics is a 502."""
    client = await serve(create_admin_app(metrics, engine))
    for path, content in (("/metrics", "gatehouse_build_info"), ("/engine/metrics", "vllm:num_requests_running")):
        answer = await client.get(path)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert content in await answer.text()
    engine.text = None
    answer = await client.get("/engine/metrics")
    assert answer.status == 502
    assert (await answer.json())["error"]["code"] == "engine_unreachable"
    await client.close()


async def test_the_launchers_metrics_are_there_while_vllm_is_not(
    engine: KnownEngine, metrics: Metrics, launcher: Path, tmp_path: Path
) -> None:
    """Restarts and state are seen when they matter; with both gone it is a 502."""
    client = await serve(create_admin_app(metrics, engine, launcher))
    both = await (await client.get("/engine/metrics")).text()
    assert both == "gatehouse_engine_restarts_total 2.0\nvllm:num_requests_running 1.0\n"
    engine.text = None
    answer = await client.get("/engine/metrics")
    assert (answer.status, await answer.text()) == (200, "gatehouse_engine_restarts_total 2.0\n")
    await client.close()
    client = await serve(create_admin_app(metrics, engine, tmp_path / "gone.sock"))
    assert (await client.get("/engine/metrics")).status == 502
    engine.text = b"vllm:x 1.0\n"
    assert await (await client.get("/engine/metrics")).text() == "vllm:x 1.0\n"
    await client.close()


async def test_controls_are_passed_on_to_the_launcher(engine: KnownEngine, metrics: Metrics, launcher: Path) -> None:
    """Method and action go through, the launcher's status and body come back."""
    client = await serve(create_admin_app(metrics, engine, launcher))
    for action in ("restart", "drain"):
        answer = await client.post(f"/engine/{action}")
        assert (answer.status, await answer.json()) == (202, {"asked": f"POST /{action}"})
    answer = await client.post("/engine/reset-prefix-cache")
    assert (answer.status, await answer.json()) == (501, {"error": "not offered"})
    assert await (await client.get("/engine/status")).json() == READY
    answer = await client.get("/engine/status?tail=5&other=1")
    assert await answer.json() == {"asked": "GET /status?tail=5"}
    await client.close()


async def test_without_a_launcher_the_controls_say_so(engine: KnownEngine, metrics: Metrics, tmp_path: Path) -> None:
    """409 where there is none, 502 where it is gone; the status stays readable."""
    client = await serve(create_admin_app(metrics, engine))
    answer = await client.post("/engine/restart")
    assert answer.status == 409
    assert (await answer.json())["error"]["code"] == "no_launcher"
    assert await (await client.get("/engine/status?tail=5")).json() == READY
    await client.close()
    client = await serve(create_admin_app(metrics, engine, tmp_path / "gone.sock"))
    answer = await client.post("/engine/drain")
    assert answer.status == 502
    assert (await answer.json())["error"]["code"] == "launcher_unreachable"
    await client.close()


@pytest.mark.parametrize("field", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
async def test_a_web_page_cannot_operate_the_engine(
    engine: KnownEngine, metrics: Metrics, launcher: Path, field: dict[str, str]
) -> None:
    """A page in the operator's browser can post to loopback; it is refused."""
    client = await serve(create_admin_app(metrics, engine, launcher))
    answer = await client.post("/engine/restart", headers=field)
    assert answer.status == 403
    await client.close()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("GET /", (404, "not_found")),
        ("POST /engine/explode", (404, "not_found")),
        ("GET /engine/restart", (405, "method_not_allowed")),
        ("GET /v1/models", (404, "not_found")),
        ("PUT /metrics", (405, "method_not_allowed")),
    ],
)
async def test_everything_else_is_refused_in_json(
    engine: KnownEngine, metrics: Metrics, call: str, error: tuple[int, str]
) -> None:
    """What the listener does not offer is a JSON error, not a page."""
    client = await serve(create_admin_app(metrics, engine))
    answer = await client.request(*call.split())
    assert (answer.status, (await answer.json())["error"]["code"]) == error
    await client.close()
