"""Ids that nobody guesses."""

import secrets


def chat_id() -> str:
    """Of a chat."""
    return f"c_{secrets.token_urlsafe(12)}"


def message_id() -> str:
    """Of a message, and so of the run that makes it."""
    return f"m_{secrets.token_urlsafe(12)}"
