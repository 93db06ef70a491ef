"""One field of a body: its type, its range, how many it holds. Pure.

A refusal names the field, what was expected, and what came: its kind, and its value where that is a number.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.errors import BadRequest

Fields = dict[str, msgspec.Raw]  # name → the bytes of its value, as they were sent

_KIND = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "an integer", float: "a number"}
_SHOWN_DIGITS = 24


def read(fields: Fields, name: str, kind: Any, expected: str) -> Any:
    """Return a field's value, None when it is missing or null. Raises BadRequest on another type."""
    raw = fields.get(name)
    if raw is None:
        return None
    value = decode(raw, name)
    if value is None:
        return None
    is_bool_for_int = kind is int and isinstance(value, bool)
    if is_bool_for_int or not isinstance(value, kind):
        raise BadRequest(f"`{name}` must be {expected}, got {kind_of(value)}.", code="invalid_type", param=name)
    return value


def count(fields: Fields, name: str, least: int, most: int) -> int | None:
    """Return an integer within its bounds, None when it is missing or null."""
    value: int | None = read(fields, name, int, "an integer")
    if value is not None and not least <= value <= most:
        raise BadRequest(
            f"`{name}` must be between {least} and {most}, got {kind_of(value)}: {_shown(value)}.",
            code="value_out_of_range",
            param=name,
        )
    return value


def bound_length(fields: Fields, name: str, most: int) -> int:
    """Return how many items an array or object holds: 0 when the field is missing or something else."""
    if name not in fields:
        return 0
    value = decode(fields[name], name)
    held = len(value) if isinstance(value, list | dict) else 0
    if held > most:
        raise BadRequest(
            f"`{name}` may hold at most {most} items, got {kind_of(value)} of {held}.",
            code="value_too_large",
            param=name,
        )
    return held


def bound_bytes(fields: Fields, name: str, most: int) -> None:
    """Refuse a field whose JSON is longer than `most` bytes."""
    if name in fields and (size := memoryview(fields[name]).nbytes) > most:
        kind = kind_of(decode(fields[name], name))
        raise BadRequest(
            f"`{name}` may be at most {most} bytes of JSON, got {kind} of {size} bytes.",
            code="value_too_large",
            param=name,
        )


def decode(raw: msgspec.Raw, name: str) -> Any:
    """Return a field's value. Raises BadRequest where no Python type holds it."""
    try:
        return _decode(raw)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"`{name}` cannot be read: {error}.", code="invalid_json", param=name) from None


def kind_of(value: object) -> str:
    """`a string`, `an array`, …: how JSON calls it."""
    return _KIND.get(type(value), "null")


def _shown(value: int) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_DIGITS else f"{text[:_SHOWN_DIGITS]}…"


_decode: Callable[[msgspec.Raw], Any] = msgspec.json.Decoder().decode
_encoder: Callable[[Any], bytes] = msgspec.json.Encoder().encode


def encoded(value: Any) -> msgspec.Raw:
    """Return a value as a field of the body."""
    return msgspec.Raw(_encoder(value))
