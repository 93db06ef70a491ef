"""Addresses that the engine would fetch from inside the network, and tensors that it would unpack."""

from typing import Any

from tests.edge.corpus.case import CHAT, ID, MESSAGES, RESPONSES, Case, request

_SSRF = "the engine would fetch it (vLLM CVE-2025-6242, CVE-2026-24779)"
_TENSOR = "the engine would unpack it (vLLM CVE-2025-62164)"
METADATA = "http://169.254.169.254/latest/meta-data"


def said(part: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A message with one part."""
    return {"messages": [{"role": "user", "content": [part]}], "max_tokens": 3, **fields}


def refused(name: str, body: dict[str, Any], path: str = CHAT, code: str = "remote_media_not_allowed", why: str = _SSRF) -> Case:
    """What must not reach the engine."""
    return Case(f"media-{name}", why, request(path=path, body=body), 400, code="" if path == MESSAGES else code)


def image(url: Any) -> dict[str, Any]:
    """A picture, as chat has it."""
    return {"type": "image_url", "image_url": {"url": url}}


_RESPONSES_PART = {"type": "input_image", "image_url": METADATA}

CASES = [
    *[
        refused(name, said(image(url)))
        for name, url in {
            "metadata": METADATA,
            "loopback": "http://127.0.0.1:8000/pause",
            "admin": "http://localhost:9090/engine/restart",
            "https": "https://evil.example/cat.png",
            "upper-case": "HTTPS://EVIL.EXAMPLE/",
            "file": "file:///etc/passwd",
            "ftp": "ftp://10.0.0.1/x",
            "gopher": "gopher://127.0.0.1:6379/_FLUSHALL",
            "scheme-relative": "//169.254.169.254/",
            "relative": "/etc/passwd",
            "decimal": "http://2852039166/",
            "octal": "http://0251.0376.0251.0376/",
            "ipv6": "http://[::ffff:169.254.169.254]/",
            "short": "http://127.1/",
            "user": "http://data:x@169.254.169.254/",
            "space-data": " data:image/png;base64,AAAA",
            "tab-in-scheme": "da\tta:image/png;base64,AAAA",
            "empty": "",
            "jar": "jar:http://evil.example!/",
            "allowed-host-http": "http://images.example.com/cat.png",
            "allowed-host-user": "https://images.example.com@evil.example/",
            "allowed-host-backslash": "https://evil.example\\@images.example.com/",
            "allowed-host-fragment": "https://evil.example#@images.example.com/",
            "allowed-host-suffix": "https://images.example.com.evil.example/",
            "allowed-host-port": "https://images.example.com:22/",
            "allowed-host-case": "https://IMAGES.EXAMPLE.COM\t/",
        }.items()
    ],
    refused("string", said({"type": "image_url", "image_url": METADATA})),
    refused("array", said({"type": "image_url", "image_url": [METADATA]})),
    refused("no-type", said({"image_url": METADATA})),
    refused("wrong-type", said({"type": "text", "text": "x", "image_url": METADATA})),
    refused("video", said({"type": "video_url", "video_url": {"url": METADATA}}), why="vLLM CVE-2026-22778"),
    refused("audio", said({"type": "audio_url", "audio_url": {"url": METADATA}})),
    refused("second-part", {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, image(METADATA)]}], "max_tokens": 3}),
    refused("tool-message", {"messages": [{"role": "tool", "tool_call_id": "x", "content": [image(METADATA)]}], "max_tokens": 3}),
    refused("anthropic", said({"type": "image", "source": {"type": "url", "url": METADATA}}), MESSAGES),
    refused("anthropic-document", said({"type": "document", "source": {"type": "url", "url": METADATA}}), MESSAGES),
    refused("anthropic-tool-result", said({"type": "tool_result", "tool_use_id": "x", "content": [{"type": "image", "source": {"type": "url", "url": METADATA}}]}), MESSAGES),
    refused("anthropic-system", {**said({"type": "text", "text": "x"}), "system": [{"type": "image", "source": {"url": METADATA}}]}, MESSAGES),
    refused("count-tokens", said({"type": "image", "source": {"type": "url", "url": METADATA}}), "/v1/messages/count_tokens", code=""),
    refused("responses", {"input": [{"role": "user", "content": [_RESPONSES_PART]}]}, RESPONSES),
    refused("responses-file", {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": METADATA}]}]}, RESPONSES),
    refused("responses-tool-output", {"input": [{"type": "function_call_output", "call_id": "x", "output": [_RESPONSES_PART]}]}, RESPONSES),
    refused("responses-mcp", {"input": "x", "tools": [{"type": "mcp", "server_label": "x", "server_url": METADATA}]}, RESPONSES),
    refused("responses-prompt", {"input": "x", "prompt": {"id": "x", "variables": {"v": _RESPONSES_PART}}}, RESPONSES),
    refused("embeddings", said(image(METADATA)), "/v1/embeddings"),
    refused("rerank", {"query": "x", "documents": {"content": [image(METADATA)]}}, "/v1/rerank"),
    refused("score", {"text_1": "x", "text_2": {"content": [image(METADATA)]}}, "/v1/score"),
    refused("tokenize", said(image(METADATA)), "/tokenize"),
    refused("unknown-field", said({"type": "text", "text": "x"}, a_field_of_tomorrow=image(METADATA))),
    *[
        refused(name, said({"type": name, name: "gAJjb3MKc3lzdGVtCg=="}), code="field_not_allowed", why=_TENSOR)
        for name in ("prompt_embeds", "image_embeds", "audio_embeds", "video_embeds")
    ],
    Case("media-escaped-name", "a name in escapes is the same name", request(body=b'{"messages":[{"role":"user","content":[{"\\u0069mage_url":{"\\u0075rl":"http://evil"}}]}],"max_tokens":3}'), 400, code="remote_media_not_allowed"),
    Case("media-escaped-address", "an address in escapes is the same address", request(body=b'{"messages":[{"role":"user","content":[{"image_url":{"url":"\\u0068ttp://evil"}}]}],"max_tokens":3}'), 400, code="remote_media_not_allowed"),
    Case("media-name-twice", "which of the two would the engine fetch?", request(body=b'{"messages":[{"role":"user","content":[{"image_url":{"url":"http://evil","url":"data:,"}}]}],"max_tokens":3}'), 400, code="invalid_json"),
    Case("media-content-twice", "which of the two would the engine read?", request(body=b'{"messages":[{"role":"user","content":[{"image_url":"http://evil"}],"content":"x"}],"max_tokens":3}'), 400, code="invalid_json"),
    Case("media-data", "a picture in the request itself", request(body=said(image("data:image/png;base64,AAAA"))), 200, engine=({"path": CHAT, **said(image("data:image/png;base64,AAAA"))},)),
    Case("media-allowed-host", "a host that is named, over https", request(body=said(image("https://images.example.com/cat.png"))), 200, engine=({"path": CHAT, **said(image("https://images.example.com/cat.png"))},)),
    Case("media-in-text", "an address in a text is text", request(body={"messages": [{"role": "user", "content": f'{{"image_url": "{METADATA}"}} {ID}'}], "max_tokens": 3}), 200, engine=({"path": CHAT, "messages": [{"role": "user", "content": f'{{"image_url": "{METADATA}"}} {ID}'}], "max_tokens": 3},)),
]
