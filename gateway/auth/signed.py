"""A token's form and signature (RFC 7515, section 3.1), checked stricter than PyJWT does. Pure.

Each part is parsed once, so that no two parsers can disagree.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.auth.claims import Refusal, strict_json
from gateway.auth.keys import KeyFinder, decode_segment

MAX_TOKEN_BYTES = 8192
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
# Headers that bring a key along, or change what the rest means (CVE-2026-32597, CVE-2026-48523): never followed
_REFUSED_HEADERS = ("crit", "jku", "jwk", "x5u", "x5c", "b64", "zip", "enc", "cty")

MALFORMED = Refusal("token_malformed", "This is not a signed JWT in compact form.")


@dataclass(slots=True)
class Opened:
    """What a token contains, as far as it could be read."""

    header: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    readable: bool = False  # to the end


def open_token(token: str, keys_of: Callable[[dict[str, Any]], KeyFinder], found: Opened) -> Iterator[Refusal]:
    """Examine step by step, filling `found`; whoever stops at the first refusal has read no further.

    Of the payload `keys_of` may look at what says whose token it is (`iss`) before the signature is known to hold: it
    names the only keys that may have made it. For a payload that cannot be read it is given nothing.
    """
    if len(token) > MAX_TOKEN_BYTES or not _COMPACT.fullmatch(token):
        yield MALFORMED
        return
    signing_input, _, signature = token.rpartition(".")
    header, _, payload = signing_input.partition(".")
    try:
        found.header = strict_json(decode_segment(header))
        proof = decode_segment(signature)
    except ValueError:
        yield MALFORMED
        return
    for name in _REFUSED_HEADERS:
        if name in found.header:
            yield Refusal("token_malformed", f"The token's header has `{name}`, which is not accepted here.")
    claims = _readable(payload)
    yield from _signature_refusals(keys_of(claims or {}), found.header, signing_input.encode(), proof)
    if claims is None:
        yield Refusal("token_malformed", "The token's payload is not one plain JSON object.")
        return
    found.claims, found.readable = claims, True


def _readable(payload: str) -> dict[str, Any] | None:
    try:
        return strict_json(decode_segment(payload))
    except ValueError:
        return None


def _signature_refusals(
    keys: KeyFinder, header: dict[str, Any], signing_input: bytes, signature: bytes
) -> Iterator[Refusal]:
    kid = header.get("kid")
    key = keys.find(kid) if kid is None or isinstance(kid, str) else None
    if key is None:
        yield Refusal("unknown_key", "The token is signed by a key that is not known here (`kid`).")
    elif header.get("alg") != key.algorithm:
        yield Refusal("wrong_algorithm", "The token's `alg` is not that of its key.")
    elif not key.verify(signing_input, signature):
        yield Refusal("bad_signature", "The token's signature does not match.")
