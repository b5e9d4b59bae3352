"""What alembic runs around the migrations: on the connection that it was given, in one step."""

from alembic import context

from steerable_llm.logs.database import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter most things in place; alembic then copies the table.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
