"""docs/openapi.yaml: the API for programs, no route more or less, with the bounds that are in force."""

from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from gateway.app import Gateway
from gateway.config import Config, EngineTarget, GatewaySettings
from gateway.routes import ENGINE_ROUTES
from gateway.shape import REFUSED_FIELDS

ROOT = Path(__file__).parents[3]
DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text("utf-8"))
# what the page uses is no API for programs: it changes with the page
OF_THE_PAGE = ("/api/", "/auth/", "/static/")


def documented() -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}


def served(app: web.Application) -> set[tuple[str, str]]:
    found = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    return {(method, path) for method, path in found if path != "/" and not path.startswith(OF_THE_PAGE)}


async def test_the_routes_are_those_of_the_gateway(tmp_path: Path) -> None:
    """Each has an entry, and each entry is one."""
    gateway = Gateway(Config(state_dir=tmp_path, engine=EngineTarget(url="http://127.0.0.1:1")))
    assert documented() == served(gateway.app)
    assert {("POST", route.path) for route in ENGINE_ROUTES} <= documented()


def test_the_bounds_are_the_defaults() -> None:
    """What the document promises to take is what the settings allow."""
    schemas = DOCUMENT["components"]["schemas"]
    settings = GatewaySettings()
    chat, completion = schemas["Chat"]["properties"], schemas["Completion"]["properties"]
    assert chat["n"]["maximum"] == completion["best_of"]["maximum"] == settings.max_choices
    assert chat["top_logprobs"]["maximum"] == completion["logprobs"]["maximum"] == settings.max_logprobs
    assert schemas["Stop"]["anyOf"][1]["maxItems"] == settings.max_stop
    assert schemas["Tools"]["maxItems"] == settings.max_tools
    assert schemas["LogitBias"]["maxProperties"] == settings.max_token_ids
    assert completion["prompt"]["anyOf"][1]["maxItems"] == settings.max_prompts
    assert schemas["Texts"]["properties"]["documents"]["maxItems"] == settings.max_inputs


def test_no_field_is_promised_that_callers_may_not_set() -> None:
    """The operator's fields are in no schema."""
    for schema in DOCUMENT["components"]["schemas"].values():
        assert not REFUSED_FIELDS & schema.get("properties", {}).keys()
