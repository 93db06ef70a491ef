"""From a branch of messages to the body of a chat completion. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.chat.settings import Parameters
from gateway.estimate import estimate_prompt_tokens
from gateway.shape import ESTIMATE_MARGIN, TEMPLATE_TOKENS
from gateway.store.chat_rows import Message, NewMessage, Role

# Not every model's template can go on with an answer that has begun; every model can be asked to.
CONTINUE = "Continue exactly where you stopped. Repeat nothing, and begin in the middle of a word if you stopped there."
_SENT = (
    "temperature",
    "top_p",
    "max_tokens",
    "reasoning_effort",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "stop",
)


def body_of(
    path: Sequence[Message | NewMessage], params: Parameters, *, model: str, max_model_len: int, fit: bool = False
) -> bytes:
    """The body of a stream that answers the last message of `path`, or goes on where that, an answer, stopped.

    The output limit is lowered to what the context surely has left. With `fit` the oldest messages are left out until
    half of the context, or all that the output limit leaves, holds the rest.
    """
    prompt = params.system_prompt or ""
    system = [{"role": "system", "content": prompt}] if prompt.strip() else []
    going_on = [{"role": "user", "content": CONTINUE}] if path[-1].role == Role.ASSISTANT else []
    messages = [*system, *conversation(path), *going_on]
    if fit:
        room = max_model_len - min(params.max_tokens or max_model_len, max_model_len // 2)
        while len(path) > 1 and _needed(messages) > room:
            path = path[1:]
            messages = [*system, *conversation(path), *going_on]
    fields: dict[str, Any] = {name: value for name in _SENT if (value := getattr(params, name)) is not None}
    if params.max_tokens is not None and (left := max_model_len - _needed(messages)) > 0:
        fields["max_tokens"] = min(params.max_tokens, left)
    return msgspec.json.encode({"model": model, "messages": messages, "stream": True, **fields})


def conversation(path: Sequence[Message | NewMessage]) -> list[dict[str, str]]:
    """What was said, without reasoning and without answers that never came; nobody speaks twice in a row."""
    messages: list[dict[str, str]] = []
    for message in path:
        if not message.content:
            continue
        if messages and messages[-1]["role"] == message.role:
            # an answer that was continued is one text; questions without an answer between them are not
            between = "" if message.continues else "\n\n"
            messages[-1]["content"] += between + message.content
        else:
            messages.append({"role": message.role.value, "content": message.content})
    return messages


def _needed(messages: list[dict[str, str]]) -> int:
    """Tokens that these surely fit into."""
    return round(estimate_prompt_tokens(msgspec.json.encode(messages)) * ESTIMATE_MARGIN) + TEMPLATE_TOKENS


def title_of(content: str, longest: int = 60) -> str:
    """A chat's title: the first words of its first question."""
    line = next((line for line in content.splitlines() if line.strip(" \t#>*-`")), "")
    words = " ".join(line.strip(" \t#>*-`").split())
    if len(words) <= longest:
        return words
    cut = words[:longest].rsplit(" ", 1)[0] if " " in words[longest // 2 : longest] else words[:longest]
    return cut.rstrip(" ,.;:，。；：、") + "…"
