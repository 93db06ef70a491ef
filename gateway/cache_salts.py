"""Who shares the engine's prefix cache: a salt that vLLM mixes into the hash of every block. Pure.

How fast a first token comes tells whether somebody sent the same beginning before (CVE-2025-46570). Callers with
different salts share nothing, so a team can learn nothing of another. The price: what both send is computed for each.
"""

import base64
import hmac
from functools import lru_cache, partial
from typing import Literal

from gateway.context import Principal

Sharing = Literal["team", "subject", "none"]
_CACHE_SIZE = 4096


class CacheSalts:
    """A salt for each team or subject, the same on every worker and after each restart; nobody outside can guess it."""

    def __init__(self, sharing: Sharing, secret: bytes) -> None:
        self._sharing = sharing
        key = hmac.digest(secret, b"gatehouse cache salt", "sha256")
        self._salt = lru_cache(_CACHE_SIZE)(partial(_salt, key))

    def of(self, principal: Principal) -> str | None:
        """The caller's salt. None: the part of the cache that has no salt, where the engine's warm-up is, too.

        Callers without a team are all in that part.
        """
        match self._sharing:
            case "team" if principal.team:
                return self._salt(f"team:{principal.team}")
            case "subject":
                return self._salt(f"subject:{principal.subject}")
            case _:
                return None


def _salt(key: bytes, owner: str) -> str:
    digest = hmac.digest(key, owner.encode("utf-8", "surrogatepass"), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
