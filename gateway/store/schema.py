"""The tables. Times are Unix seconds; secrets appear only as hashes: a copy of the database signs nobody in.

A change here needs a migration beside it; `tests/unit/gateway/store` compares the two.
"""

from sqlalchemy import JSON, BigInteger, Column, Double, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text

HEAD = "0002"
"""The newest migration. Kept here so that a start on a current database need not load Alembic."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

users = Table(
    "users",
    metadata,
    Column("name", Text, primary_key=True),  # also the subject of everything the user does
    Column("display_name", Text, nullable=False),
    Column("team", Text),
    Column("plan", Text, nullable=False),
    Column("password_hash", Text),  # argon2id, encoded; null: cannot sign in by password
    Column("created_at", Double, nullable=False),
    Column("password_set_at", Double),
    Column("disabled_at", Double),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),  # public: names the session in lists and revocations
    Column("token_hash", LargeBinary, nullable=False, unique=True),  # SHA-256 of the cookie
    Column("user_name", Text, ForeignKey("users.name", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("ends_at", Double, nullable=False, index=True),
    Column("address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
)

issued_tokens = Table(
    "issued_tokens",
    metadata,
    Column("id", Text, primary_key=True),  # the claim `jti`; the token itself is never stored
    Column("subject", Text, nullable=False, index=True),
    Column("team", Text),
    Column("plan", Text, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("models", JSON, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("issued_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
)

revocations = Table(
    "revocations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),  # RevocationKind
    Column("target", Text, nullable=False),
    Column("revoked_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),  # nothing that it refuses can still be valid after this
    Index("ix_revocations_expires_at", "expires_at"),
    sqlite_autoincrement=True,  # an id is never used twice
)

usage = Table(
    "usage",
    metadata,
    Column("day", Text, primary_key=True),  # 2026-11-22, in limits.time_zone
    Column("subject", Text, primary_key=True, index=True),
    Column("team", Text, primary_key=True),  # empty: none
    Column("model", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("rejected", BigInteger, nullable=False),  # not among the requests
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),  # among the prompt's
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),  # among the completion's
)

record_positions = Table(
    "record_positions",
    metadata,
    Column("file", Text, primary_key=True),  # SHA-256 of its first line, which bears a time and a request id
    Column("position", BigInteger, nullable=False),  # so many bytes of it are in `usage`
    Column("read_at", Double, nullable=False),
)
