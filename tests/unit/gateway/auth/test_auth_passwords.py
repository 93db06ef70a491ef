"""Passwords: argon2id, in few threads, with the same work for everybody."""

import unicodedata
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.profiles import RFC_9106_LOW_MEMORY

from gateway.auth.passwords import Passwords, generate_password
from gateway.auth.users import InvalidName, normal_name
from gateway.errors import BadRequest

PASSWORD = "correct horse battery"

pytestmark = pytest.mark.usefixtures("costly_passwords")


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    """A hasher with its threads."""
    made = Passwords()
    yield made
    made.close()


async def test_round_trip(passwords: Passwords) -> None:
    """A hash is argon2id with RFC 9106's parameters, salted, and fits its password only."""
    first, second = await passwords.hash(PASSWORD), await passwords.hash(PASSWORD)
    assert first.startswith("$argon2id$")
    assert extract_parameters(first) == RFC_9106_LOW_MEMORY
    assert first != second
    assert await passwords.verify(first, PASSWORD) is True
    assert await passwords.verify(first, PASSWORD + " ") is False
    assert passwords.outdated(first) is False


async def test_nobody_costs_the_same(passwords: Passwords) -> None:
    """For a user who is not there a hash of the same parameters is worked on, and never fits."""
    assert await passwords.verify(None, PASSWORD) is False
    assert extract_parameters(passwords._nobodys) == RFC_9106_LOW_MEMORY
    assert not PasswordHasher().check_needs_rehash(passwords._nobodys)


@pytest.mark.parametrize("encoded", ["", "plain", "$argon2id$v=19$m=65536,t=3,p=4$broken", "$2b$12$bcrypt"])
async def test_broken_hashes_fit_nothing(passwords: Passwords, encoded: str) -> None:
    """What is no argon2 hash fits no password, not even itself."""
    assert await passwords.verify(encoded, encoded) is False


async def test_accents_however_typed(passwords: Passwords) -> None:
    """Composed and decomposed accents are one password."""
    composed = unicodedata.normalize("NFC", "pässwörter für alle")
    encoded = await passwords.hash(composed)
    assert await passwords.verify(encoded, unicodedata.normalize("NFD", composed)) is True


async def test_surrogates_do_not_crash(passwords: Passwords) -> None:
    """A lone surrogate, which JSON can carry, is just a wrong password."""
    assert await passwords.verify(None, "\ud800" * 12) is False


@pytest.mark.parametrize("length", [0, 9, 257])
async def test_length(passwords: Passwords, length: int) -> None:
    """Length is the only rule; the message says the bounds."""
    with pytest.raises(BadRequest, match="10 to 256"):
        await passwords.hash("x" * length)


def test_generated_passwords() -> None:
    """Made passwords are long, different, and easy to type."""
    made = {generate_password() for _ in range(100)}
    assert len(made) == 100
    assert all(len(password) == 23 and password.isascii() for password in made)


@pytest.mark.parametrize("name", ["", " ", "-x", ".x", "a b", "a\nb", "a/b", "x" * 65, "a;b", "\ud800", "a\u202eb"])
def test_names_that_cannot_be(name: str) -> None:
    """Names without a plain spelling are refused."""
    with pytest.raises(InvalidName):
        normal_name(name)


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("Ada", "ada"),
        (" ada ", "ada"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("张伟", "张伟"),
        ("ada.l+x@team-1", "ada.l+x@team-1"),
        ("Ⅷ", "viii"),
    ],
)
def test_names_have_one_spelling(name: str, normal: str) -> None:
    """Names that look alike to a person are one name."""
    assert normal_name(name) == normal
