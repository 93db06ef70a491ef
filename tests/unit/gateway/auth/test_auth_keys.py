"""The signing key's file: made once, private, strong, and never repeated in an error."""

import multiprocessing
import os
import stat
from pathlib import Path
from typing import Any

import jwt
import pytest

from gateway.auth.keys import (
    Key,
    KeyFileError,
    KeySet,
    decode_segment,
    key_file,
    load_keys,
    make_secret_file,
    read_secret_file,
)
from gateway.config import AuthSettings, Config, EngineTarget
from tests.unit.gateway.auth.foreign import key_of
from tests.unit.gateway.auth.house import SECRET


def config(state_dir: Path, **auth: object) -> Config:
    return Config(state_dir=state_dir, engine=EngineTarget(url="http://127.0.0.1:1"), auth=AuthSettings(**auth))


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_first_start_makes_the_key(tmp_path: Path) -> None:
    """The first start makes 48 random bytes in base64url, mode 0600 in a directory of mode 0700; the next reads them."""
    state_dir = tmp_path / "new" / "state"
    keys = load_keys(config(state_dir))
    path = state_dir / "jwt.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700
    assert len(decode_segment(path.read_text().strip())) == 48
    assert load_keys(config(state_dir)).signing == keys.signing
    assert [entry.name for entry in state_dir.iterdir()] == ["jwt.key"]


def test_an_open_umask_does_not_open_the_key(tmp_path: Path) -> None:
    """The mode is 0600 whatever the umask."""
    before = os.umask(0)
    try:
        make_secret_file(tmp_path / "jwt.key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "jwt.key").stat().st_mode) == 0o600


def start_once(path: Path, barrier: Any, answers: Any) -> None:
    barrier.wait(30)
    answers.put((make_secret_file(path), Key.from_secret(read_secret_file(path)).kid))


def test_starters_agree(tmp_path: Path) -> None:
    """Of many processes that start at once, all end up with one key and nothing else is left."""
    for round_ in range(5):
        path = tmp_path / str(round_) / "jwt.key"
        processes = multiprocessing.get_context("fork")
        barrier, answers = processes.Barrier(8), processes.SimpleQueue()
        starters = [processes.Process(target=start_once, args=(path, barrier, answers)) for _ in range(8)]
        for starter in starters:
            starter.start()
        seen = [answers.get() for _ in starters]
        for starter in starters:
            starter.join(30)
        assert [made for made, _ in seen].count(True) == 1
        assert len({kid for _, kid in seen}) == 1
        assert os.listdir(path.parent) == ["jwt.key"]


def test_a_key_that_appears_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A starter that lost the race leaves the winner's key as it is."""
    path = write(tmp_path / "jwt.key", SECRET)
    monkeypatch.setattr(Path, "exists", lambda _: False)  # as it was when the loser looked
    assert make_secret_file(path) is False
    assert path.read_bytes() == SECRET
    assert os.listdir(tmp_path) == ["jwt.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666, 0o610, 0o601])
def test_others_may_not_touch_it(tmp_path: Path, mode: int) -> None:
    """A key that group or others may read or change is refused, with the command that helps."""
    path = write(tmp_path / "jwt.key", SECRET, mode)
    with pytest.raises(KeyFileError, match=f"mode {mode:04o}.*chmod 600"):
        read_secret_file(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_private_modes_pass(tmp_path: Path, mode: int) -> None:
    """A key that only its owner may read is accepted; white space around it does not count."""
    assert read_secret_file(write(tmp_path / "jwt.key", b"  " + SECRET + b"\r\n", mode)) == SECRET


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes"),
        (b"\n" * 64, "0 bytes"),
        (b"secret-secret-secret-12345678901", "a few|31 bytes"),
        (SECRET[:31], "31 bytes"),
        (b"a" * 64, "repeats"),
        (b"0123012301230123" * 4, "repeats"),
        (SECRET * 100, "longer than 4096"),
    ],
)
def test_weak_secrets_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    """Empty, short, repetitive and oversized secrets are refused; the text does not repeat them."""
    if content.startswith(b"secret"):
        content = content[:31]
    with pytest.raises(KeyFileError, match=reason) as refused:
        read_secret_file(write(tmp_path / "jwt.key", content))
    assert not content.strip() or content.strip().decode() not in str(refused.value)


def test_the_shortest_secret(tmp_path: Path) -> None:
    """32 bytes are enough."""
    assert read_secret_file(write(tmp_path / "jwt.key", SECRET[:32])) == SECRET[:32]


def test_a_configured_key_must_exist(tmp_path: Path) -> None:
    """A configured file is never made: a misspelt path would log everybody out."""
    wrong = config(tmp_path, secret_file=tmp_path / "typo.key")
    with pytest.raises(KeyFileError, match=r"typo\.key: cannot read the signing key: No such file"):
        load_keys(wrong)
    assert list(tmp_path.iterdir()) == []
    assert key_file(wrong) == tmp_path / "typo.key"


def test_not_a_file(tmp_path: Path) -> None:
    """A directory or a device is not a key."""
    (tmp_path / "jwt.key").mkdir()
    with pytest.raises(KeyFileError, match="Is a directory"):
        load_keys(config(tmp_path))
    with pytest.raises(KeyFileError, match="not a regular file"):
        load_keys(config(tmp_path, secret_file=Path("/dev/zero")))


def test_a_state_dir_that_cannot_be(tmp_path: Path) -> None:
    """Where no file can be made the message says so."""
    write(tmp_path / "file", b"")
    with pytest.raises(KeyFileError, match="cannot make the signing key: File exists"):
        make_secret_file(tmp_path / "file" / "jwt.key")


def test_the_key_does_not_show_itself() -> None:
    """Neither the secret nor the key built from it appears in a key's text."""
    key = Key.from_secret(SECRET)
    assert repr(key) == f"Key(kid='{key.kid}', algorithm='HS256')"
    assert SECRET.decode() not in f"{key} {KeySet([key]).__dict__}"


def test_only_a_secret_gives_secrets() -> None:
    """Other secrets are derived from a symmetric key; a public key, which everybody knows, gives none."""
    assert Key.from_secret(SECRET).secret == SECRET
    with pytest.raises(TypeError):
        _ = key_of("ES256").secret


def test_the_id_belongs_to_the_secret() -> None:
    """Hosts that share a secret agree on its `kid`; another secret has another."""
    assert Key.from_secret(SECRET).kid == Key.from_secret(SECRET).kid
    assert Key.from_secret(SECRET).kid != Key.from_secret(SECRET[::-1]).kid


def test_a_set_needs_a_key() -> None:
    """No verifier is ever built with nothing to verify by."""
    with pytest.raises(ValueError, match="needs a key"):
        KeySet([])


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_signs_and_verifies_as_others_do(algorithm: str) -> None:
    """PyJWT accepts what a secret signs, and the key what PyJWT signs with it."""
    secret = SECRET * 2
    key = Key.from_secret(secret, algorithm, "k")
    assert jwt.decode(key.sign(b'{"sub":"ada"}'), secret, [algorithm]) == {"sub": "ada"}
    signing_input, _, signature = jwt.encode({"sub": "ada"}, secret, algorithm).rpartition(".")
    assert key.verify(signing_input.encode(), decode_segment(signature))
    assert not key.verify(signing_input.encode() + b"x", decode_segment(signature))
