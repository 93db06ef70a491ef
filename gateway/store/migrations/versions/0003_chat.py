"""The chat: chats, messages, the search in them; users who are admins."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")

# Terms are made by gateway.store.search, so that both databases find the same. FTS5 with detail=none keeps only which
# rows have a term, which is all that is asked (https://www.sqlite.org/fts5.html#the_detail_option). Its tokenizer
# `ascii` takes every character beyond ASCII for part of a term: terms end at the spaces that are put between them.
_SEARCH = {
    "sqlite": ("CREATE VIRTUAL TABLE chat_search USING fts5(terms, detail=none, columnsize=0, tokenize=ascii)",),
    "postgresql": (
        "CREATE TABLE chat_search (rowid bigint PRIMARY KEY, terms tsvector NOT NULL)",
        "CREATE INDEX ix_chat_search_terms ON chat_search USING gin (terms)",
    ),
}


def upgrade() -> None:
    """Make the tables."""
    op.add_column("users", sa.Column("admin", sa.Boolean, nullable=False, server_default=sa.text("false")))
    op.create_table(
        "chats",
        sa.Column("number", _NUMBER, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("archived", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("deleted_at", sa.Double),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("head", sa.Text),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("client_id", sa.Text),
        sa.PrimaryKeyConstraint("number", name="pk_chats"),
        sa.UniqueConstraint("id", name="uq_chats_id"),
        sa.UniqueConstraint("owner", "client_id", name="uq_chats_owner_client_id"),
        sa.ForeignKeyConstraint(["owner"], ["users.name"], name="fk_chats_owner_users", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_chats_owner_updated_at", "chats", ["owner", "updated_at"])
    op.create_index("ix_chats_deleted_at", "chats", ["deleted_at"])
    op.create_table(
        "messages",
        sa.Column("number", _NUMBER, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("chat", sa.Text, nullable=False),
        sa.Column("parent", sa.Text),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("reasoning", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("continues", sa.Boolean, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("finish", sa.Text),
        sa.Column("error", sa.JSON),
        sa.Column("model", sa.Text),
        sa.Column("params", sa.JSON),
        sa.Column("usage", sa.JSON),
        sa.Column("ttft_ms", sa.Double),
        sa.Column("tok_s", sa.Double),
        sa.Column("queued_ms", sa.Double),
        sa.Column("thought_ms", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.Column("client_id", sa.Text),
        sa.Column("worker", sa.Text),
        sa.Column("saved_at", sa.Double),
        sa.PrimaryKeyConstraint("number", name="pk_messages"),
        sa.UniqueConstraint("id", name="uq_messages_id"),
        sa.UniqueConstraint("chat", "client_id", name="uq_messages_chat_client_id"),
        sa.ForeignKeyConstraint(["chat"], ["chats.id"], name="fk_messages_chat_chats", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_messages_chat_number", "messages", ["chat", "number"])
    running = sa.text("status = 'running'")
    op.create_index("ix_messages_running", "messages", ["worker"], sqlite_where=running, postgresql_where=running)
    for statement in _SEARCH[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: going back would throw everybody's chats away."""
    raise NotImplementedError("Gatehouse does not downgrade its database; restore the copy made before the upgrade")
