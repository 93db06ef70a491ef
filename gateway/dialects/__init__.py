"""Where usage, errors and ends stand in each protocol."""

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.context import Api, Usage
from gateway.dialects import anthropic, openai, responses

_USAGE_OF: dict[Api, Callable[[bytes], Usage | None]] = {
    Api.RESPONSES: responses.answer_usage,
    Api.MESSAGES: anthropic.answer_usage,
}


def answer_usage(api: Api, body: bytes) -> Usage | None:
    """Usage of an answer in one piece, as the engine reports it; None where it reports none."""
    return _USAGE_OF.get(api, openai.answer_usage)(body)


def error_message(body: bytes) -> str | None:
    """Return the message of an error in any of vLLM's shapes: `error.message`, `error`, `detail`."""
    try:
        found: Any = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return None
    if not isinstance(found, dict):
        return None
    error = found.get("error", found.get("detail"))
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else None
