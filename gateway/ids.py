"""Identifiers that nobody can guess or repeat."""

import os
from collections.abc import Iterator

_BYTES = 16
_AT_ONCE = 256  # one call of the kernel for so many


def _made() -> Iterator[str]:
    while True:
        random = os.urandom(_BYTES * _AT_ONCE).hex()
        for at in range(0, len(random), 2 * _BYTES):
            yield random[at : at + 2 * _BYTES]


_ids = _made()
os.register_at_fork(after_in_child=lambda: globals().__setitem__("_ids", _made()))


def new_id() -> str:
    """128 random bits, as 32 hexadecimal digits."""
    return next(_ids)
