"""What is refused although it is properly signed, in memory: the request path asks here, never SQL.

`gateway.auth.setup` brings in what other workers and the command have revoked, every second.
"""

from collections.abc import Callable, Iterable

from gateway.auth.claims import Identity
from gateway.store.rows import IssuedToken, Revocation, RevocationKind


class RevocationList:
    """The revocations in force. They only ever come; one is forgotten when nothing it refuses can still be valid."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.on_change: Callable[[], object] = lambda: None  # called after something new is refused
        self._clock = clock
        self._tables: dict[RevocationKind, dict[str, Revocation]] = {kind: {} for kind in RevocationKind}
        self._tokens = self._tables[RevocationKind.TOKEN]
        self._sessions = self._tables[RevocationKind.SESSION]
        self._subjects = self._tables[RevocationKind.SUBJECT]

    def add(self, revocations: Iterable[Revocation]) -> None:
        """Refuse these too, from now on."""
        changed = False
        for revocation in revocations:
            table = self._tables[revocation.kind]
            known = table.get(revocation.target)
            if known is None or known.revoked_at < revocation.revoked_at:
                table[revocation.target] = revocation
                changed = True
        if changed:
            self.on_change()

    def forget(self) -> None:
        """Drop those that no longer matter, so that memory stays bounded."""
        now = self._clock()
        for table in self._tables.values():
            for target in [target for target, revocation in table.items() if revocation.expires_at <= now]:
                del table[target]

    def refuse_token(self, identity: Identity) -> bool:
        """Whether a verified token is revoked: itself, or all that its subject had been given by then."""
        principal = identity.principal
        return principal.token_id in self._tokens or self._refuse_subject(principal.subject, identity.issued_at)

    def refuse_record(self, record: IssuedToken) -> bool:
        """The same, of a token that was issued here."""
        return record.id in self._tokens or self._refuse_subject(record.subject, record.issued_at)

    def refuse_session(self, session_id: str, user_name: str, created_at: float) -> bool:
        """Whether a chat session was ended, or its user shut out after it began."""
        return session_id in self._sessions or self._refuse_subject(user_name, created_at)

    def _refuse_subject(self, subject: str, given_at: float) -> bool:
        revocation = self._subjects.get(subject)
        return revocation is not None and given_at <= revocation.revoked_at
