"""Server-sent events with a `type` in their JSON, as the Responses and Messages APIs send them."""

import re
from collections.abc import Iterator

_DATA = re.compile(rb"(?:^|(?<=\n))data: ?([^\r\n]*)\r?\n\r?\n")


def payloads(events: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield for each whole event the offset of its end and its JSON."""
    for match in _DATA.finditer(events):
        yield match.end(), match[1]
