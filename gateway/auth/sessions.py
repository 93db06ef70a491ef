"""Chat sessions: the cookie holds a random value, SQL its hash, memory what it stands for.

The first request of a session on a worker reads SQL; from then on `refresh`, in the background, keeps what is known
current. So a request does not wait for SQL, sessions go on while SQL is away, and ending one takes effect at once here
(and within a second elsewhere, by the revocation list).
"""

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from gateway.auth.keys import fingerprint
from gateway.auth.revocations import RevocationList
from gateway.auth.users import revoked_until, store_needed
from gateway.config import AuthSettings
from gateway.context import Principal, Via
from gateway.errors import Forbidden, Unauthorized, Unavailable
from gateway.store import Revocation, RevocationKind, Session, Store, User

SCOPES = frozenset({"api", "chat"})
MAX_KNOWN = 10_000
SEEN_SECONDS = 60  # how exact `seen_at` in SQL is
_COOKIE = re.compile(r"[A-Za-z0-9_-]{43}")
_HOUR, _DAY = 3600, 86_400


@dataclass(slots=True)
class SignedIn:
    """A session in use: whose it is, and when it was last used here."""

    session: Session
    user: User
    principal: Principal
    used_at: float


class Sessions:
    """Begins, recognises and ends chat sessions. Times are Unix seconds."""

    def __init__(
        self,
        store: Store,
        auth: AuthSettings,
        plans: Collection[str],
        revocations: RevocationList,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._auth = auth
        self._plans = plans
        self._revocations = revocations
        self._clock = clock
        self._known: OrderedDict[bytes, SignedIn] = OrderedDict()

    async def begin(self, user: User, *, address: str, user_agent: str) -> str:
        """Start a session; returns the cookie's value, which is kept nowhere else."""
        now = self._clock()
        cookie = secrets.token_urlsafe(32)
        session = Session(
            id=secrets.token_hex(10),
            token_hash=fingerprint(cookie),
            user_name=user.name,
            created_at=now,
            seen_at=now,
            ends_at=now + self._auth.session_max_days * _DAY,
            address=address[:64],
            user_agent=user_agent[:256],
        )
        with store_needed():
            await self._store.sessions.add(session)
        return cookie

    async def resolve(self, cookie: str) -> SignedIn:
        """The session of a cookie. Unauthorized when it is over, Unavailable when SQL is needed and away."""
        if not _COOKIE.fullmatch(cookie):
            raise _over()
        digest = fingerprint(cookie)
        signed_in = self._known.get(digest)
        if signed_in is None:
            signed_in = await self._find(digest)
        now = self._clock()
        session = signed_in.session
        if now >= self.expires_at(signed_in) or self._revocations.refuse_session(
            session.id, session.user_name, session.created_at
        ):
            self._known.pop(digest, None)
            raise _over()
        signed_in.used_at = now
        return signed_in

    def refusal(self, signed_in: SignedIn) -> Unauthorized | None:
        """Why a session that was good earlier counts no more."""
        session = signed_in.session
        ended = self._revocations.refuse_session(session.id, session.user_name, session.created_at)
        return _over() if ended else None

    async def is_over(self, signed_in: SignedIn) -> bool:
        """Whether a session that was good earlier has ended; asking is no use of it."""
        if self.refusal(signed_in) is not None:
            return True
        if self._clock() < self.expires_at(signed_in):
            return False
        digest = signed_in.session.token_hash  # it may have been used since, through another record of it
        try:
            current = self._known.get(digest) or await self._find(digest)
        except (Unauthorized, Forbidden):
            return True
        except Unavailable:
            return False
        return self._clock() >= self.expires_at(current)

    def expires_at(self, signed_in: SignedIn) -> float:
        """When the session ends if it is not used again."""
        last_used = max(signed_in.used_at, signed_in.session.seen_at)
        return min(signed_in.session.ends_at, last_used + self._auth.session_idle_hours * _HOUR)

    async def end(self, session_id: str) -> None:
        """End one session."""
        now = self._clock()
        until = revoked_until(self._auth, now)
        with store_needed():
            await self._store.sessions.end(session_id, now=now, until=until)
        self._revocations.add([Revocation(RevocationKind.SESSION, session_id, now, until)])

    async def end_all(self, user_name: str) -> None:
        """End every session of a user."""
        now = self._clock()
        until = revoked_until(self._auth, now)
        with store_needed():
            ended = await self._store.users.end_sessions(user_name, now=now, until=until)
        self._revocations.add(Revocation(RevocationKind.SESSION, session_id, now, until) for session_id in ended)

    async def refresh(self) -> None:
        """Bring what is known up to date with SQL, and SQL with what was used. StoreError leaves all as it was."""
        now = self._clock()
        in_use = {key: known for key, known in self._known.items() if now - known.used_at < SEEN_SECONDS}
        seen = {
            known.session.id: known.used_at
            for known in self._known.values()
            if known.used_at - known.session.seen_at >= SEEN_SECONDS
        }
        if seen:
            await self._store.sessions.seen(seen)
        current = await self._store.sessions.find(in_use, now) if in_use else {}
        for key, known in list(self._known.items()):
            if key in current and current[key][1].plan in self._plans:
                known.session, known.user = current[key]
                known.principal = self._principal(known.user)
            elif key in in_use or now - known.used_at >= SEEN_SECONDS:
                del self._known[key]  # ended, or asleep: its next request asks SQL

    async def _find(self, digest: bytes) -> SignedIn:
        now = self._clock()
        with store_needed():
            found = await self._store.sessions.find([digest], now)
        if digest not in found:
            raise _over()
        session, user = found[digest]
        if user.plan not in self._plans:
            raise Forbidden(
                "Your account's plan does not exist any more; ask who runs this service.", code="unknown_plan"
            )
        signed_in = SignedIn(session, user, self._principal(user), used_at=session.seen_at)
        self._known[digest] = signed_in
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return signed_in

    def _principal(self, user: User) -> Principal:
        scopes = SCOPES | {"admin"} if user.admin else SCOPES
        return Principal(user.name, user.team, scopes, user.plan, (), None, Via.SESSION)


def _over() -> Unauthorized:
    return Unauthorized("You are not signed in, or no longer.", code="session_expired")
