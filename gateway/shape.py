"""Which requests may pass, and how they are rewritten for the engine. Pure.

The body is taken apart one level deep only: each top-level value stays the bytes that the client sent, so that numbers,
escapes and spacing reach the engine as they were, and a name that stands twice reaches it once.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.config import GatewaySettings
from gateway.context import Api
from gateway.dialects.openai import running_usage
from gateway.errors import BadRequest
from gateway.estimate import estimate_prompt_tokens
from gateway.routes import Route

# set by the gateway, or of no business of a caller (docs/security.md names the incident behind each)
REFUSED_FIELDS = frozenset(
    {
        "priority",
        "request_id",
        "cache_salt",
        "kv_transfer_params",
        "ec_transfer_params",
        "vllm_xargs",
        "mm_processor_kwargs",
        "media_io_kwargs",
        "prompt_embeds",
        "chat_template",
        "chat_template_kwargs",
    }
)
# gpt-oss and others take their reasoning switches here, so this one passes in spite of its name
_ALLOWED_TEMPLATE_ARGUMENTS = frozenset({"reasoning_effort", "enable_thinking", "thinking"})

_OUTPUT_LIMITS = {
    Api.CHAT: ("max_completion_tokens", "max_tokens"),
    Api.COMPLETIONS: ("max_tokens",),
    Api.RESPONSES: ("max_output_tokens",),
    Api.MESSAGES: ("max_tokens",),
}
# what an estimate may be off by, and what a chat template adds: see gateway/estimate.py
ESTIMATE_MARGIN, TEMPLATE_TOKENS = 1.35, 256
COMPLETIONS_DEFAULT_MAX_TOKENS = 16  # vLLM's, like OpenAI's

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
_MEDIA_HINTS = (b'url"', b"\\u00")  # the end of every name of an address, or a name that is spelt in escapes
_KIND = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "an integer", float: "a number"}

_top_level = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Shaped:
    """A request fit for the engine; `encode` makes its body."""

    fields: dict[str, msgspec.Raw]
    takes_priority: bool
    model: str
    stream: bool
    show_usage: bool
    show_running_usage: bool
    choices: int  # answers the engine makes in all
    choices_per_prompt: int
    max_tokens: int  # output tokens at most, of all choices together
    prompt_estimate: int  # tokens
    previous_response: str | None = None  # of the Responses API: a conversation that goes on

    def encode(self, priority: int) -> bytes:
        """Return the body for the engine. `priority` is vLLM's: lower goes first."""
        if self.takes_priority:
            self.fields["priority"] = _raw(priority)
        return msgspec.json.encode(self.fields)


NOTHING = Shaped(
    fields={},
    takes_priority=False,
    model="",
    stream=False,
    show_usage=False,
    show_running_usage=False,
    choices=1,
    choices_per_prompt=1,
    max_tokens=0,
    prompt_estimate=0,
)  # of a request without a body


def shape(
    route: Route,
    body: bytes,
    *,
    settings: GatewaySettings,
    model: str,
    max_model_len: int,
    plan_max_tokens: int | None,
) -> Shaped:
    """Check a request's body and rewrite it. Raises BadRequest, naming the field and what was expected.

    `model` is what the engine serves; a body that names none gets it.
    """
    fields = _parse(body, settings.max_json_depth)
    _refuse_owned(fields)
    if any(hint in body for hint in _MEDIA_HINTS):
        _refuse_remote_media(fields)
    asked_model = _read(fields, "model", str, "a string")
    stream = bool(_read(fields, "stream", bool, "a boolean"))
    options = _read(fields, "stream_options", dict, "an object") if route.api in {Api.CHAT, Api.COMPLETIONS} else None
    per_prompt = _choices(fields, settings)
    choices = per_prompt * _prompts(route, fields)
    prompt = b" ".join(bytes(fields[name]) for name in route.prompt_fields if name in fields)
    estimate = estimate_prompt_tokens(prompt) if prompt else 0
    room = max_model_len - round(estimate * ESTIMATE_MARGIN) - TEMPLATE_TOKENS
    largest = min(max_model_len, plan_max_tokens or max_model_len)
    default = min(settings.default_max_tokens, largest)
    limit = _output_limit(route, fields, default, largest=largest, room=room, bounded=plan_max_tokens is not None)
    if asked_model is None:
        fields["model"] = _raw(model)
    if stream and route.api in {Api.CHAT, Api.COMPLETIONS}:
        fields["stream_options"] = _raw(running_usage(options))
    show_usage = bool(options and options.get("include_usage"))
    return Shaped(
        fields=fields,
        takes_priority=route.generates and route.api is not Api.MESSAGES,
        model=asked_model or model,
        stream=stream,
        show_usage=show_usage,
        show_running_usage=show_usage and bool(options and options.get("continuous_usage_stats")),
        choices=choices,
        choices_per_prompt=per_prompt,
        max_tokens=limit * choices,
        prompt_estimate=estimate,
        previous_response=_read(fields, "previous_response_id", str, "a string"),
    )


def _parse(body: bytes, max_depth: int) -> dict[str, msgspec.Raw]:
    try:
        body.decode()
        fields = _top_level.decode(body)
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8: {error.reason} at byte {error.start}.", code="invalid_json") from None
    except msgspec.ValidationError:
        raise BadRequest("The body must be a JSON object.", code="invalid_json") from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    if body.count(b"{") + body.count(b"[") > max_depth:
        _check_depth(body, max_depth)
    return fields


def _check_depth(body: bytes, max_depth: int) -> None:
    depth = 0
    for match in _TOKEN.finditer(body):
        token = match[0]
        if token in b"[{":
            depth += 1
            if depth > max_depth:
                raise _too_deep(max_depth)
        elif token in b"]}":
            depth -= 1


def _too_deep(max_depth: int) -> BadRequest:
    return BadRequest(f"The body is nested too deeply: at most {max_depth} levels are allowed.", code="json_too_deep")


def _refuse_owned(fields: dict[str, msgspec.Raw]) -> None:
    for name in REFUSED_FIELDS & fields.keys():
        value = _decode(fields[name], name)
        if value is None:
            del fields[name]
        elif name == "chat_template_kwargs" and isinstance(value, dict) and value.keys() <= _ALLOWED_TEMPLATE_ARGUMENTS:
            continue
        else:
            raise BadRequest(f"`{name}` cannot be set by a caller.", code="field_not_allowed", param=name)
    if "background" in fields and _decode(fields["background"], "background"):
        raise BadRequest(
            "`background` is not offered: send the request and keep the connection, or stream.",
            code="field_not_allowed",
            param="background",
        )


def _refuse_remote_media(fields: dict[str, msgspec.Raw]) -> None:
    """Refuse addresses that the engine would fetch: server-side request forgery (CVE-2025-6242, CVE-2026-24779)."""
    for name in ("messages", "input"):
        if name in fields:
            _walk_media(_decode(fields[name], name), name)


def _walk_media(value: Any, where: str) -> None:
    if isinstance(value, list):
        for i, item in enumerate(value):
            _walk_media(item, f"{where}[{i}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in {"image_url", "audio_url", "video_url", "file_url", "url"}:
                url = item.get("url") if isinstance(item, dict) else item
                if isinstance(url, str) and not url.lower().lstrip().startswith("data:"):
                    raise BadRequest(
                        f"`{where}.{name}` must be a data: URL; remote addresses are not fetched.",
                        code="remote_media_not_allowed",
                        param=where,
                    )
            _walk_media(item, f"{where}.{name}")


def _choices(fields: dict[str, msgspec.Raw], settings: GatewaySettings) -> int:
    n = _count(fields, "n", 1, settings.max_choices)
    best_of = _count(fields, "best_of", 1, settings.max_choices)
    for name in ("logprobs", "top_logprobs", "prompt_logprobs"):
        value = _read(fields, name, (bool, int), "a boolean or an integer")
        if not isinstance(value, bool) and value is not None and value > settings.max_logprobs:
            raise BadRequest(
                f"`{name}` must be at most {settings.max_logprobs}, got {value}.", code="value_too_large", param=name
            )
    stop = _read(fields, "stop", (str, list), "a string or an array of strings")
    if isinstance(stop, list) and len(stop) > settings.max_stop:
        raise BadRequest(
            f"`stop` may hold at most {settings.max_stop} strings, got {len(stop)}.",
            code="value_too_large",
            param="stop",
        )
    return max(n or 1, best_of or 1)


def _prompts(route: Route, fields: dict[str, msgspec.Raw]) -> int:
    """How many prompts a completions request carries: strings or token lists; one list of tokens is one prompt."""
    if route.api is not Api.COMPLETIONS or "prompt" not in fields:
        return 1
    prompt = _decode(fields["prompt"], "prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        return len(prompt)
    return 1


def _output_limit(
    route: Route, fields: dict[str, msgspec.Raw], default: int, *, largest: int, room: int, bounded: bool
) -> int:
    """Return the output limit of one choice; set one where the client names none.

    It is set only where it surely fits into the context beside the prompt (`room`): vLLM up to 0.25 answers 400 where
    it does not (vllm#42474), and without a limit takes what the context leaves, which then is the bound. Where the
    plan bounds the output (`bounded`), it is set in any case.
    """
    if not route.generates:
        return 0
    names = _OUTPUT_LIMITS[route.api]
    for name in names:
        value = _count(fields, name, 1, largest)
        if value is not None:
            return value
    if route.api is Api.COMPLETIONS:
        return COMPLETIONS_DEFAULT_MAX_TOKENS
    if route.api is Api.MESSAGES:
        raise BadRequest("`max_tokens` is required.", code="missing_field", param="max_tokens")
    if default > room and not bounded:
        return max(1, room)
    limit = min(default, max(1, room))
    fields[names[0]] = _raw(limit)
    return limit


def _count(fields: dict[str, msgspec.Raw], name: str, least: int, most: int) -> int | None:
    value: int | None = _read(fields, name, int, "an integer")
    if value is not None and not least <= value <= most:
        raise BadRequest(
            f"`{name}` must be between {least} and {most}, got {value}.", code="value_out_of_range", param=name
        )
    return value


def _read(fields: dict[str, msgspec.Raw], name: str, kind: Any, expected: str) -> Any:
    """Return a field's value, None when it is missing or null. Raises BadRequest on another type."""
    raw = fields.get(name)
    if raw is None:
        return None
    value = _decode(raw, name)
    if value is None:
        return None
    is_bool_for_int = isinstance(value, bool) and kind is int
    if is_bool_for_int or not isinstance(value, kind):
        raise BadRequest(f"`{name}` must be {expected}, got {_KIND[type(value)]}.", code="invalid_type", param=name)
    return value


def _decode(raw: msgspec.Raw, name: str) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"`{name}` cannot be read: {error}.", code="invalid_json", param=name) from None


_encoder: Callable[[Any], bytes] = msgspec.json.Encoder().encode


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(_encoder(value))
