"""Alembic's entry: it runs inside the transaction that `gateway.store.migrate` has begun."""

from alembic import context

from gateway.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # PostgreSQL can; SQLite too, once sqlite3 is kept from committing by itself
    render_as_batch=True,  # SQLite cannot alter a column: Alembic copies the table
)
with context.begin_transaction():
    context.run_migrations()
