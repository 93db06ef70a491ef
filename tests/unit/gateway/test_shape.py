"""Shape: which requests may pass, and what the engine gets of them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import GatewaySettings
from gateway.context import Api
from gateway.errors import BadRequest
from gateway.routes import ENGINE_ROUTES, Route
from gateway.shape import NOTHING, REFUSED_FIELDS, Shaped, shape

ROUTES = {route.path: route for route in ENGINE_ROUTES}
CHAT = ROUTES["/v1/chat/completions"]
COMPLETIONS = ROUTES["/v1/completions"]
RESPONSES = ROUTES["/v1/responses"]
MESSAGES = ROUTES["/v1/messages"]
HELLO = {"messages": [{"role": "user", "content": "hi"}]}


def shaped(body: Any, route: Route = CHAT, *, plan_max_tokens: int | None = None, **settings: Any) -> Shaped:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return shape(
        route,
        raw,
        settings=GatewaySettings(**settings),
        model="m",
        max_model_len=8192,
        plan_max_tokens=plan_max_tokens,
    )


def refused(body: Any, route: Route = CHAT, **settings: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        shaped(body, route, **settings)
    return caught.value


names = st.text(max_size=5).filter(lambda name: name != "url")  # what it holds is checked
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.from_regex(r"x_[a-z]{1,8}", fullmatch=True), json_values, max_size=5), st.booleans())
def test_unknown_fields_reach_the_engine_as_they_are(extra: dict[str, Any], escaped: bool) -> None:
    """Bytes of values are not touched, whether a text came as UTF-8 or as escapes."""
    body = json.dumps({**HELLO, **extra}, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    try:
        body.decode()
    except UnicodeDecodeError:
        assert refused(body).code == "invalid_json"
        return
    got = json.loads(shaped(body).encode(0))
    assert {name: got[name] for name in extra} == json.loads(json.dumps(extra))


def test_numbers_keep_their_spelling() -> None:
    """A number that no Python type holds exactly is the engine's to read."""
    body = b'{"messages":[{"role":"user","content":"\\u4f60"}],"x":1e400,"y":0.10,"z":123456789012345678901234567890}'
    encoded = shaped(body).encode(0)
    assert b'"x":1e400,"y":0.10,"z":123456789012345678901234567890' in encoded
    assert b'"\\u4f60"' in encoded


def test_a_name_that_stands_twice_reaches_the_engine_once() -> None:
    """What was checked is what the engine reads: the last one, as JSON parsers agree on."""
    body = b'{"messages":[],"n":100000,"n":2,"max_tokens":5}'
    result = shaped(body)
    assert result.choices == 2
    assert result.encode(0).count(b'"n":') == 1


@pytest.mark.parametrize("field", sorted(REFUSED_FIELDS))
def test_fields_of_the_gateway_are_refused_by_name(field: str) -> None:
    """A caller who could set `priority` or `cache_salt` would be served before others, or learn what they asked."""
    error = refused({**HELLO, field: {"x": 1}})
    assert error.param == field
    assert field in error.message
    assert field not in shaped({**HELLO, field: None}).fields or field == "priority"


def test_reasoning_switches_of_the_template_pass() -> None:
    """The one template argument that clients need."""
    body = {**HELLO, "chat_template_kwargs": {"reasoning_effort": "low"}}
    assert "chat_template_kwargs" in shaped(body).fields


def test_background_work_is_refused() -> None:
    """Its tokens would be generated after the request's record is closed."""
    assert refused({"input": "x", "background": True}, RESPONSES).param == "background"
    assert shaped({"input": "x", "background": False}, RESPONSES).max_tokens


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'"x"', "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"a":"\xff"}', "invalid_json"),
        (b'{"messages":[]} x', "invalid_json"),
        (b'{"model":"\\ud800"}', "invalid_json"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "json_too_deep"),
        (b'{"a":' + b"[" * 70 + b"]" * 70 + b"}", "json_too_deep"),
        (b'{"a":' + b'{"b":' * 64 + b"1" + b"}" * 64 + b"}", "json_too_deep"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes, code: str) -> None:
    """Malformed, not UTF-8, not an object, too deep: each is named."""
    assert refused(body).code == code


def test_brackets_in_texts_are_no_nesting() -> None:
    """Depth counts structure only, and width is no depth."""
    content = '[[[{{{\\"[' * 50
    body = {"messages": [{"role": "user", "content": content} for _ in range(50)]}
    assert shaped(body).model == "m"


nested = st.recursive(
    st.text('[{]}"\\x', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[{]}"\\', max_size=3), inner, max_size=3),
)


@given(nested, st.integers(1, 6))
def test_depth_is_that_of_the_deepest_value(value: Any, allowed: int) -> None:
    """Whatever quotation marks, escapes and brackets the texts hold, the names among them."""

    def depth(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    body = {"x": value}
    if depth(body) > allowed:
        assert refused(body, max_json_depth=allowed).code == "json_too_deep"
    else:
        assert shaped(body, max_json_depth=allowed).model == "m"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": 7}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream": True, "return_token_ids": 1}, "return_token_ids"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 8193}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"best_of": 100}, "best_of"),
        ({"logprobs": "x"}, "logprobs"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": 5}, "stop"),
    ],
)
def test_wrong_types_and_values_name_the_field(body: dict[str, Any], param: str) -> None:
    """The message says what was expected and what came."""
    error = refused({**HELLO, **body})
    assert error.param == param
    assert f"`{param}`" in error.message


def test_a_number_beyond_all_types_is_refused() -> None:
    """1e400 fits no float; where the gateway needs the value, it says so."""
    assert refused(b'{"messages":[],"n":1e400}').param == "n"


@pytest.mark.parametrize("value", [None, True, 5])
def test_logprobs_in_both_apis_forms(value: object) -> None:
    """Chat takes a boolean, completions a number."""
    assert shaped({**HELLO, "logprobs": value}).choices == 1


def test_every_request_has_an_output_limit() -> None:
    """One is set where the client names none, or a reservation of tokens would mean nothing."""
    result = shaped(HELLO, default_max_tokens=100)
    assert result.max_tokens == 100
    assert json.loads(result.encode(0))["max_completion_tokens"] == 100
    assert shaped({"prompt": "x"}, COMPLETIONS).max_tokens == 16
    assert shaped({"input": "x"}, RESPONSES, default_max_tokens=9).max_tokens == 9
    assert refused({**HELLO, "model": "m"}, MESSAGES).code == "missing_field"


def test_the_output_limit_counts_every_choice() -> None:
    """n answers to each of several prompts."""
    assert shaped({**HELLO, "n": 3, "max_tokens": 10}).max_tokens == 30
    result = shaped({"prompt": ["a", "b"], "n": 2, "max_tokens": 10}, COMPLETIONS)
    assert (result.choices, result.choices_per_prompt, result.max_tokens) == (4, 2, 40)
    assert shaped({"prompt": [[1, 2], [3]]}, COMPLETIONS).choices == 2
    assert shaped({"prompt": [1, 2, 3]}, COMPLETIONS).choices == 1


def test_a_plan_bounds_the_output() -> None:
    """Both what a client asks for and the default."""
    assert refused({**HELLO, "max_tokens": 51}, plan_max_tokens=50).param == "max_tokens"
    assert shaped(HELLO, plan_max_tokens=50).max_tokens == 50


@pytest.mark.parametrize(
    ("options", "show", "running"),
    [
        (None, False, False),
        ({"include_usage": False}, False, False),
        ({"include_usage": True}, True, False),
        ({"include_usage": True, "continuous_usage_stats": True}, True, True),
        ({"continuous_usage_stats": True}, False, False),
    ],
)
def test_the_engine_is_always_asked_for_figures(options: dict[str, Any] | None, show: bool, running: bool) -> None:
    """For usage at the end, and until then for token ids, unless the client reads usage in every chunk itself. The
    client's own wish is remembered, for the way back.
    """
    result = shaped({**HELLO, "stream": True, **({"stream_options": options} if options else {})})
    assert (result.show_usage, result.show_running_usage, result.show_token_ids) == (show, running, running)
    sent = json.loads(result.encode(0))
    assert sent["stream_options"] == {"include_usage": True, "continuous_usage_stats": running}
    assert sent.get("return_token_ids") is (None if running else True)


@pytest.mark.parametrize("ids", [True, False, None])
@pytest.mark.parametrize("running", [True, False])
def test_who_asks_for_token_ids_gets_them(ids: bool | None, running: bool) -> None:
    """And what else the client asks for, too."""
    options = {"include_usage": True, "continuous_usage_stats": running}
    result = shaped({**HELLO, "stream": True, "stream_options": options, "return_token_ids": ids})
    assert result.show_token_ids is bool(ids or running)
    sent = json.loads(result.encode(0))
    assert sent["stream_options"] == options
    assert sent["return_token_ids"] is (ids if running else True)


@pytest.mark.parametrize(
    ("fields", "by_ids"),
    [
        ({"logprobs": True}, False),
        ({"logprobs": False}, True),
        ({"logprobs": None}, True),
        ({"include_reasoning": False}, False),
        ({"include_reasoning": True}, True),
        ({"echo": True}, False),
        ({"echo": False}, True),
    ],
)
def test_where_token_ids_change_the_stream_running_usage_is_asked_for(fields: dict[str, Any], by_ids: bool) -> None:
    """vLLM leaves out an echoed prompt, sends other chunks beside logprobs, and tells no ids of hidden reasoning."""
    result = shaped({**HELLO, "stream": True, **fields})
    sent = json.loads(result.encode(0))
    assert (sent.get("return_token_ids"), sent["stream_options"]["continuous_usage_stats"]) == (
        by_ids or None,
        not by_ids,
    )
    assert result.show_token_ids is not by_ids


def test_token_ids_are_not_asked_for_where_nothing_streams() -> None:
    """An answer in one piece has its usage, other protocols know no token ids."""
    assert "return_token_ids" not in shaped(HELLO).fields
    for route in (MESSAGES, RESPONSES):
        assert "return_token_ids" not in shaped({"max_tokens": 5, "stream": True}, route).fields


def test_stream_options_without_a_stream_are_the_engines_to_refuse() -> None:
    """Nothing is added to a request that is not streamed."""
    assert "stream_options" not in shaped(HELLO).fields
    assert shaped({**HELLO, "stream_options": {"include_usage": True}}).fields["stream_options"]


def test_priority_is_the_gateways() -> None:
    """It is set where vLLM reads it."""
    assert json.loads(shaped(HELLO).encode(7))["priority"] == 7
    assert "priority" not in json.loads(shaped({**HELLO, "max_tokens": 5}, MESSAGES).encode(7))
    assert "priority" not in json.loads(shaped({"input": "x"}, ROUTES["/v1/embeddings"]).encode(7))


def test_the_model_is_filled_in() -> None:
    """vLLM takes a body without one; the record needs a name."""
    assert json.loads(shaped(HELLO).encode(0))["model"] == "m"
    assert shaped({**HELLO, "model": "other"}).model == "other"


@pytest.mark.parametrize("url", ["http://10.0.0.1/x", "HTTPS://x", "file:///etc/passwd", " //x", ""])
@pytest.mark.parametrize("form", ["chat", "chat-string", "responses", "anthropic"])
def test_remote_media_are_refused(url: str, form: str) -> None:
    """The engine would fetch it from inside the network."""
    part: dict[str, Any] = {
        "chat": {"type": "image_url", "image_url": {"url": url}},
        "chat-string": {"type": "image_url", "image_url": url},
        "responses": {"type": "input_image", "image_url": url},
        "anthropic": {"type": "image", "source": {"type": "url", "url": url}},
    }[form]
    field = "input" if form == "responses" else "messages"
    body = {field: [{"role": "user", "content": [part]}], "max_tokens": 5}
    route = {"responses": RESPONSES, "anthropic": MESSAGES}.get(form, CHAT)
    assert refused(body, route).code == "remote_media_not_allowed"


def test_remote_media_are_found_behind_escapes() -> None:
    """`image\\u005furl` is image_url."""
    body = b'{"messages":[{"role":"user","content":[{"type":"image\\u005furl","\\u0069mage_url":{"url":"http://x"}}]}]}'
    assert refused(body).code == "remote_media_not_allowed"
    body = b'{"messages":[{"role":"user","content":[{"type":"x","\\u0075rl":"http://x"}]}]}'
    assert refused(body).code == "remote_media_not_allowed"


def test_data_urls_pass() -> None:
    """A picture in the request itself."""
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert shaped({"messages": [{"role": "user", "content": [part]}]}).model == "m"


def test_the_prompt_of_each_api() -> None:
    """The estimate is made of the text only, not of the parameters."""
    long = "word " * 500
    assert shaped({**HELLO, "user": long}).prompt_estimate == shaped(HELLO).prompt_estimate < 50
    assert shaped({"input": "x", "instructions": long}, RESPONSES).prompt_estimate > 300
    assert shaped({"prompt": long}, COMPLETIONS).prompt_estimate > 300
    assert shaped({"messages": [], "system": long, "max_tokens": 1}, MESSAGES).prompt_estimate > 300


def test_a_limit_is_set_only_where_it_surely_fits() -> None:
    """VLLM up to 0.25 answers 400 where prompt and limit exceed the context; without one it takes what is left."""
    long = {"messages": [{"role": "user", "content": "word " * 6000}]}
    result = shaped(long)
    assert "max_completion_tokens" not in result.fields
    assert 1 <= result.max_tokens < 8192 - result.prompt_estimate
    assert shaped({"messages": [{"role": "user", "content": "word " * 20_000}]}).max_tokens == 1
    # a plan's bound holds all the same
    assert "max_completion_tokens" in shaped(long, plan_max_tokens=4096).fields
    assert shaped(long, plan_max_tokens=100).max_tokens == 100


def test_a_request_without_a_body() -> None:
    """GET routes relay nothing."""
    assert NOTHING.encode(0) == b"{}"
    assert {route.api for route in ENGINE_ROUTES} == set(Api)
