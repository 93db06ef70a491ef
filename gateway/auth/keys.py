"""Signing keys. The algorithm belongs to the key: a token's header may only confirm it, never choose it.

The house's own key is HS256 with the secret in a file, made on first start. Keys of other kinds (`jwks.py`: PEM, JWK
sets) are further ways to build a `Key`; everything that uses one knows only `kid`, `algorithm` and the key itself.

Secrets need HMAC alone, which Python has. PyJWT and cryptography, a tenth of the memory, come with public keys.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from gateway.config import Config

if TYPE_CHECKING:
    from jwt import PyJWK

MIN_SECRET_BYTES = 32  # RFC 7518, section 3.2: as long as the hash
MAX_SECRET_BYTES = 4096  # more is not a secret but the wrong file
MIN_DIFFERENT_BYTES = 8  # 32 random bytes never have fewer; "aaaa…" and "0123012301…" do
_NEW_SECRET_BYTES = 48
_log = logging.getLogger("gateway.auth")


class KeyFileError(Exception):
    """A key file that cannot be used. The text names the file and the reason, never what is in it."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key that verifies, and signs if it holds the secret half, by one algorithm only."""

    kid: str
    algorithm: str
    material: bytes | PyJWK = field(repr=False, compare=False)
    """The secret of a symmetric key, or a public one."""

    @classmethod
    def from_secret(cls, secret: bytes, algorithm: str = "HS256", kid: str | None = None) -> Self:
        """A symmetric key. Its id is derived from the secret, so that every worker and host agrees on it."""
        kid = kid if kid is not None else encode_segment(hmac.digest(secret, b"gatehouse kid", "sha256")[:9])
        return cls(kid, algorithm, secret)

    @property
    def secret(self) -> bytes:
        """The secret of a symmetric key, to derive others from."""
        if not isinstance(self.material, bytes):
            raise TypeError("not a symmetric key")
        return self.material

    def is_same(self, other: Key) -> bool:
        """Whether both verify the same signatures."""
        return self.algorithm == other.algorithm and bool(_bare(self.material) == _bare(other.material))

    def verify(self, signing_input: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's, by this key's algorithm; compares in constant time."""
        if isinstance(self.material, bytes):
            return hmac.compare_digest(self._mac(signing_input), signature)
        return self.material.Algorithm.verify(signing_input, self.material.key, signature)

    def sign(self, payload: bytes) -> str:
        """The compact JWS of `payload` under this key, which must be symmetric."""
        header = json.dumps({"alg": self.algorithm, "kid": self.kid, "typ": "JWT"}, separators=(",", ":"))
        signing_input = f"{encode_segment(header.encode())}.{encode_segment(payload)}"
        return f"{signing_input}.{encode_segment(self._mac(signing_input.encode()))}"

    def _mac(self, signing_input: bytes) -> bytes:
        """HMAC by the algorithm's SHA-2 (RFC 7518, section 3.2)."""
        return hmac.digest(self.secret, signing_input, f"sha{self.algorithm.removeprefix('HS')}")


def _bare(material: bytes | PyJWK) -> object:
    return material if isinstance(material, bytes) else material.key


class KeyFinder(Protocol):
    """The keys of one issuer."""

    def find(self, kid: str | None) -> Key | None:
        """The key that a token names, at once: what is not known now is not waited for."""
        ...


class KeySet:
    """Keys that do not change, by `kid`; the first of them signs."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = {key.kid: key for key in keys}
        if not self._keys:
            raise ValueError("a key set needs a key")
        self.signing = next(iter(self._keys.values()))

    def find(self, kid: str | None) -> Key | None:
        """The key that a token names. One that names none is meant for the only key there is, if there is only one."""
        return find_key(self._keys, kid)


def find_key(keys: Mapping[str, Key], kid: str | None) -> Key | None:
    """The key of that id; without one the only key there is, if there is only one."""
    if kid is None:
        return next(iter(keys.values())) if len(keys) == 1 else None
    return keys.get(kid)


def key_file(config: Config) -> Path:
    """Where the house's signing secret lies."""
    return config.auth.secret_file or config.state_dir / "jwt.key"


def load_keys(config: Config) -> KeySet:
    """The keys of this house, the signing one first. Makes the default key file when there is none; others must exist.

    Raises KeyFileError.
    """
    path = key_file(config)
    if config.auth.secret_file is None and make_secret_file(path):
        _log.info("made the signing key %s; keep it: tokens are worth nothing without it", path)
    return KeySet(Key.from_secret(read_secret_file(file)) for file in (path, *config.auth.previous_secret_files))


def make_secret_file(path: Path) -> bool:
    """Write a fresh secret to `path` (mode 0600) unless something is there; say whether it was written.

    Starters that race agree: the file appears whole or not at all, and the first one stays.
    """
    if path.exists():
        return False
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # O_EXCL, mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(encode_segment(secrets.token_bytes(_NEW_SECRET_BYTES)).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another starter was faster: its key is the key
                os.link(draft, path)  # unlike rename, never replaces what is there
                return True
            return False
        finally:
            Path(draft).unlink()
    except OSError as error:
        raise KeyFileError(f"{path}: cannot make the signing key: {error.strerror}") from None


def read_secret_file(path: Path, least: int = MIN_SECRET_BYTES) -> bytes:
    """The secret in `path`: its text without white space around it. KeyFileError unless it is private and strong.

    `least` bytes are needed.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())  # of the very file that is read
            if not stat.S_ISREG(status.st_mode):
                raise KeyFileError(f"{path}: not a regular file")
            if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                mode = stat.S_IMODE(status.st_mode)
                raise KeyFileError(f"{path}: others may read or change it (mode {mode:04o}); run chmod 600 {path}")
            secret = file.read(MAX_SECRET_BYTES + 1).strip()
    except OSError as error:
        raise KeyFileError(f"{path}: cannot read the signing key: {error.strerror}") from None
    if len(secret) < least:
        raise KeyFileError(f"{path}: the secret has {len(secret)} bytes; at least {least} are needed")
    if len(secret) > MAX_SECRET_BYTES:
        raise KeyFileError(f"{path}: longer than {MAX_SECRET_BYTES} bytes; this is not a signing secret")
    if len(set(secret)) < MIN_DIFFERENT_BYTES:
        raise KeyFileError(f"{path}: the secret repeats a few characters; use random bytes")
    return secret


def fingerprint(value: str) -> bytes:
    """SHA-256 of a credential: what is kept of it in memory and in SQL."""
    return hashlib.sha256(value.encode()).digest()


def encode_segment(data: bytes) -> str:
    """Base64url without padding, as JOSE has it (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_segment(segment: str) -> bytes:
    """The bytes of a base64url text; ValueError unless it is the one way to write them."""
    data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    if encode_segment(data) != segment:
        raise ValueError("not canonical base64url")
    return data
