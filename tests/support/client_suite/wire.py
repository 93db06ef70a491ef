"""Byte-true: what a client gets through the gateway is what the engine answers to the same request sent to it directly.

Two answers to one request differ in ids and clocks (`_VARIABLE`), and vLLM joins tokens into one event when its server
lags, so adjacent deltas of one kind are joined before they are compared (`Stream`). Nothing else is normalised.
"""

from __future__ import annotations

import http.client
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.client_suite import CHINESE, JSON_SCHEMA, MESSAGES, SCHEMA, TOOL
from tests.support.stack import Stack

_CHAT = "/v1/chat/completions"
_TEXT = "/v1/completions"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (_CHAT, {"messages": MESSAGES, "max_tokens": 40}),
    "chat without a limit": (_CHAT, {"messages": MESSAGES, "temperature": 1}),  # one that ends by itself
    "chat, stop": (_CHAT, {"messages": MESSAGES, "max_tokens": 40, "stop": [" five", "\n"]}),
    "chat, logprobs": (_CHAT, {"messages": MESSAGES, "max_tokens": 8, "logprobs": True, "top_logprobs": 3}),
    "chat, reasoning left out": (_CHAT, {"messages": MESSAGES, "max_tokens": 40, "include_reasoning": False}),
    "chat, n": (_CHAT, {"messages": MESSAGES, "max_tokens": 40, "n": 3, "temperature": 1}),
    "chat, tools": (_CHAT, {"messages": MESSAGES, "max_tokens": 60, "tools": [TOOL], "tool_choice": "required"}),
    "chat, one tool": (
        _CHAT,
        {
            "messages": MESSAGES,
            "max_tokens": 60,
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        },
    ),
    "chat, json_schema": (_CHAT, {"messages": MESSAGES, "max_tokens": 60, "response_format": JSON_SCHEMA}),
    "chat, a field unknown to vLLM": (_CHAT, {"messages": MESSAGES, "max_tokens": 8, "x_unknown": {"a": [1.50, 2e3]}}),
    "chat, an error of vLLM": (_CHAT, {"messages": MESSAGES, "temperature": -1}),
    "completions": (_TEXT, {"prompt": "def main():", "max_tokens": 12}),
    "completions, default limit": (_TEXT, {"prompt": "import os"}),
    "completions, Chinese": (
        _TEXT,
        {"prompt": "天气：", "max_tokens": 80, "structured_outputs": {"choice": [CHINESE]}},
    ),
    "completions, prompts and n": (
        _TEXT,
        {"prompt": ["a b", "import"], "max_tokens": 6, "n": 2, "temperature": 1},
    ),
    "completions, logprobs and echo": (_TEXT, {"prompt": "今天 a", "max_tokens": 6, "logprobs": 2, "echo": True}),
    "completions, json_schema": (_TEXT, {"prompt": "{", "max_tokens": 60, "response_format": JSON_SCHEMA}),
    "responses": ("/v1/responses", {"input": "Hello", "max_output_tokens": 40}),
    "responses, json_schema": (
        "/v1/responses",
        {
            "input": "Hello",
            "max_output_tokens": 40,
            "text": {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA}},
        },
    ),
    "messages": ("/v1/messages", {"messages": MESSAGES, "max_tokens": 40, "system": "Be brief."}),
    "messages, tools": (
        "/v1/messages",
        {"messages": MESSAGES, "max_tokens": 40, "tools": [{"name": "get_weather", "input_schema": SCHEMA}]},
    ),
}
STREAM_OPTIONS: dict[str, dict[str, Any]] = {
    "no usage asked": {},
    "usage refused": {"stream_options": {"include_usage": False}},
    "usage asked": {"stream_options": {"include_usage": True}},
    "running usage asked": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
}
TOKEN_IDS: dict[str, dict[str, Any]] = {
    "alone": {"return_token_ids": True},
    "refused": {"return_token_ids": False},
    "with usage": {"return_token_ids": True, **STREAM_OPTIONS["usage asked"]},
    "with running usage": {"return_token_ids": True, **STREAM_OPTIONS["running usage asked"]},
}


@pytest.mark.parametrize("case", CASES)
def test_an_answer_in_one_piece_is_byte_true(stack: Stack, case: str) -> None:
    """Without streaming, the gateway's answer has the engine's status, content type and bytes."""
    path, body = request_of(stack, case)
    send(stack, path, body, direct=True)  # so that both find the same prefix cache
    engine = send(stack, path, body, direct=True)
    gateway = send(stack, path, body)
    assert (gateway.status, gateway.headers["content-type"]) == (engine.status, engine.headers["content-type"])
    assert without_variables(gateway.body) == without_variables(engine.body)


@pytest.mark.parametrize("case", CASES)
def test_a_stream_is_byte_true(stack: Stack, case: str) -> None:
    """Streaming, the gateway's events are the engine's own: usage in none of them, as the client asked for none."""
    path, body = request_of(stack, case, stream=True)
    assert_same_stream(stack, path, body)


@pytest.mark.parametrize("options", STREAM_OPTIONS)
@pytest.mark.parametrize("case", ["chat", "chat, n", "completions", "completions, prompts and n"])
def test_usage_in_a_stream_is_what_the_client_asked_for(stack: Stack, case: str, options: str) -> None:
    """A client that asked for no usage sees none, one that asked sees vLLM's, where vLLM puts it."""
    path, body = request_of(stack, case, stream=True, **STREAM_OPTIONS[options])
    answer = assert_same_stream(stack, path, body)
    assert (b'"usage":{' in answer) == ("asked" in options and "no " not in options)


@pytest.mark.parametrize("options", TOKEN_IDS)
@pytest.mark.parametrize(
    "case", ["chat", "chat, n", "chat, logprobs", "completions, prompts and n", "completions, logprobs and echo"]
)
def test_token_ids_in_a_stream_are_what_the_client_asked_for(stack: Stack, case: str, options: str) -> None:
    """Who asks for token ids gets them, of prompt and answer, and the chunks that nobody else gets."""
    path, body = request_of(stack, case, stream=True, **TOKEN_IDS[options])
    answer = assert_same_stream(stack, path, body)
    assert (re.search(rb'"token_ids":\[\d', answer) is not None) == (options != "refused")


@dataclass
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


def request_of(stack: Stack, case: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """Path and body of a case: reproducible, so that two answers can be compared."""
    path, fields = CASES[case]
    return path, {"model": stack.model, "temperature": 0, "seed": 5, **fields, **more}


def send(
    stack: Stack, path: str, body: Any, *, direct: bool = False, request_id: str = "byte-true", **headers: str
) -> Answer:
    """Send a request through the gateway, or to the engine itself with its internal key."""
    where = urlsplit(stack.engine_url if direct else stack.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    fields = {
        "Authorization": f"Bearer {stack.engine_key if direct else stack.token()}",
        "Content-Type": "application/json",
        "X-Request-Id": request_id,  # vLLM makes its ids of it
        **headers,
    }
    try:
        connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body), fields)
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def assert_same_stream(stack: Stack, path: str, body: Any) -> bytes:
    """Compare the two streams; returns the gateway's. A busy vLLM may put a whole answer into one event: asked again."""
    for _ in range(5):
        engine = send(stack, path, body, direct=True)
        gateway = send(stack, path, body)
        if Stream.of(gateway.body) == Stream.of(engine.body):
            break
    assert (gateway.status, gateway.headers["content-type"]) == (engine.status, engine.headers["content-type"])
    assert Stream.of(gateway.body) == Stream.of(engine.body)
    return gateway.body


# ids that vLLM draws by lot, its clock, and the signature of a thinking block
_VARIABLE = re.compile(
    rb'"(?:resp|msg|rs|fc|call|chatcmpl-tool)[_-][0-9A-Za-z]+"|(?<="created":)\d+|(?<=ed_at":)[\d.]+'
    rb'|(?<="signature":)"[0-9a-f]+"|[0-9a-f]{8}-[0-9a-f-]{27}'
)
_TEXT_FIELD = re.compile(
    rb'"(content|reasoning|text|thinking|partial_json|arguments|delta)":"((?:[^"\\]|\\.)*)"', re.DOTALL
)
_RUNNING = re.compile(rb'(?<="choices":\[\{)(.*)(,"usage":\{(?:[^{}]|\{[^{}]*\})*\})', re.DOTALL)
_LOGPROBS = re.compile(rb'"logprobs":(\{.*?\})(?=,"(?:finish_reason|stop_reason)")', re.DOTALL)
_IDS = re.compile(rb'"token_ids":(\[[\d,]*\])')
_COUNTED = re.compile(rb'(?<="sequence_number":)\d+')


def without_variables(body: bytes) -> bytes:
    """The bytes with a dash in place of ids and clocks."""
    return _VARIABLE.sub(b"-", body)


@dataclass
class Stream:
    """A stream of events, independent of how tokens were spread over them.

    `events`: for each choice the raw events without their text, repetitions of one kind joined. `texts`: for each
    choice and kind of text the whole of it, still as escaped in JSON. `logprobs` and `token_ids`: likewise.
    """

    events: dict[bytes, list[bytes]] = field(default_factory=dict)
    texts: dict[tuple[bytes, bytes], bytes] = field(default_factory=dict)
    logprobs: dict[bytes, list[Any]] = field(default_factory=dict)
    token_ids: dict[bytes, list[int]] = field(default_factory=dict)
    running_usage: dict[bytes, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, body: bytes) -> Stream:
        """Take a stream apart."""
        stream = cls()
        for event in without_variables(body).split(b"\n\n"):
            stream._add(event)
        return stream

    def _add(self, event: bytes) -> None:
        match = re.search(rb'"choices":\[\{"index":(\d+)', event)
        choice = match[1] if match else b""

        def take_text(found: re.Match[bytes]) -> bytes:
            key = (choice, found[1])
            self.texts[key] = self.texts.get(key, b"") + found[2]
            return b'"%b":""' % found[1]

        def take_logprobs(found: re.Match[bytes]) -> bytes:
            parts = [value for value in json.loads(found[1]).values() if isinstance(value, list)]
            whole = self.logprobs.setdefault(choice, [[] for _ in parts])
            for known, part in zip(whole, parts, strict=True):
                known.extend(part)
            return b'"logprobs":{}'

        def take_token_ids(found: re.Match[bytes]) -> bytes:
            self.token_ids.setdefault(choice, []).extend(json.loads(found[1]))
            return b'"token_ids":[]'

        def take_usage(found: re.Match[bytes]) -> bytes:
            self.running_usage[choice] = found[2]  # the last one stands: those between depend on how tokens were joined
            return found[1]

        event = _RUNNING.sub(take_usage, event)
        event = _IDS.sub(take_token_ids, _LOGPROBS.sub(take_logprobs, event))
        event = _COUNTED.sub(b"-", _TEXT_FIELD.sub(take_text, event))
        events = self.events.setdefault(choice, [])
        if not events or events[-1] != event:
            events.append(event)
