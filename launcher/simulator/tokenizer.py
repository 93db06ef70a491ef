"""A tokenizer without a vocabulary: cheap, deterministic, reversible.

A token is at most six bytes of UTF-8: a piece of a word with its leading space, up to three digits, a run of one
kind of punctuation, or one character of any other script (so Chinese costs one token a character; real
vocabularies merge some). Its number is its bytes read as one big-endian number, behind a marker byte 1 when there
is more than one, hence below 2**49 and safe in JSON.

The pattern never looks ahead, so cutting a text at a token's end leaves the tokens before it as they were: the
tokens of what was sent are exactly the tokens that were generated.
"""

from __future__ import annotations

import re
from functools import lru_cache

START, END, MESSAGE, CHANNEL, RETURN = 200006, 200007, 200008, 200005, 200002
SPECIAL = {
    START: "<|start|>",
    END: "<|end|>",
    MESSAGE: "<|message|>",
    CHANNEL: "<|channel|>",
    RETURN: "<|return|>",
}
"""Harmony's control tokens, which chat prompts contain; no text tokenizes to them."""

_PIECE = re.compile(
    r" [A-Za-z]{1,5}|[A-Za-z]{1,6}"
    r"| ?[0-9]{1,3}"
    r"| {1,6}|\n{1,4}|\t{1,4}"
    r"|-{1,6}|={1,6}|\*{1,4}|#{1,6}|`{1,3}|\.{1,3}|/{1,2}"
    r"|.",
    re.DOTALL,
)


def pieces(text: str) -> list[str]:
    """The text cut into tokens; joined they are the text."""
    return _PIECE.findall(text)


@lru_cache(maxsize=65536)
def _number(piece: str) -> int:
    raw = piece.encode("utf-8", "replace")
    return raw[0] if len(raw) == 1 else int.from_bytes(b"\x01" + raw, "big")


def token(piece: str) -> int:
    """Number of one token by its text; one without text is a control token."""
    return _number(piece) if piece else CHANNEL


def encode(text: str) -> list[int]:
    """Token numbers of a text."""
    return [_number(piece) for piece in _PIECE.findall(text)]


def count(text: str) -> int:
    """How many tokens a text has."""
    return len(_PIECE.findall(text))


def token_bytes(token: int) -> bytes:
    """The bytes that one token stands for. Total: any non-negative number stands for some."""
    if token in SPECIAL:
        return SPECIAL[token].encode()
    raw = token.to_bytes(max(1, (token.bit_length() + 7) // 8), "big")
    return raw[1:] if len(raw) > 1 and raw[0] == 1 else raw


def decode(tokens: list[int]) -> str:
    """The text of tokens; bytes that are no UTF-8 become U+FFFD."""
    return b"".join(map(token_bytes, tokens)).decode("utf-8", "replace")
