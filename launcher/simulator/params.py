"""Request fields, checked as vLLM checks them: types first (pydantic's messages), then the model, then ranges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from launcher.simulator.errors import ApiError, ValidationError, parameter

_MAX_N = 16384
_MOST_CHARACTERS_A_TOKEN = 128
_TRUE = {"true", "1", "yes", "on", "t", "y"}
_FALSE = {"false", "0", "no", "off", "f", "n"}


def as_int(body: dict[str, Any], name: str) -> int | None:
    """An integer field, or None when absent."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            message = "Input should be a valid integer, unable to parse string as an integer"
            raise ValidationError("int_parsing", f"body.{name}", message, value) from None
    if isinstance(value, float) and not value.is_integer():
        message = "Input should be a valid integer, got a number with a fractional part"
        raise ValidationError("int_from_float", f"body.{name}", message, value)
    if not isinstance(value, int | float):
        raise ValidationError("int_type", f"body.{name}", "Input should be a valid integer", value)
    return int(value)


def as_float(body: dict[str, Any], name: str) -> float | None:
    """A number field, or None when absent."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            message = "Input should be a valid number, unable to parse string as a number"
            raise ValidationError("float_parsing", f"body.{name}", message, value) from None
    if not isinstance(value, int | float):
        raise ValidationError("float_type", f"body.{name}", "Input should be a valid number", value)
    return float(value)


def as_bool(body: dict[str, Any], name: str) -> bool:
    """A truth field; absent is False."""
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    text = str(value).lower()
    if text not in _TRUE | _FALSE:
        message = "Input should be a valid boolean, unable to interpret input"
        raise ValidationError("bool_parsing", f"body.{name}", message, value)
    return text in _TRUE


def as_object(body: dict[str, Any], name: str) -> dict[str, Any]:
    """An object field; absent is empty."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValidationError("dict_type", f"body.{name}", "Input should be a valid dictionary", value)
    return value


@dataclass(frozen=True, slots=True)
class Params:
    """What a request asks of the sampler and of the answer's form. `max_tokens` is None when the client named none."""

    max_tokens: int | None = None
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    stop: tuple[str, ...] = ()
    keep_stop: bool = False
    seed: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    ignore_eos: bool = False
    min_tokens: int = 0
    priority: int = 0
    salt: str | None = None
    want_logprobs: bool = False
    top_logprobs: int = 0
    token_ids: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


def read(body: dict[str, Any], *, max_fields: tuple[str, ...], force_usage: bool = False) -> Params:
    """The sampling fields of a chat, completion, responses or messages request, types checked.

    `max_fields` name the output limit, the first present wins. `force_usage` is --enable-force-include-usage: usage
    is continuous for every stream then, whatever the client says.
    """
    limits = {name: as_int(body, name) for name in max_fields}
    temperature = as_float(body, "temperature")
    top_p = as_float(body, "top_p")
    n = as_int(body, "n")
    stream = as_bool(body, "stream")
    options = as_object(body, "stream_options")
    if options and not stream:
        message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
        raise ApiError(message, param="stream_options")
    include = as_bool(options, "include_usage") or (force_usage and stream)
    stop = body.get("stop") if "stop" in body else body.get("stop_sequences")
    logprobs = body.get("logprobs")
    salt = body.get("cache_salt")
    return Params(
        max_tokens=next((value for value in limits.values() if value is not None), None),
        n=1 if n is None else n,
        stream=stream,
        include_usage=include,
        continuous_usage=include and (force_usage or as_bool(options, "continuous_usage_stats")),
        stop=_stop(stop),
        keep_stop=as_bool(body, "include_stop_str_in_output"),
        seed=as_int(body, "seed"),
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        ignore_eos=as_bool(body, "ignore_eos"),
        min_tokens=as_int(body, "min_tokens") or 0,
        priority=as_int(body, "priority") or 0,
        salt=salt if isinstance(salt, str) else None,
        want_logprobs=logprobs is not None and logprobs is not False,
        top_logprobs=as_int(body, "top_logprobs") or (int(logprobs) if isinstance(logprobs, int) else 0),
        token_ids=as_bool(body, "return_token_ids"),
    )


def check_ranges(params: Params) -> None:
    """Refuse values out of their range, in vLLM's words."""
    if params.n < 1:
        raise ApiError(f"n must be at least 1, got {params.n}.")
    if params.n > _MAX_N:
        hint = "To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable."
        raise ApiError(f"n must be at most {_MAX_N}, got {params.n}. {hint}")
    if params.temperature < 0:
        message = f"temperature must be non-negative, got {params.temperature}."
        raise parameter(message, "temperature", params.temperature)
    if not 0 < params.top_p <= 1:
        raise parameter(f"top_p must be in (0, 1], got {params.top_p}.", "top_p", params.top_p)


def output_budget(params: Params, prompt_tokens: int, max_model_len: int, default: int | None = None) -> int:
    """How many tokens may be generated: the client's limit, else `default`, and never more than the context leaves."""
    wanted = default if params.max_tokens is None else params.max_tokens
    room = max_model_len - prompt_tokens
    if wanted is None:
        return room
    if wanted < 1:
        raise parameter(f"max_tokens must be at least 1, got {wanted}.", "max_tokens", wanted)
    if wanted > max_model_len:
        message = f"max_tokens={wanted} cannot be greater than max_model_len={max_model_len}."
        raise parameter(f"{message} Please request fewer output tokens.", "max_tokens", wanted)
    return min(wanted, room)


def check_prompt(tokens: int, max_model_len: int) -> None:
    """Refuse a prompt that leaves no room for one token of answer."""
    if tokens >= max_model_len:
        message = (
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains at least"
            f" {max_model_len + 1} input tokens, which exceeds this limit even without any output tokens. Please"
            " reduce the length of the input prompt."
        )
        raise parameter(message, "input_tokens", max_model_len + 1)


def check_characters(characters: int, max_model_len: int) -> None:
    """Refuse a text that is too long before spending time on its tokens, as vLLM does."""
    bound = max_model_len * _MOST_CHARACTERS_A_TOKEN
    if characters > bound:
        message = (
            f"You passed {characters} input characters. However, the model's context length is only {max_model_len}"
            f" tokens (at most {bound} characters, which is the upper bound for {max_model_len} input tokens)."
            " Please reduce the length of the input prompt."
        )
        raise parameter(message, "input_text", characters)


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,) if value else ()
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(each for each in value if each)
    raise ValidationError("string_type", "body.stop", "Input should be a valid string", value)
