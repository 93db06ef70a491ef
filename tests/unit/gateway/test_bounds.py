"""Bounds: how much one request may ask for, and that a refusal says what was wrong."""

import json
from typing import Any

import pytest

from gateway.config import GatewaySettings
from gateway.errors import BadRequest
from gateway.routes import ENGINE_ROUTES, Route
from gateway.shape import Shaped, shape

ROUTES = {route.path: route for route in ENGINE_ROUTES}
CHAT, COMPLETIONS = ROUTES["/v1/chat/completions"], ROUTES["/v1/completions"]
EMBEDDINGS, RERANK = ROUTES["/v1/embeddings"], ROUTES["/v1/rerank"]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
HELLO = {"messages": [{"role": "user", "content": "hi"}]}


def shaped(body: dict[str, Any], route: Route = CHAT, **settings: Any) -> Shaped:
    return shape(route, json.dumps(body).encode(), settings=GatewaySettings(**settings), model="m", max_model_len=8192)


def refused(body: dict[str, Any], route: Route = CHAT, **settings: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        shaped(body, route, **settings)
    return caught.value


@pytest.mark.parametrize(
    ("field", "fits", "too_much", "kind", "limit"),
    [
        ("n", 8, 9, "an integer: 9", "8"),
        ("best_of", 8, 9, "an integer: 9", "8"),
        ("max_tokens", 8192, 10**30, "an integer", "8192"),
        ("top_logprobs", 20, 21, "an integer: 21", "20"),
        ("logprobs", 20, -1, "an integer: -1", "20"),
        ("prompt_logprobs", 20, -1, "an integer: -1", "20"),
        ("stop", ["x"] * 16, ["x"] * 17, "an array of 17", "16"),
        ("stop", "x" * 8000, "x" * 9000, "a string of 9002 bytes", "8192"),
        ("stop_sequences", ["x"] * 16, ["x"] * 17, "an array of 17", "16"),
        ("bad_words", ["x"] * 16, ["x"] * 17, "an array of 17", "16"),
        ("logit_bias", {str(i): 1 for i in range(1024)}, {str(i): 1 for i in range(1025)}, "an object of 1025", "1024"),
        ("stop_token_ids", [1] * 1024, [1] * 1025, "an array of 1025", "1024"),
        ("allowed_token_ids", [1] * 1024, [1] * 1025, "an array of 1025", "1024"),
        ("logprob_token_ids", [1] * 1024, [1] * 1025, "an array of 1025", "1024"),
        ("tools", [TOOL] * 128, [TOOL] * 129, "an array of 129", "128"),
        ("tools", [TOOL], [{"x": "y" * 300_000}], "an array of 300", "262144"),
        ("functions", [{}], [{}] * 129, "an array of 129", "128"),
        ("response_format", {"x": "y" * 65_000}, {"x": "y" * 66_000}, "an object of 66", "65536"),
        ("structured_outputs", {"regex": "a" * 65_000}, {"regex": "a" * 66_000}, "an object of 66", "65536"),
        ("guided_regex", "a" * 65_000, "a" * 66_000, "a string of 66", "65536"),
    ],
)
def test_what_may_be_asked_for_is_bounded(field: str, fits: object, too_much: object, kind: str, limit: str) -> None:
    """At the bound a request passes; beyond it the refusal names the field, the kind of what came, and the bound."""
    assert shaped({**HELLO, field: fits})
    error = refused({**HELLO, field: too_much})
    assert error.param == field
    assert f"`{field}`" in error.message
    assert kind in error.message
    assert limit in error.message
    assert error.code in {"value_too_large", "value_out_of_range", "invalid_json"}
    assert len(error.message) < 200


def test_log_probabilities_are_bounded_for_the_whole_answer() -> None:
    """8 choices of 8,192 tokens at 20 each would be 131 MB in one answer."""
    error = refused({**HELLO, "n": 8, "max_tokens": 8192, "logprobs": True, "top_logprobs": 20})
    assert (error.param, error.code) == ("logprobs", "value_too_large")
    assert "200000" in error.message
    assert shaped({**HELLO, "max_tokens": 8192, "logprobs": True, "top_logprobs": 20})
    assert shaped({**HELLO, "n": 8, "max_tokens": 8192, "logprobs": True, "top_logprobs": 0})
    assert shaped({**HELLO, "logprobs": False, "top_logprobs": None})


def test_prompts_of_one_request_are_bounded() -> None:
    """A list of token ids is one prompt, however long."""
    assert shaped({"prompt": ["x"] * 64}, COMPLETIONS).choices == 64
    assert refused({"prompt": ["x"] * 65}, COMPLETIONS).param == "prompt"
    assert refused({"prompt": [[1]] * 65}, COMPLETIONS).param == "prompt"
    assert shaped({"prompt": [1] * 5000}, COMPLETIONS).choices == 1
    assert shaped({"input": ["x"] * 2048}, EMBEDDINGS)
    assert refused({"input": ["x"] * 2049}, EMBEDDINGS).param == "input"
    assert shaped({"input": [1] * 5000}, EMBEDDINGS)
    assert refused({"query": "q", "documents": ["x"] * 2049}, RERANK).param == "documents"


def test_an_alias_is_the_model() -> None:
    """The engine and the record get the model's own name."""
    result = shaped({**HELLO, "model": "gpt-4o"}, model_aliases=["gpt-4o"])
    assert result.model == "m"
    assert json.loads(result.encode(0))["model"] == "m"
    assert shaped({**HELLO, "model": "gpt-4"}, model_aliases=["gpt-4o"]).model == "gpt-4"


@pytest.mark.parametrize("route", ENGINE_ROUTES, ids=lambda route: route.path)
def test_the_cache_salt_is_set_where_tokens_are_generated(route: Route) -> None:
    """vLLM 0.32 has the field on chat, completions, responses and messages."""
    body = {**HELLO, "max_tokens": 5, "input": "x", "prompt": "x"}
    shape_of = shape(
        route, json.dumps(body).encode(), settings=GatewaySettings(), model="m", max_model_len=99, cache_salt="s"
    )
    assert ("cache_salt" in json.loads(shape_of.encode(0))) == route.generates


def test_a_plan_has_its_own_default() -> None:
    """It goes before the gateway's, and below the plan's largest."""

    def limit(**plan: Any) -> int:
        raw = json.dumps(HELLO).encode()
        return shape(CHAT, raw, settings=GatewaySettings(), model="m", max_model_len=8192, **plan).max_tokens

    assert limit() == 2048
    assert limit(plan_default_tokens=100) == 100
    assert limit(plan_default_tokens=100, plan_max_tokens=50) == 50
