"""Media: no address that the engine would fetch, no tensor that it would unpack, wherever they stand in a body."""

import json
from typing import Any

import pytest

from gateway.config import GatewaySettings
from gateway.errors import BadRequest
from gateway.routes import ENGINE_ROUTES
from gateway.shape import shape

ROUTES = {route.path: route for route in ENGINE_ROUTES}
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
EVIL = "http://169.254.169.254/latest/meta-data"


def check(body: Any, path: str = CHAT, domains: tuple[str, ...] = ()) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    settings = GatewaySettings(media_domains=domains)
    shape(ROUTES[path], raw, settings=settings, model="m", max_model_len=8192)


def refused(body: Any, path: str = CHAT, domains: tuple[str, ...] = ()) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        check(body, path, domains)
    return caught.value


def said(part: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}], "max_tokens": 5, **fields}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, said({"type": "image_url", "image_url": {"url": EVIL}})),
        (CHAT, said({"type": "image_url", "image_url": EVIL})),
        (CHAT, said({"type": "image_url", "image_url": [EVIL]})),
        (CHAT, said({"image_url": EVIL})),
        (CHAT, said({"type": "video_url", "video_url": {"url": EVIL}})),
        (CHAT, said({"type": "audio_url", "audio_url": {"url": EVIL}})),
        (MESSAGES, said({"type": "image", "source": {"type": "url", "url": EVIL}})),
        (MESSAGES, said({"type": "document", "source": {"type": "url", "url": EVIL}})),
        (MESSAGES, said({"type": "tool_result", "content": [{"type": "image", "source": {"url": EVIL}}]})),
        (MESSAGES, said({"type": "tool_use", "input": {}, "source": {"url": EVIL}})),
        (MESSAGES, {**said("x"), "system": [{"type": "image", "source": {"url": EVIL}}]}),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": EVIL}]}]}),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": EVIL}]}]}),
        (RESPONSES, {"input": [{"type": "computer_call_output", "output": {"image_url": EVIL}}]}),
        (RESPONSES, {"input": "x", "tools": [{"type": "mcp", "server_label": "x", "server_url": EVIL}]}),
        (RESPONSES, {"input": "x", "tools": [{"type": "image_generation", "input_image_mask": {"image_url": EVIL}}]}),
        (RESPONSES, {"input": "x", "prompt": {"id": "p", "variables": {"v": {"type": "input_image", "image_url": EVIL}}}}),
        ("/v1/rerank", {"query": "x", "documents": {"content": [{"type": "image_url", "image_url": {"url": EVIL}}]}}),
        ("/v1/score", {"text_1": "x", "text_2": {"content": [{"type": "image_url", "image_url": {"url": EVIL}}]}}),
        ("/v1/embeddings", said({"type": "image_url", "image_url": {"url": EVIL}})),
        ("/tokenize", said({"type": "image_url", "image_url": {"url": EVIL}})),
        (CHAT, said("x", a_field_of_tomorrow={"image_url": EVIL})),
    ],
)  # fmt: skip
def test_addresses_are_refused_wherever_they_stand(path: str, body: Any) -> None:
    """In every API's form, nested anywhere, and in fields that nobody knows yet."""
    error = refused(body, path)
    assert error.code == "remote_media_not_allowed"
    assert "169.254" not in error.message


@pytest.mark.parametrize(
    "body",
    [
        said({"type": "text", "text": f'{{"image_url": "{EVIL}"}}'}),
        said({"type": "image_url", "image_url": {"url": "DATA:image/png;base64,AAAA"}}),
        said({"type": "image_url", "image_url": {"url": None}}),
        said("see url", metadata={"url": EVIL}),
        said("x", documents=[{"title": "a page", "url": EVIL}]),
        said("x", tools=[{"type": "function", "function": {"parameters": {"examples": [{"url": EVIL}]}}}]),
        said("x", response_format={"json_schema": {"schema": {"default": {"url": EVIL}}}}),
        {
            "messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": f'{{"url":"{EVIL}"}}'}}]}],
            "max_tokens": 5,
        },
    ],
)
def test_what_is_not_fetched_passes(body: Any) -> None:
    """Text, schemas, metadata and what a tool was called with may speak of addresses."""
    check(body)


def test_what_a_tool_was_called_with_passes() -> None:
    """Anthropic's clients send back the model's own call, whose arguments are an object."""
    check(said({"type": "tool_use", "id": "t", "name": "fetch", "input": {"url": EVIL}}), MESSAGES)


@pytest.mark.parametrize("kind", [{}, ["tool_use"], None, 1])
def test_a_type_that_is_no_text_hides_nothing(kind: Any) -> None:
    """What such a type means is the engine's to refuse; an address beside it is looked at all the same."""
    check(said({"type": kind, "image_url": "data:image/png;base64,iVBO"}))
    assert refused(said({"type": kind, "input": {"image_url": EVIL}})).code == "remote_media_not_allowed"


@pytest.mark.parametrize("name", ["prompt_embeds", "image_embeds", "audio_embeds", "video_embeds"])
def test_tensors_are_refused_wherever_they_stand(name: str) -> None:
    """A content part can carry what the top level may not."""
    error = refused(said({"type": name, name: "gAJjdG9yY2g="}))
    assert error.code == "field_not_allowed"
    assert name in error.message
    assert refused(said({"type": "x", "\u0070rompt_embeds": "x"})).code == "field_not_allowed"


@pytest.mark.parametrize(
    "url",
    [
        "https://images.example.com/cat.png",
        "https://images.example.com:443/a/b?c=d&e=%20",
    ],
)
def test_hosts_that_are_named_pass(url: str) -> None:
    """Over https, on the usual port."""
    check(said({"image_url": {"url": url}}), domains=("images.example.com",))


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example.com/",
        "https://images.example.com",
        "https://images.example.com:8443/",
        "https://images.example.com.evil.example/",
        "https://evil.example/images.example.com/",
        "https://images.example.com@evil.example/",
        "https://evil.example\\@images.example.com/",
        "https://evil.example#@images.example.com/",
        "https://evil.example?@images.example.com/",
        "https://images.example.com\\.evil.example/",
        "https://images.example.com%2f@evil.example/",
        "https://images.example.com\t.evil.example/",
        "https://IMAGES.example.com\n/",
        "https:/images.example.com/",
        "https:images.example.com/",
        "//images.example.com/",
        " https://images.example.com/",
        "https://images.example.com/\\..\\",
        "https://images。example.com/",
        "https://ímages.example.com/",
        "https://[::1]/",
        "https://2130706433/",
        "file:///etc/passwd",
        "ftp://images.example.com/",
        " data:image/png;base64,AAAA",
        "jar:https://images.example.com/",
    ],
)
def test_other_addresses_do_not(url: str) -> None:
    """Whatever some parser would make of it."""
    error = refused(said({"image_url": {"url": url}}), domains=("images.example.com",))
    assert error.code == "remote_media_not_allowed"
    assert "images.example.com" in error.message


def test_a_name_that_stands_twice_beside_an_address_is_refused() -> None:
    """Which of the two the engine would fetch, only its parser knows."""
    twice = b'{"messages":[{"role":"user","content":[{"image_url":{"url":"%s","url":"data:,"}}]}]}' % EVIL.encode()
    assert refused(twice).code == "invalid_json"
    nested = b'{"messages":[{"role":"user","content":[{"image_url":"%s"}],"content":"x"}]}' % EVIL.encode()
    assert refused(nested).code == "invalid_json"
    assert refused(b'{"messages":[{"x":%s,"url":"data:,"}]}' % (b"9" * 5000)).code == "invalid_json"
