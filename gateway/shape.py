"""Which requests may pass, and how they are rewritten for the engine. Pure.

The body is taken apart one level deep only: each top-level value stays the bytes that the client sent, so that numbers,
escapes and spacing reach the engine as they were, and a name that stands twice reaches it once.
"""

from itertools import accumulate

import msgspec

from gateway.bounds import BOUNDED, check_bounds, check_logprobs, choices, logprobs, prompts
from gateway.config import GatewaySettings
from gateway.context import Api
from gateway.dialects.openai import metered_options
from gateway.errors import BadRequest
from gateway.estimate import estimate_prompt_tokens
from gateway.fields import Fields, count, decode, encoded, kind_of, read
from gateway.media import check_media
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
        "mm_payload",
        "return_mm_kwargs",
        "previous_input_messages",
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

# enum's members are slow to name: half a microsecond a request went there
_HAVE_STREAM_OPTIONS = frozenset({Api.CHAT, Api.COMPLETIONS})
_TAKE_PRIORITY = frozenset(Api) - {Api.MESSAGES}

# with these, vLLM keeps token ids back, or what else it streams changes with them (docs/vllm.md); and their values that
# do neither
_NO_TOKEN_IDS = {"echo": (b"null", b"false"), "logprobs": (b"null", b"false"), "include_reasoning": (b"true",)}

# what most bodies have nothing of: looked for by name only in those that do
_UNUSUAL = REFUSED_FIELDS | BOUNDED | _NO_TOKEN_IDS.keys() | {"background", "previous_response_id"}

_NO_MARKS = bytes(set(range(256)) - set(b'"[{]}'))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # one level down is 1, one up -1 as a signed byte
_BACKSLASH = ord("\\")

_top_level = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode
_TRUE = encoded(True)
_METERED = {running: encoded(metered_options(None, running_usage=running)) for running in (False, True)}


class Shaped(msgspec.Struct, frozen=True, eq=False):
    """A request fit for the engine; `encode` makes its body."""

    fields: Fields
    takes_priority: bool
    model: str
    stream: bool
    show_usage: bool
    show_running_usage: bool
    show_token_ids: bool  # they are the client's, if any: not those that the gateway asks for, to count them
    choices: int  # answers the engine makes in all
    choices_per_prompt: int
    max_tokens: int  # output tokens at most, of all choices together
    prompt_estimate: int  # tokens
    previous_response: str | None = None  # of the Responses API: a conversation that goes on

    def encode(self, priority: int) -> bytes:
        """Return the body for the engine, and let go of what it was made of. `priority` is vLLM's: lower goes first."""
        body = _encode(self.fields | {"priority": priority} if self.takes_priority else self.fields)
        self.fields.clear()
        return body


NOTHING = Shaped(
    fields={},
    takes_priority=False,
    model="",
    stream=False,
    show_usage=False,
    show_running_usage=False,
    show_token_ids=True,
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
    plan_max_tokens: int | None = None,
    plan_default_tokens: int | None = None,
    cache_salt: str | None = None,
) -> Shaped:
    """Check a request's body and rewrite it. Raises BadRequest, naming the field, what was expected and what came.

    `model` is what the engine serves; a body that names none, or an alias, gets it. `cache_salt` keeps the caller's
    part of the prefix cache apart from others'.
    """
    fields = _parse(body, settings.max_json_depth)
    per_prompt, each_logprobs, previous_response = 1, 0, None
    is_unusual = not _UNUSUAL.isdisjoint(fields)
    if is_unusual:
        _refuse_owned(fields)
    check_media(fields, body, route.api, settings.media_domains)
    if is_unusual:
        check_bounds(fields, settings)
        per_prompt, each_logprobs = choices(fields, settings), logprobs(fields, settings)
        previous_response = read(fields, "previous_response_id", str, "a string")
    asked_model = read(fields, "model", str, "a string")
    if asked_model is None or asked_model in settings.model_aliases:
        asked_model = model
        fields["model"] = encoded(model)
    stream = "stream" in fields and bool(read(fields, "stream", bool, "a boolean"))
    has_options = route.api in _HAVE_STREAM_OPTIONS
    options = read(fields, "stream_options", dict, "an object") if has_options else None
    answers = per_prompt * prompts(route, fields, settings)
    prompt = b" ".join([fields[name] for name in route.prompt_fields if name in fields])
    estimate = estimate_prompt_tokens(prompt) if prompt else 0
    largest = min(max_model_len, plan_max_tokens) if plan_max_tokens else max_model_len
    limit = _output_limit(route, fields, largest)
    if limit is None:
        default = min(plan_default_tokens or settings.default_max_tokens, largest)
        room = max_model_len - round(estimate * ESTIMATE_MARGIN) - TEMPLATE_TOKENS
        limit = _set_limit(route, fields, default, room=room, bounded=plan_max_tokens is not None)
    if each_logprobs:
        check_logprobs(each_logprobs, limit * answers, settings)
    show_usage = bool(options and options.get("include_usage"))
    show_running_usage = show_usage and bool(options and options.get("continuous_usage_stats"))
    show_token_ids = True
    if stream and has_options:
        by_ids = not show_running_usage and not (is_unusual and _keeps_token_ids_back(fields))
        fields["stream_options"] = (
            encoded(metered_options(options, running_usage=not by_ids)) if options else _METERED[not by_ids]
        )
        if by_ids:
            show_token_ids = bool(read(fields, "return_token_ids", bool, "a boolean"))
            fields["return_token_ids"] = _TRUE
    if cache_salt is not None and route.generates:
        fields["cache_salt"] = encoded(cache_salt)
    return Shaped(
        fields=fields,
        takes_priority=route.generates and route.api in _TAKE_PRIORITY,
        model=asked_model,
        stream=stream,
        show_usage=show_usage,
        show_running_usage=show_running_usage,
        show_token_ids=show_token_ids,
        choices=answers,
        choices_per_prompt=per_prompt,
        max_tokens=limit * answers,
        prompt_estimate=estimate,
        previous_response=previous_response,
    )


def _parse(body: bytes, max_depth: int) -> Fields:
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
    # replace() finds them by memchr, and no more than it takes to know; count() looks at every byte
    flat = body.replace(b"{", b"", max_depth + 1).replace(b"[", b"", max_depth + 1)
    if len(body) - len(flat) > max_depth:
        _check_depth(body, max_depth)
    return fields


def _check_depth(body: bytes, max_depth: int) -> None:
    if _BACKSLASH in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = body.translate(None, _NO_MARKS).replace(b'""', b"")  # two with nothing in between change nothing
    steps = b"".join(marks.split(b'"')[::2]).translate(_STEPS)  # what stands outside of strings
    if max(accumulate(memoryview(steps).cast("b"))) > max_depth:
        raise _too_deep(max_depth)


def _too_deep(max_depth: int) -> BadRequest:
    return BadRequest(f"The body is nested too deeply: at most {max_depth} levels are allowed.", code="json_too_deep")


def _refuse_owned(fields: Fields) -> None:
    for name in REFUSED_FIELDS & fields.keys():
        value = decode(fields[name], name)
        if value is None:
            del fields[name]
        elif name == "chat_template_kwargs" and isinstance(value, dict) and value.keys() <= _ALLOWED_TEMPLATE_ARGUMENTS:
            continue
        else:
            raise BadRequest(
                f"`{name}` cannot be set by a caller, got {kind_of(value)}.", code="field_not_allowed", param=name
            )
    if "background" in fields and decode(fields["background"], "background"):
        raise BadRequest(
            "`background` is not offered: send the request and keep the connection, or stream.",
            code="field_not_allowed",
            param="background",
        )


def _keeps_token_ids_back(fields: Fields) -> bool:
    return any(name in fields and bytes(fields[name]) not in harmless for name, harmless in _NO_TOKEN_IDS.items())


def _output_limit(route: Route, fields: Fields, largest: int) -> int | None:
    """Return the output limit of one choice; None where neither the client nor the API says one."""
    if not route.generates:
        return 0
    for name in _OUTPUT_LIMITS[route.api]:
        if name in fields and (value := count(fields, name, 1, largest)) is not None:
            return value
    if route.api is Api.COMPLETIONS:
        return COMPLETIONS_DEFAULT_MAX_TOKENS
    if route.api is Api.MESSAGES:
        raise BadRequest("`max_tokens` is required.", code="missing_field", param="max_tokens")
    return None


def _set_limit(route: Route, fields: Fields, default: int, *, room: int, bounded: bool) -> int:
    """Set an output limit, or leave it to vLLM. Returns what holds of one choice then.

    It is set only where it surely fits into the context beside the prompt (`room`): vLLM up to 0.25 answers 400 where
    it does not (vllm#42474), and without a limit takes what the context leaves, which then is the bound. Where the
    plan bounds the output (`bounded`), it is set in any case.
    """
    if default > room and not bounded:
        return max(1, room)
    limit = min(default, max(1, room))
    fields[_OUTPUT_LIMITS[route.api][0]] = encoded(limit)
    return limit
