"""People who sign in to the chat: names, passwords, and what happens when one is added, disabled or signs in."""

import contextlib
import math
import re
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from gateway.auth.passwords import Passwords
from gateway.auth.throttle import BackOff
from gateway.config import AuthSettings
from gateway.errors import Forbidden, TooManyRequests, Unauthorized, Unavailable
from gateway.store import Revocation, RevocationKind, Store, StoreError, User

_NAME = re.compile(r"\w[\w.@+-]{0,63}")  # \w: letters and digits of any script


@dataclass(frozen=True, slots=True)
class Person:
    """Who signed in at an identity provider, as it says."""

    name: str  # of the account
    display_name: str
    team: str | None
    plan: str
    directed: bool  # whether it is the provider that says the plan; if not, `plan` is a new user's


class InvalidName(ValueError):
    """A user name that cannot be; the text says what is expected."""


def account_name(name: str) -> str:
    """The name of an account that exists: a user's own, or `ISSUER:SUBJECT` as its issuer spells it."""
    return name.strip() if ":" in name else normal_name(name)


def normal_name(name: str) -> str:
    """The one spelling of a user name: NFKC, lower case. InvalidName when it has none."""
    normal = unicodedata.normalize("NFKC", name.strip()).casefold()
    if not _NAME.fullmatch(normal):
        raise InvalidName("a user name has 1 to 64 letters, digits or . _ @ + -, and starts with a letter or digit")
    return normal


def revoked_until(auth: AuthSettings, now: float) -> float:
    """When no token and no session that exists now can be valid any more."""
    days = max(float(auth.max_token_days), auth.session_max_days)
    return now + days * 86_400 + auth.leeway_seconds


@contextlib.contextmanager
def store_needed() -> Iterator[None]:
    """Turn StoreError into the answer of a request that cannot do without the database."""
    try:
        yield
    except StoreError:
        raise Unavailable("Signing in and out is not possible now; try again.", code="sessions_unavailable") from None


class Users:
    """What can be done with users; records live in the store."""

    def __init__(
        self,
        store: Store,
        auth: AuthSettings,
        passwords: Passwords,
        throttle: BackOff,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._auth = auth
        self._passwords = passwords
        self._throttle = throttle
        self._clock = clock

    async def sign_in(self, name: str, password: str, address: str) -> User:
        """The user whom name and password prove.

        Unauthorized says the same whatever was wrong, after the same work; TooManyRequests when guesses came too fast.
        """
        try:
            account = normal_name(name)
        except InvalidName:
            account = ""  # nobody's; guessed at like any other
        await self._admit(account, address)
        with store_needed():
            user = await self._store.users.find(account)
        encoded = None if user is None or user.disabled_at is not None else user.password_hash
        proven = await self._passwords.verify(encoded, password)
        if user is None or encoded is None or not proven:
            raise Unauthorized("The name or the password is wrong.", code="invalid_credentials")
        await self._throttle.succeeded(account, address)
        if self._passwords.outdated(encoded):
            encoded = await self._passwords.hash(password)
            with contextlib.suppress(StoreError):  # the next login will do
                await self._store.users.change(account, password_hash=encoded)
        return user

    async def add(self, name: str, password: str, *, display_name: str | None, team: str | None, plan: str) -> bool:
        """Make a user; False when the name is taken. InvalidName, or BadRequest for the password's length."""
        normal = normal_name(name)
        now = self._clock()
        return await self._store.users.add(
            User(
                name=normal,
                display_name=display_name or name.strip(),
                team=team,
                plan=plan,
                created_at=now,
                password_hash=await self._passwords.hash(password),
                password_set_at=now,
            )
        )

    async def set_password(self, name: str, password: str) -> bool:
        """Replace the password and end every session; False when there is no such user."""
        now = self._clock()
        encoded = await self._passwords.hash(password)
        return await self._store.users.set_password(
            normal_name(name), encoded, now=now, until=revoked_until(self._auth, now)
        )

    async def disable(self, name: str) -> bool:
        """Shut a user out at once: no sign-in, no session, no token issued until now. False when there is none."""
        now = self._clock()
        return await self._store.users.disable(account_name(name), now=now, until=revoked_until(self._auth, now))

    async def enable(self, name: str) -> bool:
        """Let a user sign in again; what was revoked stays revoked. False when there is none."""
        return await self._store.users.change(account_name(name), disabled_at=None)

    async def welcome(self, person: Person) -> User:
        """The user whom an identity provider has proven, made at the first sign-in; Forbidden when disabled.

        Later sign-ins bring up to date what the provider says.
        """
        name, now = person.name, self._clock()
        with store_needed():
            await self._store.users.add(User(name, person.display_name, person.team, person.plan, created_at=now))
            user = await self._store.users.find(name)
            if user is None or user.disabled_at is not None:
                raise Forbidden("Your account is disabled.", code="account_disabled")
            current = replace(
                user,
                display_name=person.display_name,
                team=user.team if person.team is None else person.team,
                plan=person.plan if person.directed else user.plan,
            )
            if current != user:
                changes = {key: getattr(current, key) for key in ("display_name", "team", "plan")}
                await self._store.users.change(name, **changes)
        return current

    async def revoke(self, kind: RevocationKind, target: str) -> Revocation:
        """Refuse a token or all that a subject has been given until now, on every worker within a second."""
        now = self._clock()
        revocation = Revocation(kind, target, now, revoked_until(self._auth, now))
        await self._store.revocations.add([revocation])
        return revocation

    async def _admit(self, account: str, address: str) -> None:
        wait = await self._throttle.attempt(account, address)
        if wait > 0:
            raise TooManyRequests(
                "Too many attempts to sign in; wait a little.",
                code="login_throttled",
                headers={"Retry-After": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))},
            )
