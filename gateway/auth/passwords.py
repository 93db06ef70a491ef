"""Passwords: argon2id with RFC 9106's second recommended profile (64 MiB, three passes), argon2-cffi's default.

Work happens in two threads at most: each costs 64 MiB and some 50 ms of several cores, so a flood of logins waits in a
bounded line instead of taking the box from the streams.
"""

import asyncio
import base64
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from gateway.errors import BadRequest, Unavailable

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MIN_CHARACTERS = 10
MAX_CHARACTERS = 256
THREADS = 2
MAX_WAITING = 64
T = TypeVar("T")


class Passwords:
    """Hashes and verifies passwords off the event loop."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """The encoded argon2id hash. BadRequest when the password's length is out of bounds."""
        check_length(password)
        return await self._run(lambda: self._hasher.hash(_normal(password)))

    async def verify(self, encoded: str | None, password: str) -> bool:
        """Whether the password is the one of `encoded`. The same work is done when there is no hash to compare with."""
        return await self._run(lambda: self._matches(encoded or self._nobodys, password) and encoded is not None)

    def outdated(self, encoded: str) -> bool:
        """Whether a hash was made with other parameters than today's and should be made anew."""
        return self._hasher.check_needs_rehash(encoded)

    def close(self) -> None:
        """End the threads; what waits in line is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= MAX_WAITING:
            raise Unavailable(
                "Too many people are signing in at once; try again.", code="login_busy", headers={"Retry-After": "2"}
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1

    def _matches(self, encoded: str, password: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError  # noqa: PLC0415 - see _hasher

        try:
            return self._hasher.verify(encoded, _normal(password))
        except (VerificationError, InvalidHashError):
            return False

    @cached_property
    def _hasher(self) -> "PasswordHasher":
        from argon2 import PasswordHasher  # noqa: PLC0415 - 30 ms that a start without logins need not spend

        return PasswordHasher()

    @cached_property
    def _nobodys(self) -> str:
        """A well-formed hash that no password has: verifying against it costs what a real one costs."""
        hasher = self._hasher
        salt, digest = (
            base64.b64encode(secrets.token_bytes(size)).rstrip(b"=").decode()
            for size in (hasher.salt_len, hasher.hash_len)
        )
        costs = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
        return f"$argon2id$v=19${costs}${salt}${digest}"


def check_length(password: str) -> None:
    """The only rule, after NIST SP 800-63B, section 3.1.1.2: length. BadRequest says what is expected."""
    if not MIN_CHARACTERS <= len(password) <= MAX_CHARACTERS:
        raise BadRequest(
            f"A password has {MIN_CHARACTERS} to {MAX_CHARACTERS} characters.", code="password_length", param="password"
        )


def generate_password() -> str:
    """A password for a new user: 96 random bits, without characters that look alike in many fonts."""
    alphabet = "abcdefghijkmnpqrstuvwxyz23456789"  # 32 characters: five bits each
    return "-".join("".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(4))


def _normal(password: str) -> bytes:
    # one password, however the keyboard composes its accents; surrogates (from JSON escapes) cannot be encoded strictly
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
