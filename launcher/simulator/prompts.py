"""From a conversation to prompt tokens, framed the way Harmony frames messages."""

from __future__ import annotations

from typing import Any

from launcher.simulator.errors import ApiError, ValidationError, missing
from launcher.simulator.tokenizer import END, MESSAGE, START, encode

_PREAMBLE = "You are a simulated engine.\nReasoning: medium\n\n# Valid channels: analysis, final."


def messages_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The `messages` field, checked."""
    messages = body.get("messages")
    if messages is None:
        raise missing("messages", body)
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        raise ValidationError("list_type", "body.messages", "Input should be a valid list", messages)
    return messages


def check_conversation(messages: list[dict[str, Any]], model: str) -> None:
    """Refuse what the chat template cannot render: no message at all, or a picture."""
    if not messages:
        raise ApiError("Cannot apply chat template to an empty conversation. Provide at least one message.")
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else []
        if any(isinstance(part, dict) and part.get("type") in _MEDIA for part in parts):
            raise ApiError(f"{model} is not a multimodal model")


_MEDIA = ("image_url", "input_image", "image", "audio_url", "input_audio", "video_url")


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or parts of which those with text count."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part_text(part) for part in content)
    return ""


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict):
        return text_of(part.get("text") or part.get("content") or "")
    return ""


def render(messages: list[dict[str, Any]], tools: list[Any] | None = None) -> list[int]:
    """Prompt tokens of a conversation, ending where the assistant begins to speak."""
    tokens = [START, *encode("system"), MESSAGE, *encode(_PREAMBLE), END]
    if tools:
        tokens += [START, *encode("developer"), MESSAGE, *encode(repr(tools)), END]
    for message in messages:
        role = message.get("role")
        tokens += [START, *encode(str(role)), MESSAGE, *encode(text_of(message.get("content"))), END]
    return [*tokens, START, *encode("assistant")]


def question(messages: list[dict[str, Any]]) -> str:
    """What the user last asked."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return text_of(message.get("content"))
    return ""
