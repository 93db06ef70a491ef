"""Log probabilities, made up but well-formed: the token said is the likeliest, its rivals follow."""

from __future__ import annotations

from typing import Any

_LIKELIEST = -0.125
_STEP = -0.5


def chat_logprobs(tokens: list[str], top: int) -> dict[str, Any]:
    """`logprobs` of a chat choice for these tokens, with `top` rivals each."""
    return {"content": [_entry(token, _LIKELIEST, top) for token in tokens]}


def _entry(token: str, value: float, top: int) -> dict[str, Any]:
    rivals = [token, *(f"{token}{rank}" for rank in range(1, top))][:top]
    ranked = [_plain(rival, _LIKELIEST + rank * _STEP) for rank, rival in enumerate(rivals)]
    return {**_plain(token, value), "top_logprobs": ranked}


def _plain(token: str, value: float) -> dict[str, Any]:
    return {"token": token, "logprob": value, "bytes": list(token.encode("utf-8", "replace"))}


def completion_logprobs(tokens: list[str], top: int, offset: int = 0) -> dict[str, Any]:
    """`logprobs` of a completion choice; `offset` is where in the text these tokens begin."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "text_offset": offsets,
        "token_logprobs": [_LIKELIEST] * len(tokens),
        "tokens": tokens,
        "top_logprobs": [
            {token: _LIKELIEST, **{f"{token}{rank}": _LIKELIEST + rank * _STEP for rank in range(1, top)}}
            for token in tokens
        ],
    }
