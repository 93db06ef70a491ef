"""Pure: a request's place in a trace, as W3C Trace Context puts it into headers (https://www.w3.org/TR/trace-context/)."""

import re
import secrets
from collections.abc import Sequence
from typing import Self

import msgspec

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SAMPLED = 0x01  # of the flags, the one bit that versions to come may not change either
_LOWER = 1 << 64  # the random half of a trace's id, by which samplers decide


class TraceContext(msgspec.Struct, frozen=True):
    """One request's span: `parent_id` is the caller's, None where the trace begins here."""

    trace_id: int
    span_id: int
    parent_id: int | None
    sampled: bool

    @classmethod
    def of(cls, traceparents: Sequence[str], ratio: float) -> Self:
        """Continue the caller's trace, or begin one, of which the share `ratio` is sampled.

        A caller's decision on sampling stands. What is malformed, or there twice, counts as absent.
        """
        span_id = secrets.randbits(64) or 1
        found = _TRACEPARENT.fullmatch(traceparents[0]) if len(traceparents) == 1 else None
        if found is not None:
            version, trace_id, parent_id, flags, more = found.groups()
            known = version != "ff" and (version != "00" or more is None)
            if known and (trace := int(trace_id, 16)) and (parent := int(parent_id, 16)):
                return cls(trace, span_id, parent, sampled=bool(int(flags, 16) & _SAMPLED))
        trace = secrets.randbits(128) or 1
        return cls(trace, span_id, None, sampled=trace % _LOWER < ratio * _LOWER)

    def header(self) -> str:
        """`traceparent` for whom the request is passed on to: this span is the parent there."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.sampled:02x}"
