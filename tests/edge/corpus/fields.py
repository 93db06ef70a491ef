"""Fields that callers may not set, and how much may be asked for."""

import json
from typing import Any

from gateway.shape import REFUSED_FIELDS
from tests.edge.corpus.case import CHAT, COMPLETIONS, HELLO, MESSAGES, RESPONSES, Case, request

_OWNED = "the operator's field (docs/security.md says why)"
_MUCH = "asks for more than one request may cost"
_ANTHROPIC = {"model": "gpt-oss-20b", "max_tokens": 3, "messages": [{"role": "user", "content": "hello CASEIDXX"}]}


def refused(name: str, body: dict[str, Any], code: str, why: str = _MUCH, path: str = CHAT) -> Case:
    """A field that must not pass."""
    checked = "" if path == MESSAGES else code  # Anthropic's errors have no code
    return Case(f"field-{name}", why, request(path=path, body=body), 400, code=checked)


def hello(**fields: Any) -> dict[str, Any]:
    """An ordinary request with these fields."""
    return {**HELLO, **fields}


def passes(name: str, why: str, body: dict[str, Any], path: str = CHAT, **added: Any) -> Case:
    """A field that passes as it is."""
    return Case(f"field-{name}", why, request(path=path, body=body), 200, engine=({"path": path, **body, **added},))


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}

CASES = [
    *[refused(f"{name}", hello(**{name: {"evil": 1}}), "field_not_allowed", _OWNED) for name in sorted(REFUSED_FIELDS)],
    *[
        refused(f"{name}-{path.rsplit('/', 1)[1]}", {**body, name: -9}, "field_not_allowed", _OWNED, path)
        for name in ("priority", "cache_salt", "request_id", "kv_transfer_params")
        for path, body in (
            (COMPLETIONS, {"prompt": "x"}),
            (RESPONSES, {"input": "x"}),
            (MESSAGES, _ANTHROPIC),
            ("/v1/embeddings", {"input": "x"}),
            ("/tokenize", {"prompt": "x"}),
        )
    ],
    refused("background", {"input": "x", "background": True}, "field_not_allowed", "its tokens would be nobody's", RESPONSES),
    refused("template-arguments", hello(chat_template_kwargs={"enable_thinking": True, "evil": "{{ x }}"}), "field_not_allowed", _OWNED),
    refused("n", hello(n=100_000), "value_out_of_range", "vLLM CVE-2026-34756"),
    refused("n-zero", hello(n=0), "value_out_of_range"),
    refused("n-negative", hello(n=-1), "value_out_of_range"),
    refused("best-of", hello(best_of=100_000), "value_out_of_range"),
    refused("max-tokens", hello(max_tokens=10**9), "value_out_of_range"),
    refused("max-tokens-negative", hello(max_tokens=-1), "value_out_of_range"),
    refused("max-tokens-zero", hello(max_tokens=0), "value_out_of_range"),
    refused("max-tokens-boolean", hello(max_tokens=True), "invalid_type"),
    refused("max-tokens-object", hello(max_tokens={"$gt": 0}), "invalid_type"),
    refused("max-completion-tokens", hello(max_completion_tokens=10**9), "value_out_of_range"),
    refused("max-output-tokens", {"input": "x", "max_output_tokens": 10**9}, "value_out_of_range", path=RESPONSES),
    refused("messages-max-tokens", {**_ANTHROPIC, "max_tokens": 10**9}, "value_out_of_range", path=MESSAGES),
    refused("messages-no-max-tokens", {"messages": []}, "missing_field", path=MESSAGES),
    refused("logprobs-all", hello(top_logprobs=-1), "value_out_of_range", "-1 means the whole vocabulary"),
    refused("prompt-logprobs-all", hello(prompt_logprobs=-1), "value_out_of_range", "-1 means the whole vocabulary"),
    refused("logprobs", {"prompt": "x", "logprobs": 10_000}, "value_too_large", path=COMPLETIONS),
    refused("logprobs-in-all", hello(n=8, max_tokens=8000, logprobs=True, top_logprobs=20), "value_too_large", "131 MB in one answer"),
    refused("stop", hello(stop=["x"] * 100), "value_too_large"),
    refused("stop-long", hello(stop="x" * 100_000), "value_too_large"),
    refused("stop-object", hello(stop={"a": 1}), "invalid_type"),
    refused("stop-sequences", {**_ANTHROPIC, "stop_sequences": ["x"] * 100}, "value_too_large", path=MESSAGES),
    refused("bad-words", hello(bad_words=["x"] * 1000), "value_too_large"),
    refused("logit-bias", hello(logit_bias={str(i): 1 for i in range(2000)}), "value_too_large"),
    refused("allowed-token-ids", hello(allowed_token_ids=list(range(2000))), "value_too_large"),
    refused("stop-token-ids", hello(stop_token_ids=list(range(2000))), "value_too_large"),
    refused("tools-many", hello(tools=[TOOL] * 200), "value_too_large"),
    refused("tools-large", hello(tools=[{**TOOL, "x": "y" * 300_000}]), "value_too_large"),
    refused("schema-large", hello(response_format={"type": "json_schema", "json_schema": {"x": "y" * 100_000}}), "value_too_large"),
    refused("regex-large", hello(structured_outputs={"regex": "(a+)+" * 20_000}), "value_too_large"),
    refused("grammar-large", hello(guided_grammar="x" * 100_000), "value_too_large"),
    refused("prompts-many", {"prompt": ["x"] * 1000}, "value_too_large", path=COMPLETIONS),
    refused("inputs-many", {"input": ["x"] * 5000}, "value_too_large", path="/v1/embeddings"),
    refused("documents-many", {"query": "x", "documents": ["x"] * 5000}, "value_too_large", path="/v1/rerank"),
    refused("stream-options-array", hello(stream=True, stream_options=[]), "invalid_type"),
    refused("previous-response-object", {"input": "x", "previous_response_id": {"a": 1}}, "invalid_type", path=RESPONSES),
    Case("field-previous-response-of-others", "a conversation that is somebody else's", request(path=RESPONSES, body={"input": "x", "previous_response_id": "resp_0123456789"}), 404, code="response_not_found"),
    passes("null-is-nothing", "null is what clients send for nothing", hello(n=None, stop=None, tools=None)),
    passes("unknown", "what nobody knows yet is the engine's to judge", hello(a_field_of_tomorrow={"x": [1]})),
    passes("reasoning", "the reasoning switches pass", hello(chat_template_kwargs={"enable_thinking": False})),
    passes("tools", "ordinary tools", hello(tools=[TOOL])),
    Case("field-null-owned", "null is nothing: an owned field with it is left out", request(body=hello(priority=None, cache_salt=None)), 200, engine=({"path": CHAT, **HELLO},)),
    Case("field-alias", "an alias is the model's name", request(body=hello(model="alias")), 200, engine=({"path": CHAT, **HELLO},)),
    Case("field-usage-override", "the gateway asks for figures whatever the client says", request(body=hello(stream=True, stream_options={"include_usage": False}, return_token_ids=False)), 200, engine=({"path": CHAT, **json.loads(json.dumps(HELLO)), "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": False}, "return_token_ids": True},)),
]
