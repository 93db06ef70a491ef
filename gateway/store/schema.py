"""The tables. Times are Unix seconds; secrets appear only as hashes: a copy of the database signs nobody in.

A change here needs a migration beside it; `tests/unit/gateway/store` compares the two.
"""

from sqlalchemy import JSON, Column, Double, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text

HEAD = "0001"
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
