"""Addresses that the engine would fetch, and tensors that it would unpack, wherever they stand in a body. Pure.

An address in a request is server-side request forgery (vLLM CVE-2025-6242, CVE-2026-24779): it passes as a `data:` URL,
or when its host is one of `gateway.media_domains`. Addresses are matched as a whole against a narrow pattern and not
taken apart: two parsers that disagree on where the host ends are how such checks are passed by.
"""

import json
import re
from collections.abc import Collection
from typing import Any

from gateway.context import Api
from gateway.errors import BadRequest
from gateway.fields import Fields, kind_of

_ADDRESSES = frozenset({"image_url", "audio_url", "video_url", "file_url", "server_url", "url"})
# serialised tensors: unpacking one was remote code execution (vLLM CVE-2025-62164)
_TENSORS = frozenset({"prompt_embeds", "image_embeds", "audio_embeds", "video_embeds"})
# The end of every such name. The search skips from quotation mark to quotation mark, and long texts have few: on 100 KB
# that took a quarter of the time of looking for both ends.
_NAME_END = re.compile(rb'"(?<=[ls]")(?:(?<=url")|(?<=_embeds"))')
_BACKSLASH, _ESCAPED = ord("\\"), b"\\u00"  # a name may be spelt in escapes
# JSON schemas, and what nobody reads: a property may well be called `url`
_NOT_FETCHED = frozenset(
    {"metadata", "user", "response_format", "structured_outputs", "text", "output_config", "guided_json"}
)
_SCHEMAS = frozenset({"function", "parameters", "input_schema"})
_TOOL_USE = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_REMOTE = re.compile(r"https://([a-z0-9](?:[a-z0-9.-]{0,252}[a-z0-9])?)(?::443)?/[A-Za-z0-9._~!$&'()*+,;=:%/?-]*")


def check_media(fields: Fields, body: bytes, api: Api, domains: Collection[str]) -> None:
    """Refuse addresses of other hosts, and tensors. Raises BadRequest; `body` is what `fields` were taken from."""
    if not (_NAME_END.search(body) or (_BACKSLASH in body and _ESCAPED in body)):
        return
    for name, raw in fields.items():
        # the documents of a chat are text for its template; those of a rerank may be pictures
        if name not in _NOT_FETCHED and not (api is Api.CHAT and name == "documents"):
            _Walk(domains, _SCHEMAS if name in {"tools", "functions"} else frozenset()).visit(_strict(raw, name), name)


class _Walk:
    def __init__(self, domains: Collection[str], skipped: Collection[str]) -> None:
        self._domains = domains
        self._skipped = skipped

    def visit(self, value: Any, where: str) -> None:
        if isinstance(value, list):
            for i, item in enumerate(value):
                self.visit(item, f"{where}[{i}]")
        elif isinstance(value, dict):
            kind = value.get("type")
            is_tool_use = isinstance(kind, str) and kind in _TOOL_USE
            for name, item in value.items():
                if name in _TENSORS and item is not None:
                    raise BadRequest(
                        f"`{where}.{name}` cannot be set by a caller, got {kind_of(item)}.",
                        code="field_not_allowed",
                        param=where,
                    )
                if name in _ADDRESSES:
                    self._check(item, where, name)
                # what a tool was called with are the model's words, for the caller's own tool
                if name not in self._skipped and not (is_tool_use and name == "input"):
                    self.visit(item, f"{where}.{name}")

    def _check(self, item: Any, where: str, name: str) -> None:
        if isinstance(item, list):
            for each in item:
                self._check(each, where, name)
        url = item.get("url") if isinstance(item, dict) else item
        if not isinstance(url, str) or url[:5].lower() == "data:":
            return
        match = _REMOTE.fullmatch(url)
        if match is None or match[1] not in self._domains:
            hosts = f", or an https URL of {', '.join(sorted(self._domains))}" if self._domains else ""
            raise BadRequest(
                f"`{where}.{name}` must be a data: URL{hosts}, got a string with another address.",
                code="remote_media_not_allowed",
                param=where,
            )


def _strict(raw: Any, name: str) -> Any:
    """Decode, and refuse a name that stands twice: which of the two counts is every parser's own guess."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            raise BadRequest(f"`{name}` holds an object in which a name stands twice.", code="invalid_json", param=name)
        return value

    try:
        return json.loads(bytes(raw), object_pairs_hook=unique)
    except ValueError as error:  # a number of thousands of digits
        raise BadRequest(f"`{name}` cannot be read: {error}.", code="invalid_json", param=name) from None
