"""Alembic's migrations of the answer log; `steerable_llm.logs.database` runs them."""
