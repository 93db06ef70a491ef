"""The tables. Times are Unix seconds; secrets appear only as hashes: a copy of the database signs nobody in.

A change here needs a migration beside it; `tests/unit/gateway/store` compares the two.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

HEAD = "0003"
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
    Column("admin", Boolean, nullable=False, server_default=text("false")),  # may operate the engine and see everybody
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

_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts by itself only where it says INTEGER

# Beside these two stands `chat_search`, made by its migration: it is FTS5 on SQLite and a tsvector on PostgreSQL.
chats = Table(
    "chats",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("id", Text, nullable=False, unique=True),  # public, not to be guessed
    Column("owner", Text, ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
    Column("title", Text, nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("archived", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("deleted_at", Double),
    Column("version", BigInteger, nullable=False),  # grows with every change of it or of one of its messages
    Column("head", Text),  # the message that ends the branch last shown
    Column("params", JSON, nullable=False),
    Column("client_id", Text),  # of the page's choosing: the same one again is the same chat
    UniqueConstraint("owner", "client_id", name="uq_chats_owner_client_id"),
    Index("ix_chats_owner_updated_at", "owner", "updated_at"),
    Index("ix_chats_deleted_at", "deleted_at"),
    sqlite_autoincrement=True,
)

messages = Table(
    "messages",
    metadata,
    Column("number", _NUMBER, primary_key=True),  # the order in which they were made
    Column("id", Text, nullable=False, unique=True),
    Column("chat", Text, ForeignKey("chats.id", ondelete="CASCADE"), nullable=False),
    Column("parent", Text),
    Column("role", Text, nullable=False),  # user or assistant
    Column("content", Text, nullable=False),
    Column("reasoning", Text, nullable=False),
    Column("status", Text, nullable=False),  # gateway.store.chat_rows.Status
    Column("continues", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False),  # the chat's, when this was last changed
    Column("created_at", Double, nullable=False),
    Column("finish", Text),
    Column("error", JSON(none_as_null=True)),
    Column("model", Text),
    Column("params", JSON(none_as_null=True)),
    Column("usage", JSON(none_as_null=True)),
    Column("ttft_ms", Double),
    Column("tok_s", Double),
    Column("queued_ms", Double),
    Column("thought_ms", Double),
    Column("ended_at", Double),
    Column("client_id", Text),  # of the page's choosing: the same one again is the same run
    Column("worker", Text),  # who makes it
    Column("saved_at", Double),  # when its maker last wrote it
    UniqueConstraint("chat", "client_id", name="uq_messages_chat_client_id"),
    Index("ix_messages_chat_number", "chat", "number"),
    Index("ix_messages_running", "worker"),  # its migration says where: here that would load PostgreSQL's dialect
    sqlite_autoincrement=True,
)
